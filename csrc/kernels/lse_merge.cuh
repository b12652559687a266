// Attention results a and b over disjoint keys as the result over all of them:
// lse = log(e^lse_a + e^lse_b), out = e^(lse_a - lse)·out_a + e^(lse_b - lse)·out_b, in f32. A side
// without keys (lse -inf) counts for nothing; both without: 0 and -inf. Any of the outputs may be
// an input. Only where two results exist already: kernels that run one after the other carry
// (m, l, o) instead.
#pragma once
#include "../common/element.cuh"
#include "../common/rows.cuh"

constexpr int kMergeThreads = 256;

PTX_FN float weight_of(float lse, float top) {
  return lse == top ? 1.0f : ptx::ex2((lse - top) * 1.44269504088896341f);
}

template <class T>
PTX_FN void lse_merge(const SeqparLseMerge& p) {
  const int vectors = p.head_dim / 8;
  const uint32_t heads = p.heads, rows = p.rows, runs = p.batch * rows * heads;  // below 2^31
  const int lane = threadIdx.x % 32;
  ptx::grid_launch_dependents();
  ptx::grid_dependency_wait();
  // A warp has one head of one row.
  for (uint32_t i = (blockIdx.x * kMergeThreads + threadIdx.x) / 32; i < runs; i += gridDim.x * (kMergeThreads / 32)) {
    const int head = i % heads, row = i / heads % rows, batch = i / heads / rows;
    const int64_t scalar = batch * p.lse_batch + head * p.lse_head + row;
    const float a = reinterpret_cast<const float*>(p.lse_a)[scalar], b = reinterpret_cast<const float*>(p.lse_b)[scalar];
    const float top = ptx::max_nan(a, b);
    const bool empty = top == ptx::bits_float(0xff800000u);
    const float wa = empty ? 0.0f : weight_of(a, top), wb = empty ? 0.0f : weight_of(b, top);
    const float sum = wa + wb, inverse = empty ? 0.0f : ptx::rcp(sum);
    // Everyone has read before one lane writes: lse may be lse_a.
    __syncwarp();
    if (lane == 0) reinterpret_cast<float*>(p.lse)[scalar] = empty ? top : top + ptx::lg2(sum) * 0.693147180559945309f;
    for (int v = lane; v < vectors; v += 32) {
      float x[8] = {0}, y[8] = {0};
      // A side without keys may hold anything.
      if (wa != 0.0f) widen<T>(reinterpret_cast<const uint4*>(at<uint16_t>(p.out_a, batch, row, head))[v], x);
      if (wb != 0.0f) widen<T>(reinterpret_cast<const uint4*>(at<uint16_t>(p.out_b, batch, row, head))[v], y);
#pragma unroll
      for (int e = 0; e < 8; e++) x[e] = ptx::fma(wb * inverse, y[e], wa * inverse * x[e]);
      reinterpret_cast<uint4*>(at<uint16_t>(p.out, batch, row, head))[v] = narrow<T>(x);
    }
  }
}
