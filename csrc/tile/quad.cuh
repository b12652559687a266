// The four lanes that share a row of an accumulator tile (mma.sync and wgmma): lane q of a quad
// holds columns 2q and 2q + 1 of each block of eight.
#pragma once
#include "../ptx/ptx.cuh"

PTX_FN float quad_max(float x) {
  x = ptx::max(x, ptx::shfl_xor(x, 1));
  return ptx::max(x, ptx::shfl_xor(x, 2));
}

// The same bits in all four lanes: both additions commute.
PTX_FN float quad_sum(float x) {
  x = x + ptx::shfl_xor(x, 1);
  return x + ptx::shfl_xor(x, 2);
}

// Exchanges words[keep] of this lane's partner for words[give].
PTX_FN void quad_swap(uint32_t (&words)[4], int low, int high, bool upper, int lane_mask) {
  const uint32_t sent = upper ? words[low] : words[high];
  const uint32_t received = ptx::float_bits(ptx::shfl_xor(ptx::bits_float(sent), lane_mask));
  words[low] = upper ? received : words[low];
  words[high] = upper ? words[high] : received;
}

// words[i] of lane q becomes words[q] of lane i.
PTX_FN void quad_transpose(uint32_t (&words)[4], int q) {
  quad_swap(words, 0, 1, q & 1, 1);
  quad_swap(words, 2, 3, q & 1, 1);
  quad_swap(words, 0, 2, q >> 1, 2);
  quad_swap(words, 1, 3, q >> 1, 2);
}
