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

// Words go through two places from one warp to the other, whose first lane gives a place back for all.
PROBE(ring, 64) {
  SMEM_EXTERN(window);
  const uint32_t bar = ptx::smem_u32(window);
  auto* words = reinterpret_cast<uint32_t*>(window + 128);
  const auto full = [=](int slot) { return bar + 8 * slot; };
  const auto empty = [=](int slot) { return bar + 16 + 8 * slot; };
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < 2; slot++) ptx::mbar_init(full(slot), 1), ptx::mbar_init(empty(slot), 1);
  }
  __syncthreads();
  RingSlot at;
  uint32_t sum = 0;
  for (int round = 0; round < 64; round++) {
    if (threadIdx.x == 0) {
      mbar_wait(empty(at.slot), at.parity ^ 1);
      words[at.slot] = p.in[round];
      ptx::mbar_arrive(full(at.slot));
    } else if (threadIdx.x >= 32) {
      mbar_wait(full(at.slot), at.parity);
      if (lane == 0) sum += words[at.slot];
      if (p.fault != 1) __syncwarp();
      if (lane == 0) ptx::mbar_arrive(empty(at.slot));
    }
    advance<2>(at);
  }
  if (threadIdx.x == 32) p.out[0] = sum;
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
