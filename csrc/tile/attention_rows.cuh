// Rows of an attention result between accumulator registers and global memory: outputs, log-sum-exp,
// and the state (m, l, o) that one launch hands to the next. A warp has 16 rows, a thread rows
// first + lane/4 and 8 more. 16-byte stores: addresses and strides are multiples of 16 bytes.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../common/element.cuh"
#include "../common/view.cuh"
#include "online_softmax.cuh"

struct AttentionRows {
  int b;
  int head;
  int first; /* row of the warp's first in its segment */
};

PTX_FN float* row_scalar(uint64_t address, int64_t batch, int64_t head, const AttentionRows& rows, int row) {
  return reinterpret_cast<float*>(address) + rows.b * batch + rows.head * head + row;
}

// State before the first key, or the one an earlier launch left.
template <int N>
PTX_FN void load_state(const SeqparAttention& p, const SeqparQuerySegment& s, const AttentionRows& rows, int lane,
                       SoftmaxState& state, float (&o)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) o[i] = 0.0f;
  const int q = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = rows.first + lane / 4 + 8 * h;
    state.m[h] = negative_infinity();
    state.l[h] = 0.0f;
    if (!p.carry_in || row >= s.rows) continue;
    if (q == 0) {
      state.m[h] = *row_scalar(s.m, s.m_batch, s.m_head, rows, row);
      state.l[h] = *row_scalar(s.l, s.l_batch, s.l_head, rows, row);
    }
    const float* src = at<float>(s.o, rows.b, row, rows.head);
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
      if (8 * j >= p.head_dim) continue;
      const float2 pair = *reinterpret_cast<const float2*>(src + 8 * j + 2 * q);
      o[4 * j + 2 * h] = pair.x;
      o[4 * j + 2 * h + 1] = pair.y;
    }
  }
  // From the lane that will write it back: nobody else's read has to be ordered before that.
#pragma unroll
  for (int h = 0; h < 2; ++h) state.m[h] = quad_max(state.m[h]);
}

// Leaves the state for a later launch; l has been folded.
template <int N>
PTX_FN void store_state(const SeqparAttention& p, const SeqparQuerySegment& s, const AttentionRows& rows, int lane,
                        const SoftmaxState& state, const float (&o)[N]) {
  const int q = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = rows.first + lane / 4 + 8 * h;
    if (row >= s.rows) continue;
    if (q == 0) {
      *row_scalar(s.m, s.m_batch, s.m_head, rows, row) = state.m[h];
      *row_scalar(s.l, s.l_batch, s.l_head, rows, row) = state.l[h];
    }
    float* dst = at<float>(s.o, rows.b, row, rows.head);
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
      if (8 * j < p.head_dim) {
        *reinterpret_cast<float2*>(dst + 8 * j + 2 * q) = float2{o[4 * j + 2 * h], o[4 * j + 2 * h + 1]};
      }
    }
  }
}

// out = o/l and lse = ln(2)·(m + log2 l); a row without keys gives 0 and -inf. The four lanes of a
// row exchange their pairs of columns, so that each stores 16 bytes.
template <class Element, int N>
PTX_FN void store_result(Element type, const SeqparAttention& p, const SeqparQuerySegment& s, const AttentionRows& rows,
                         int lane, const SoftmaxState& state, const float (&o)[N]) {
  const int q = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = rows.first + lane / 4 + 8 * h;
    const float l = quad_sum(state.l[h]);
    const bool empty = l == 0.0f;
    const float inverse = empty ? 0.0f : ptx::rcp(l);
    if (q == 0 && row < s.rows) {
      const float log = (state.m[h] + ptx::lg2(l)) * 0.693147180559945309f;
      *row_scalar(s.lse, s.lse_batch, s.lse_head, rows, row) = empty ? negative_infinity() : log;
    }
    uint16_t* out = at<uint16_t>(s.out, rows.b, row, rows.head);
#pragma unroll
    for (int group = 0; group < (N / 4 + 3) / 4; ++group) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 4 * group + i;
        words[i] = j < N / 4 ? pack(type, o[4 * j + 2 * h] * inverse, o[4 * j + 2 * h + 1] * inverse) : 0;
      }
      quad_transpose(words, q);
      const int column = 32 * group + 8 * q;
      if (row < s.rows && column < p.head_dim) {
        *reinterpret_cast<uint4*>(out + column) = uint4{words[0], words[1], words[2], words[3]};
      }
    }
  }
}
