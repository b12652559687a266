// Plain accesses, flags and atomics in global memory, bounded waits.
#include "probe.cuh"

// Word arg[0] of shared memory and word arg[1] of `in` to word arg[2] of `out`.
PROBE(access, 32) {
  SMEM_EXTERN(window);
  auto* words = reinterpret_cast<uint32_t*>(window);
  if (p.fault != 1 && threadIdx.x == 0) words[p.arg[0]] = p.arg[3];
  __syncwarp();
  if (threadIdx.x == 0) p.out[p.arg[2]] = words[p.arg[0]] + p.in[p.arg[1]];
}

// Sixteen bytes from byte arg[0] of shared and global memory on.
PROBE(wide_access, 32) {
  SMEM_EXTERN(window);
  auto* shared = reinterpret_cast<uint4*>(window + (p.fault == 1 ? p.arg[0] : 16 * threadIdx.x));
  const auto* bytes = reinterpret_cast<const unsigned char*>(p.in);
  const auto* in = reinterpret_cast<const uint4*>(bytes + (p.fault == 2 || p.fault == 3 ? p.arg[0] : 16 * threadIdx.x));
  if (p.fault == 1 && threadIdx.x != 0) return;
  const uint4 v = p.fault == 3 ? ptx::ld_stream(in) : *in;
  *shared = v;
  auto* out = reinterpret_cast<unsigned char*>(p.out) + 16 * threadIdx.x + (p.fault == 4 ? p.arg[0] : 0);
  ptx::st_stream(reinterpret_cast<uint4*>(out), *shared);
}

// Block 0 writes and releases, block 1 acquires and reads. arg[0]: 1 hands on by atomics.
PROBE(hand_over, 64) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    p.out[i] = p.in[i] + 1;
    if (p.fault != 2) __syncthreads();
    if (i == 0) p.arg[0] ? ptx::red_add_gpu(p.flag, 1) : ptx::st_release_gpu(p.flag, 1);
  } else {
    if (i == 0 && p.fault != 3) {
      if (p.arg[0]) {
        while (ptx::atom_add_gpu(p.flag, 0) == 0) ptx::sleep_ns(20);
      } else {
        while (ptx::ld_acquire_gpu(p.flag) == 0) ptx::sleep_ns(20);
      }
    }
    if (p.fault != 1) __syncthreads();
    p.out[64 + i] = p.out[63 - i];
  }
}

// Every block writes its part; the last to come adds them up.
PROBE(last_block, 32) {
  const int i = threadIdx.x, blocks = gridDim.x;
  p.out[32 + blockIdx.x * 32 + i] = p.in[blockIdx.x * 32 + i];
  if (p.fault != 1) __syncwarp();
  uint32_t before = 0;
  if (i == 0) before = ptx::atom_add_gpu(p.flag, 1);
  before = ptx::shfl_idx(before, 0);
  if (before != static_cast<uint32_t>(blocks - 1)) return;
  if (p.fault != 2) __syncwarp();
  uint32_t sum = 0;
  for (int b = 0; b < blocks; b++) sum += p.out[32 + b * 32 + i];
  p.out[i] = sum;
}

// Each block waits for the block after it: all must be resident.
PROBE(chain, 32) {
  if (threadIdx.x == 0) {
    if (blockIdx.x + 1 < gridDim.x) {
      while (ptx::ld_acquire_gpu(p.flag + blockIdx.x + 1) == 0) ptx::sleep_ns(20);
    }
    ptx::st_release_gpu(p.flag + blockIdx.x, 1);
    p.out[blockIdx.x] = blockIdx.x;
  }
}

// Two blocks and one word.
PROBE(same_word, 32) {
  if (threadIdx.x != 0) return;
  if (p.fault == 1) p.out[0] = 5;
  if (p.fault == 2) p.out[0] += 1;
  if (p.fault == 0) ptx::red_add_gpu(p.out, p.in[0]);
  if (p.fault == 3) blockIdx.x ? ptx::red_add_gpu(p.out, 1) : void(p.out[0] = 5);
}

// The first to claim the word.
PROBE(claim, 64) {
  if (ptx::atom_claim_sys(p.flag, threadIdx.x + 1) == 0) p.out[0] = 1;
}

// Reads a flag and data of another agent; gives up after arg[0] microseconds, or never.
PROBE(bounded_wait, 32) {
  if (threadIdx.x != 0) return;
  const uint64_t start = ptx::global_timer_ns(), limit = static_cast<uint64_t>(p.arg[0]) * 1000;
  while (ptx::ld_acquire_sys(p.flag) == 0) {
    if (p.arg[0] && ptx::global_timer_ns() - start > limit) {
      p.out[0] = 0xdead;
      return;
    }
    ptx::sleep_ns(100);
  }
  p.out[0] = p.in[0];
}

// Reads what the launch before it wrote.
PROBE(dependent, 32) {
  if (p.fault == 1) p.out[threadIdx.x] = p.in[threadIdx.x];
  if (p.fault != 2) ptx::grid_dependency_wait();
  if (p.fault != 1) p.out[threadIdx.x] = p.in[threadIdx.x];
  ptx::grid_launch_dependents();
}
