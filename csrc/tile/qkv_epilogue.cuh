// The epilogue of a projection to queries and keys: QK norm and rotary embedding on staged sums, in
// place, with the roundings of the chain (GEMM, then csrc/kernels/qk_norm_rope): the sum with its
// bias is rounded, then the norm's result, then the rotation's.
#pragma once
#include "gemm_epilogue.cuh"
#include "qk_norm_rope.cuh"

// What happens to the heads of one part in the rows of one chunk. Addresses 0: absent.
template <class T>
struct HeadTransform {
  const uint16_t* weight; // [HeadDim]
  const float* cos;       // [rows, HeadDim/2], row stride cos_row
  const float* sin;
  int64_t cos_row;
  int64_t sin_row;
  float eps;
  bool halves;

  PTX_METHOD HeadTransform(const SeqparQkv& qkv, const GemmTile& tile)
      : weight(reinterpret_cast<const uint16_t*>(qkv.norm_weight[tile.part])),
        cos(qkv.turned[tile.part] ? reinterpret_cast<const float*>(qkv.cos[tile.chunk]) : nullptr),
        sin(reinterpret_cast<const float*>(qkv.sin[tile.chunk])), cos_row(qkv.cos_row), sin_row(qkv.sin_row),
        eps(qkv.eps), halves(qkv.halves != 0) {}

  PTX_METHOD bool is_identity() const { return weight == nullptr && cos == nullptr; }
};

// One head of one staged row; four lanes share it.
template <class T, int HeadDim>
struct StagedHead {
  uint32_t* pairs; // channels 2i and 2i + 1
  int c;           // lane in the quad

  PTX_METHOD void norm(const uint16_t* weight, float eps) const {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < HeadDim / 8; j++) {
      const uint32_t pair = pairs[quad_channel(c, j) / 2];
      sum = add_squares(sum, low(T{}, pair), high(T{}, pair));
    }
    const float inverse = quad_inverse_rms(sum, HeadDim, eps);
#pragma unroll 4
    for (int j = 0; j < HeadDim / 8; j++) {
      const int channel = quad_channel(c, j);
      const uint32_t pair = pairs[channel / 2];
      pairs[channel / 2] = pack(T{}, scale_channel(low(T{}, pair), inverse, load_half<T>(weight + channel)),
                                scale_channel(high(T{}, pair), inverse, load_half<T>(weight + channel + 1)));
    }
  }

  PTX_METHOD void turn_neighbours(const float* cos, const float* sin) const {
#pragma unroll 4
    for (int j = 0; j < HeadDim / 8; j++) {
      const int i = quad_channel(c, j) / 2;
      float a = low(T{}, pairs[i]), b = high(T{}, pairs[i]);
      turn(a, b, cos[i], sin[i]);
      pairs[i] = pack(T{}, a, b);
    }
  }

  // A lane's pairs are those it turns, not those it normed.
  PTX_METHOD void turn_halves(const float* cos, const float* sin) const {
    static_assert(HeadDim % 4 == 0, "a pair of channels lies in one half");
    __syncwarp();
#pragma unroll 2
    for (int i = c; i < HeadDim / 4; i += 4) {
      uint32_t& left = pairs[i];
      uint32_t& right = pairs[HeadDim / 4 + i];
      float a[2] = {low(T{}, left), high(T{}, left)}, b[2] = {low(T{}, right), high(T{}, right)};
#pragma unroll
      for (int e = 0; e < 2; e++) turn(a[e], b[e], cos[2 * i + e], sin[2 * i + e]);
      left = pack(T{}, a[0], a[1]);
      right = pack(T{}, b[0], b[1]);
    }
  }
};

// Transforms the heads in `Rows` staged rows, the first of which is `row` of its sample. By whole
// warps, this one the `warp`-th of `warps`; what they have written is not yet visible to each other.
template <class T, int Rows, int Cols, int HeadDim>
PTX_FN void transform_staged_heads(const SeqparGemm& p, const HeadTransform<T>& f, const GemmTile& tile, int row,
                                   unsigned char* staged, int warp, int warps, int lane) {
  static_assert(Cols % HeadDim == 0 && HeadDim % 8 == 0, "a tile holds whole heads");
  constexpr int kHeads = Cols / HeadDim;
  const int rows = p.chunks[tile.chunk].rows - row, cols = p.parts[tile.part].cols - tile.col;
  for (int item = warp; item < Rows / 8 * kHeads; item += warps) {
    const int in_rows = item / kHeads * 8 + lane / 4, head = item % kHeads;
    // Rows and heads past the end are computed like the others and not stored; only what they read
    // of tables is bounded.
    const int table_row = in_rows < rows ? row + in_rows : row;
    if (item / kHeads * 8 >= rows || head * HeadDim >= cols) continue;
    const StagedHead<T, HeadDim> at{
        reinterpret_cast<uint32_t*>(staged + in_rows * Staging<Cols>::kPitch + head * HeadDim * 2), lane % 4};
    if (f.weight != nullptr) at.norm(f.weight, f.eps);
    if (f.cos != nullptr) {
      const float* cos = f.cos + table_row * f.cos_row;
      const float* sin = f.sin + table_row * f.sin_row;
      if (f.halves) at.turn_halves(cos, sin);
      else at.turn_neighbours(cos, sin);
    }
  }
}
