// Activations in f32.
#pragma once
#include "../ptx/ptx.cuh"

// 1/(1 + e^-x); NaN stays.
PTX_FN float sigmoid(float x) {
  const float exponent = x * -1.44269504f;
  // The smaller of the two, with NaN kept: e^-x stays finite, so that -inf times it is not NaN.
  const float bounded = -ptx::max_nan(-exponent, -127.0f);
  return ptx::rcp(1.0f + ptx::ex2(bounded));
}

PTX_FN float silu(float x) { return x * sigmoid(x); }

// GELU, tanh form: 0.5·x·(1 + tanh u) = x·sigmoid(2u), u = √(2/π)·(x + 0.044715·x³).
PTX_FN float gelu(float x) {
  constexpr float kTwoRoot = 1.5957692f; // 2·√(2/π)
  const float cubic = ptx::fma(x * x, 0.044715f * kTwoRoot, kTwoRoot);
  return x * sigmoid(x * cubic);
}
