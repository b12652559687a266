// RMS norm of a head and rotary embedding. Four neighbouring lanes (a quad) hold the channels of
// one head: lane c of them channels 8j + 2c and 8j + 2c + 1 for j = 0, 1, …, which is how wgmma
// and mma.sync leave a row. The order of the sum of squares is part of the definition: a lane's
// channels in ascending order, then lane c with c^1, then with c^2. Every kernel that norms heads
// goes through these functions, so they agree bit for bit.
#pragma once
#include "../common/element.cuh"

// First channel of lane c's pair j.
PTX_FN int quad_channel(int c, int j) { return 8 * j + 2 * c; }

// A lane's pair added to its sum of squares; pairs come in ascending order, from 0.
PTX_FN float add_squares(float sum, float x, float y) { return ptx::fma(y, y, ptx::fma(x, x, sum)); }

// 1/√(mean(x²) + eps) of the head, from the sums of the quad's lanes.
PTX_FN float quad_inverse_rms(float sum, int head_dim, float eps) {
  sum = sum + ptx::shfl_xor(sum, 1);
  sum = sum + ptx::shfl_xor(sum, 2);
  return ptx::rcp(ptx::sqrt(sum / head_dim + eps));
}

// One channel normed, not yet rounded.
PTX_FN float scale_channel(float x, float inverse, float weight) { return x * inverse * weight; }

// The pair (a, b) turned; both are rounded values, the results are not yet.
PTX_FN void turn(float& a, float& b, float cos, float sin) {
  const float left = a * cos - b * sin, right = a * sin + b * cos;
  a = left;
  b = right;
}
