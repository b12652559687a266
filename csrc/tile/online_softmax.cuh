// The online softmax (Dao et al., arXiv 2205.14135) on a tile of scores that lies in accumulator
// registers: a thread has two rows, h = 0 and 1, and for each of them the columns 8j + 2q + e in
// scores[4j + 2h + e].
//
// State of a row: m, the largest scale·log2(e)·q·k so far; l, the sum of 2^(s - m), as a part per
// lane of the quad; before the first key (-inf, 0).
#pragma once
#include "quad.cuh"

PTX_FN float negative_infinity() { return ptx::bits_float(0xff800000u); }

struct SoftmaxState {
  float m[2];
  float l[2];
};

// Folds the four parts of l into one, in the quad's first lane. Done where a launch may end and
// another continue, so that both sum in one order.
PTX_FN void fold_sums(SoftmaxState& state, int q) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = quad_sum(state.l[h]);
    state.l[h] = q == 0 ? sum : 0.0f;
  }
}

// Word w of the mask of a tile whose first `left` keys count.
PTX_FN uint32_t keep_word(int w, int left) {
  const int bits = left - 32 * w;
  return bits >= 32 ? ~0u : bits <= 0 ? 0u : (1u << bits) - 1;
}

// Scores -inf where the key's bit in `keep` is 0. A select, not an addition: a masked key may be NaN.
template <int N, int kWords>
PTX_FN void mask_scores(float (&scores)[N], const uint32_t (&keep)[kWords], int q) {
#pragma unroll
  for (int j = 0; j < N / 4; ++j) {
    const uint32_t mine = keep[j / 4] >> (8 * (j % 4) + 2 * q);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scores[4 * j + 2 * h] = mine & 1 ? scores[4 * j + 2 * h] : negative_infinity();
      scores[4 * j + 2 * h + 1] = mine & 2 ? scores[4 * j + 2 * h + 1] : negative_infinity();
    }
  }
}

// Turns scores q·k into weights 2^(scale·q·k - m), takes them into m and l, and leaves in `factor`
// what the rows' outputs so far are to be multiplied by: exactly 1 where m stayed.
template <int N>
PTX_FN void online_softmax(float (&scores)[N], SoftmaxState& state, float (&factor)[2], float scale_log2) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float even = scores[2 * h], odd = scores[2 * h + 1];
#pragma unroll
    for (int j = 1; j < N / 4; ++j) {
      even = ptx::max(even, scores[4 * j + 2 * h]);
      odd = ptx::max(odd, scores[4 * j + 2 * h + 1]);
    }
    const float before = state.m[h];
    const float after = ptx::max(before, quad_max(ptx::max(even, odd)) * scale_log2);
    // With every key so far at -inf any finite shift gives weights of 0, and no -inf - -inf.
    const float shift = after == negative_infinity() ? 0.0f : after;
    float even_sum = 0.0f, odd_sum = 0.0f;
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
      float& a = scores[4 * j + 2 * h];
      float& b = scores[4 * j + 2 * h + 1];
      a = ptx::ex2(ptx::fma(a, scale_log2, -shift));
      b = ptx::ex2(ptx::fma(b, scale_log2, -shift));
      even_sum = even_sum + a;
      odd_sum = odd_sum + b;
    }
    factor[h] = before == after ? 1.0f : ptx::ex2(before - shift);
    state.m[h] = after;
    state.l[h] = ptx::fma(state.l[h], factor[h], even_sum + odd_sum);
  }
}

// Multiplies the rows of `o` by their factors; a warp whose factors are all 1 has nothing to do.
template <int N>
PTX_FN void rescale_rows(float (&o)[N], const float (&factor)[2]) {
  if (ptx::ballot(factor[0] != 1.0f || factor[1] != 1.0f) == 0) return;
#pragma unroll
  for (int j = 0; j < N / 4; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      o[4 * j + 2 * h] = o[4 * j + 2 * h] * factor[h];
      o[4 * j + 2 * h + 1] = o[4 * j + 2 * h + 1] * factor[h];
    }
  }
}

// Weights as the A operand of a multiplication by values: register e of k-step kk.
template <class Element, int N>
PTX_FN void pack_weights(Element type, const float (&weights)[N], uint32_t (&packed)[N / 8][4]) {
#pragma unroll
  for (int kk = 0; kk < N / 8; ++kk) {
#pragma unroll
    for (int e = 0; e < 4; ++e) packed[kk][e] = pack(type, weights[8 * kk + 2 * e], weights[8 * kk + 2 * e + 1]);
  }
}
