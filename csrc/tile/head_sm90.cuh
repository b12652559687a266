// How a head dim D lies in shared memory for wgmma, and the two multiplications of attention on it.
//
// Queries and keys are K-major: blocks of 64 columns, 128-byte swizzle, then a tail block of what is
// left: 16 columns with 32-byte swizzle for D = 72 (contraction 80), 32 with 64-byte swizzle for
// D = 96. Values are MN-major, and one wgmma needs one layout over all of its columns: blocks of 64,
// of 16 for D = 72 (five of them: the canonical 32-byte layout has no half block, so n is 80), of 32
// for D = 96. Columns past the true head dim, in any block, are zeros: the tensor maps end there.
//
// Boxes of the tensor maps (columns, rows, 1, 1): q (64, rows of the variant), q_tail (kTailColumns,
// the same), k (64, kKeys), k_tail (kTailColumns, kKeys), v (kValueBlock, kKeys); swizzle as above.
//
// kKeys, the key-tile width, is part of the result (rule 5 of R1): the widest whose scores, weights
// and outputs fit the registers of a thread in the variant with most warpgroups.
#pragma once
#include "../common/element.cuh"
#include "descriptor.cuh"

template <int kDim>
struct HeadSm90;
template <>
struct HeadSm90<64> {
  static constexpr int kKeys = 128, kTailColumns = 0, kValueColumns = 64, kValueBlock = 64;
};
template <>
struct HeadSm90<72> {
  static constexpr int kKeys = 112, kTailColumns = 16, kValueColumns = 80, kValueBlock = 16;
};
template <>
struct HeadSm90<96> {
  static constexpr int kKeys = 96, kTailColumns = 32, kValueColumns = 96, kValueBlock = 32;
};
template <>
struct HeadSm90<128> {
  static constexpr int kKeys = 176, kTailColumns = 0, kValueColumns = 128, kValueBlock = 64;
};

// Swizzle of blocks of this many columns of two bytes.
template <int kColumns>
constexpr Swizzle kSwizzleOf = kColumns == 64 ? Swizzle::k128 : kColumns == 32 ? Swizzle::k64 : Swizzle::k32;

// Shared memory of a tile of kRows rows: whole blocks, then the tail.
template <int kDim, int kRows>
struct KMajorTile {
  static constexpr int kBlocks = kDim / 64;
  static constexpr int kBlockBytes = kRows * 128;
  static constexpr int kTail = kBlocks * kBlockBytes;
  static constexpr int kTailRowBytes = HeadSm90<kDim>::kTailColumns * 2;
  static constexpr int kBytes = kTail + kRows * kTailRowBytes;
};

template <int kDim>
struct ValueTile {
  static constexpr int kRows = HeadSm90<kDim>::kKeys;
  static constexpr int kRowBytes = HeadSm90<kDim>::kValueBlock * 2;
  static constexpr int kBlocks = HeadSm90<kDim>::kValueColumns / HeadSm90<kDim>::kValueBlock;
  static constexpr int kBlockBytes = kRows * kRowBytes;
  static constexpr int kBytes = kBlocks * kBlockBytes;
};

// scores[64][kKeys] = q·kᵀ, issued and not waited for. `q` is the first of the 64 rows in a tile of
// kRows queries.
template <int kDim, int kRows, class Element, int N>
PTX_FN void issue_scores(Element type, float (&scores)[N], uint32_t q_tile, int first_row, uint32_t k_tile) {
  using Q = KMajorTile<kDim, kRows>;
  using K = KMajorTile<kDim, 2 * N>;
  const uint64_t q = matrix_descriptor(q_tile + first_row * 128, 16, 1024, Swizzle::k128);
  const uint64_t k = matrix_descriptor(k_tile, 16, 1024, Swizzle::k128);
#pragma unroll
  for (int step = 0; step < 4 * Q::kBlocks; ++step) {
    const int block = step / 4, column_bytes = 32 * (step % 4);
    ptx::wgmma_ss<0, 0>(type, scores, descriptor_at(q, block * Q::kBlockBytes + column_bytes),
                        descriptor_at(k, block * K::kBlockBytes + column_bytes), step != 0);
  }
  if constexpr (HeadSm90<kDim>::kTailColumns != 0) {
    constexpr Swizzle kSwizzle = kSwizzleOf<HeadSm90<kDim>::kTailColumns>;
    const uint32_t q_tail = q_tile + Q::kTail + first_row * Q::kTailRowBytes;
    const uint64_t qt = matrix_descriptor(q_tail, 16, 8 * Q::kTailRowBytes, kSwizzle);
    const uint64_t kt = matrix_descriptor(k_tile + K::kTail, 16, 8 * K::kTailRowBytes, kSwizzle);
#pragma unroll
    for (int step = 0; step < HeadSm90<kDim>::kTailColumns / 16; ++step) {
      ptx::wgmma_ss<0, 0>(type, scores, descriptor_at(qt, 32 * step), descriptor_at(kt, 32 * step), 1);
    }
  }
}

// o[64][kValueColumns] += weights·v, issued and not waited for.
template <int kDim, class Element, int N, int kSteps>
PTX_FN void issue_values(Element type, float (&o)[N], const uint32_t (&weights)[kSteps][4], uint32_t v_tile) {
  using V = ValueTile<kDim>;
  constexpr Swizzle kSwizzle = kSwizzleOf<HeadSm90<kDim>::kValueBlock>;
  const uint64_t v = matrix_descriptor(v_tile, V::kBlockBytes, 8 * V::kRowBytes, kSwizzle);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    ptx::wgmma_rs<1>(type, o, weights[step], descriptor_at(v, step * 16 * V::kRowBytes), 1);
  }
}
