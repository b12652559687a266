// One tiny kernel a primitive, for the conformance suite and the tests of the emulation's checks
// (tests/emulated_ptx.rs). `fault` 0 is correct; each other value is one mistake that the emulation
// must report. Compilable by nvcc too, so that a GPU can be asked for the same outputs.
#pragma once
#include "../../common/barrier.cuh"
#include "../../common/entry.cuh"

struct Probe {
  SeqparTensorMap map;
  const uint32_t* in;
  uint32_t* out;
  uint32_t* flag;
  int32_t arg[6];
  int32_t bytes;
  int32_t fault;
};

#define PROBE(name, threads) SEQPAR_KERNEL(probe_##name, Probe, threads, 1)

// The first multiple of 1024 in the block's shared memory.
PTX_FN unsigned char* align_1024(unsigned char* window) { return window + ((0u - ptx::smem_u32(window)) & 1023u); }

PTX_FN void copy_words(uint32_t* to, const uint32_t* from, int bytes) {
  for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) to[i] = from[i];
}
