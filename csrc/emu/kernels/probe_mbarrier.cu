// Transaction barriers without copies.
#include "probe.cuh"

// Threads hand a value on through shared memory, one phase a round.
PROBE(phases, 64) {
  SMEM_EXTERN(window);
  const uint32_t bar = ptx::smem_u32(window);
  auto* words = reinterpret_cast<uint32_t*>(window + 128);
  const int i = threadIdx.x;
  if (i == 0 && p.fault != 6) ptx::mbar_init(bar, p.fault == 2 ? 65 : 64);
  if (p.fault != 7) __syncthreads();
  uint32_t v = p.in[i];
  for (int round = 0; round < 4; round++) {
    words[round * 64 + i] = v;
    if (p.fault == 5 && i == 0 && round == 2) *reinterpret_cast<volatile uint32_t*>(window) = 1;
    ptx::mbar_arrive(bar);
    if (p.fault != 3) mbar_wait(bar, (round + (p.fault == 1 ? 1 : 0)) & 1);
    v = words[round * 64 + (i + 1) % 64] + 1;
  }
  p.out[i] = v;
}

// test_wait in a loop; the barrier is invalidated and made anew.
PROBE(test_wait, 64) {
  SMEM_EXTERN(window);
  const uint32_t bar = ptx::smem_u32(window);
  auto* words = reinterpret_cast<uint32_t*>(window + 128);
  const int i = threadIdx.x;
  uint32_t v = p.in[i];
  for (int round = 0; round < 2; round++) {
    if (i == 0) ptx::mbar_init(bar, 64);
    __syncthreads();
    words[i] = v;
    ptx::mbar_arrive(bar);
    while (!ptx::mbar_test_wait(bar, 0)) ptx::sleep_ns(20);
    v = words[i ^ 5] + 3;
    __syncthreads();
    if (i == 0 && p.fault != 1) ptx::mbar_inval(bar);
  }
  p.out[i] = v;
}

// One lane waits and passes on to its warp.
PROBE(lane_waits, 64) {
  SMEM_EXTERN(window);
  const uint32_t bar = ptx::smem_u32(window);
  auto* words = reinterpret_cast<uint32_t*>(window + 128);
  const int i = threadIdx.x;
  if (i == 0) ptx::mbar_init(bar, 32);
  __syncthreads();
  if (i < 32) {
    words[i] = p.in[i];
    ptx::mbar_arrive(bar);
  } else {
    if (i == 32) mbar_wait(bar, 0);
    if (p.fault != 1) __syncwarp();
    p.out[i - 32] = words[i - 32];
  }
}
