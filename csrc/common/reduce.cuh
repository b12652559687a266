// Sums over the lanes that share a row, in one order that depends on their number alone.
#pragma once
#include "../ptx/ptx.cuh"

// The sum over `LANES` neighbouring lanes, in each of them; at most a warp.
template <int LANES>
PTX_FN float sum_lanes(float v) {
#pragma unroll
  for (int mask = LANES / 2; mask; mask /= 2) v += ptx::shfl_xor(v, mask);
  return v;
}

// The sum over `LANES` threads, a multiple of 32, that all come here with the named barrier
// `barrier` for their own; `scratch` has LANES/32 floats that nobody reads any more.
template <int LANES>
PTX_FN float sum_warps(float v, float* scratch, int barrier, int thread) {
  v = sum_lanes<32>(v);
  if (thread % 32 == 0) scratch[thread / 32] = v;
  ptx::bar_sync(barrier, LANES);
  float total = scratch[0];
#pragma unroll
  for (int w = 1; w < LANES / 32; w++) total += scratch[w];
  return total;
}
