// Exchange within a warp and named barriers.
#include "probe.cuh"

PROBE(exchange, 64) {
  const int i = threadIdx.x, lane = i % 32;
  const uint32_t v = p.in[i];
  switch (p.arg[0]) {
    case 0: p.out[i] = ptx::float_bits(ptx::shfl_xor(ptx::bits_float(v), p.arg[1])); break;
    case 1: p.out[i] = ptx::shfl_idx(v, (lane * p.arg[1] + p.arg[2]) % 32); break;
    case 2: p.out[i] = ptx::ballot((v & 1) != 0); break;
    case 3: {  // one lane, whichever
      const uint32_t all = ptx::ballot(ptx::elect_one());
      p.out[i] = all != 0 && (all & (all - 1)) == 0;
      break;
    }
  }
}

// Lane i reads what lane i ^ 1 wrote.
PROBE(neighbour, 32) {
  SMEM_EXTERN(window);
  auto* words = reinterpret_cast<uint32_t*>(window);
  const int i = threadIdx.x;
  words[i] = p.in[i];
  if (p.fault != 1) __syncwarp();
  p.out[i] = words[i ^ 1];
}

// A warp whose lanes are at different instructions.
PROBE(divergent, 32) {
  if (p.fault == 1 && threadIdx.x < 16) {
    p.out[threadIdx.x] = ptx::ballot(true);
  } else {
    p.out[threadIdx.x] = ptx::shfl_idx(p.in[threadIdx.x], 0);
  }
}

// Thread i reads what the last but i wrote.
PROBE(block_barrier, 128) {
  SMEM_EXTERN(window);
  auto* words = reinterpret_cast<uint32_t*>(window);
  const int i = threadIdx.x;
  words[i] = p.in[i];
  if (p.fault == 2 && i >= 96) return;
  if (p.fault == 3 && i % 32 < 16) return;
  if (p.fault != 1) __syncthreads();
  p.out[i] = words[127 - i];
}

// Warps 0 to 3 produce, warps 4 to 7 consume, twice.
PROBE(named_barrier, 256) {
  SMEM_EXTERN(window);
  auto* words = reinterpret_cast<uint32_t*>(window);
  const int i = threadIdx.x % 128;
  for (int round = 0; round < 2; round++) {
    if (threadIdx.x < 128) {
      if (round && p.fault != 4) ptx::bar_sync(2, 256);
      words[i] = p.in[round * 128 + i];
      ptx::bar_arrive(p.fault == 1 ? 3 : 1, p.fault == 3 ? 128 : 256);
    } else {
      if (p.fault != 2) ptx::bar_sync(1, 256);
      p.out[round * 128 + i] = words[127 - i];
      if (!round && p.fault != 4) ptx::bar_arrive(2, 256);
    }
  }
}

// Warpgroup 0 gives registers away, warpgroup 1 takes them.
PROBE(registers, 256) {
  if (threadIdx.x < 128) {
    if (p.fault == 2) ptx::setmaxnreg_dec<232>();
    if (p.fault == 3 && threadIdx.x < 32) ptx::setmaxnreg_dec<48>();
    else if (p.fault != 1) ptx::setmaxnreg_dec<40>();
#if !defined(__CUDACC__)
    if (p.fault == 5) ptx::setmaxnreg_dec<20>();  // ptxas refuses it
#endif
  } else {
    if (p.fault == 4) ptx::setmaxnreg_inc<96>();
    ptx::setmaxnreg_inc<232>();
  }
  p.out[threadIdx.x] = p.in[threadIdx.x];
}
