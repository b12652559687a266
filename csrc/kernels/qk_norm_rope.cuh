// RMS norm of the heads of q and k and rotary embedding, in place. Four lanes share a head, a warp
// has eight; heads pass through shared memory, from which lanes take the channels that the norm's
// order of sums gives them, and then the pairs that turn together.
//
// Assumes head_dim a multiple of 8 up to 256, and addresses and strides of q and k that are
// multiples of 16 bytes. Proof: tests/emulated/small.rs.
#pragma once
#include "../common/view.cuh"
#include "../tile/qk_norm_rope.cuh"

constexpr int kHeadThreads = 256;
constexpr int kHeadsOfWarp = 8;

// Words between two heads in shared memory: rows of 16 bytes, and heads in different banks.
PTX_FN int head_pitch(int head_dim) { return head_dim / 2 + 4; }

// One head of one row; where nothing is left to do, lanes stay for the shuffles of their warp.
struct HeadItem {
  bool active;
  uint16_t* channels;
  const uint16_t* weight;
  const float* cos;
  const float* sin;
};

// Heads of all rows and samples, less than 2^31: divisions of 32 bits.
PTX_FN uint32_t head_count(const SeqparQkNormRope& p) { return p.batch * p.rows * (p.heads + p.kv_heads); }

PTX_FN HeadItem head_item(const SeqparQkNormRope& p, uint32_t index) {
  const uint32_t heads = p.heads + p.kv_heads, rows = p.rows;
  const bool active = index < head_count(p);
  const uint32_t i = active ? index : 0;
  const int head = i % heads, row = i / heads % rows, batch = i / heads / rows;
  const bool is_q = head < p.heads;
  return {active,
          is_q ? at<uint16_t>(p.q, batch, row, head) : at<uint16_t>(p.k, batch, row, head - p.heads),
          reinterpret_cast<const uint16_t*>(is_q ? p.q_weight : p.k_weight),
          reinterpret_cast<const float*>(p.cos) + (p.cos ? row * p.cos_row : 0),
          reinterpret_cast<const float*>(p.sin) + (p.sin ? row * p.sin_row : 0)};
}

template <class T>
PTX_FN void norm_head(const HeadItem& item, uint32_t* words, int c, int head_dim, float eps) {
  float sum = 0.0f;
  for (int j = 0; j < head_dim / 8; j++) {
    const uint32_t pair = words[quad_channel(c, j) / 2];
    sum = add_squares(sum, low(T{}, pair), high(T{}, pair));
  }
  const float inverse = quad_inverse_rms(sum, head_dim, eps);
  const uint32_t* weights = reinterpret_cast<const uint32_t*>(item.weight);
  for (int j = 0; j < head_dim / 8; j++) {
    const int word = quad_channel(c, j) / 2;
    const uint32_t pair = words[word], weight = weights[word];
    words[word] = pack(T{}, scale_channel(low(T{}, pair), inverse, low(T{}, weight)),
                       scale_channel(high(T{}, pair), inverse, high(T{}, weight)));
  }
}

template <class T>
PTX_FN void turn_head(const HeadItem& item, uint32_t* words, int c, int head_dim, bool halves) {
  if (!halves) {
    for (int word = c; word < head_dim / 2; word += 4) {
      float a = low(T{}, words[word]), b = high(T{}, words[word]);
      turn(a, b, item.cos[word], item.sin[word]);
      words[word] = pack(T{}, a, b);
    }
    return;
  }
  // Channels 2i, 2i + 1 with those head_dim/2 further on.
  for (int i = c; i < head_dim / 4; i += 4) {
    uint32_t &left = words[i], &right = words[head_dim / 4 + i];
    float a = low(T{}, left), b = low(T{}, right), x = high(T{}, left), y = high(T{}, right);
    turn(a, b, item.cos[2 * i], item.sin[2 * i]);
    turn(x, y, item.cos[2 * i + 1], item.sin[2 * i + 1]);
    left = pack(T{}, a, x);
    right = pack(T{}, b, y);
  }
}

template <class T>
PTX_FN void qk_norm_rope(const SeqparQkNormRope& p, unsigned char* window) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane / 4, c = lane % 4;
  uint32_t* words = reinterpret_cast<uint32_t*>(window) + (warp * kHeadsOfWarp + quad) * head_pitch(p.head_dim);
  constexpr uint32_t kHeadsOfBlock = kHeadThreads / 32 * kHeadsOfWarp;
  ptx::grid_launch_dependents();
  ptx::grid_dependency_wait();
  for (uint32_t index = blockIdx.x * kHeadsOfBlock + warp * kHeadsOfWarp; index < head_count(p);
       index += gridDim.x * kHeadsOfBlock) {
    const HeadItem item = head_item(p, index + quad);
    uint4* channels = reinterpret_cast<uint4*>(item.channels);
    uint4* staged = reinterpret_cast<uint4*>(words);
    for (int v = c; v < p.head_dim / 8; v += 4) staged[v] = item.active ? channels[v] : uint4{0, 0, 0, 0};
    __syncwarp();
    if (item.weight != nullptr) {
      norm_head<T>(item, words, c, p.head_dim, p.eps);
      __syncwarp();
    }
    if (p.cos != 0) {
      turn_head<T>(item, words, c, p.head_dim, p.halves != 0);
      __syncwarp();
    }
    if (item.active) {
      for (int v = c; v < p.head_dim / 8; v += 4) channels[v] = staged[v];
    }
    // The next heads overwrite these.
    __syncwarp();
  }
}
