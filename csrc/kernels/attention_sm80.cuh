// Attention forward for sm_80: cp.async, ldmatrix, mma.sync (the dataflow of FlashAttention-2, Dao,
// arXiv 2307.08691), keys and queries in segments.
//
// A block has one row tile of one head; each of its warps has kTiles times 16 rows. Keys and
// values have one buffer each: the values of tile j travel during its scores, the keys of tile
// j + 1 during its softmax. Head dim 72 is exact: four multiplications of 16 columns and one of 8
// for the scores, nine tiles of 8 columns for the outputs; rows of 144 bytes are free of bank
// conflicts as they are, others are padded to an odd multiple of 16 bytes.
//
// Both variants of a head dim give the same bits: their key tiles are the same, and a row meets
// them in one order.
//
// Assumes scale > 0, head_dim a multiple of 8, and addresses and strides of q, k, v, out that are
// multiples of 16 bytes (o: 8). Proof: tests/emulated/attention.rs.
#pragma once
#include "../sched/gate.cuh"
#include "../sched/key_tiles.cuh"
#include "../tile/attention_rows.cuh"

// The key-tile width is part of the result (rule 5 of R1).
template <int kDim>
constexpr int kKeysSm80 = kDim == 64 ? 128 : kDim == 72 ? 96 : 64;

template <class ElementTag, int kHeadDim, int kTilesOfWarp, int kWarps>
struct AttentionSm80Variant {
  using Element = ElementTag;
  static constexpr int kDim = kHeadDim;
  static constexpr int kKeys = kKeysSm80<kHeadDim>;
  static constexpr int kTiles = kTilesOfWarp;
  static constexpr int kRows = 16 * kTilesOfWarp * kWarps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRowBytes = (kHeadDim / 8 | 1) * 16;
  static constexpr int kKeepWords = (kKeys + 31) / 32;
  // Offsets in shared memory, from an address that is a multiple of 16.
  static constexpr int kKeyOffset = kRows * kRowBytes;
  static constexpr int kValueOffset = kKeyOffset + kKeys * kRowBytes;
  static constexpr int kKeepOffset = kValueOffset + kKeys * kRowBytes;
  static constexpr int kFailedOffset = kKeepOffset + 4 * kKeepWords;
  static constexpr int kSharedBytes = kFailedOffset + 4;
};

// Where a block works.
struct AttentionSm80Tile {
  int b;
  int head;
  int kv_head;
  int segment; /* of queries */
  int first_row;
};

template <class Variant>
PTX_FN AttentionSm80Tile attention_sm80_tile(const SeqparAttention& p) {
  AttentionSm80Tile tile;
  const int row_tile = blockIdx.x;
  tile.head = blockIdx.y;
  tile.b = blockIdx.z;
  tile.kv_head = (p.first_head + tile.head) / p.group - p.first_kv_head;
  tile.segment = 0;
  while (tile.segment + 1 < p.query_segments && p.queries[tile.segment + 1].first_tile <= row_tile) ++tile.segment;
  tile.first_row = (row_tile - p.queries[tile.segment].first_tile) * Variant::kRows;
  return tile;
}

// Copies kCount rows of one head to shared memory, not waited for. Rows for which `counts` is false
// and columns past head_dim become zeros.
template <class Variant, int kCount, class Counts>
PTX_FN void copy_rows(const SeqparAttention& p, uint32_t to, const uint16_t* first, int64_t row_stride, Counts counts) {
  constexpr int kUnits = Variant::kDim / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < kCount * kUnits; i += Variant::kThreads) {
    const int row = i / kUnits, unit = i % kUnits;
    const bool there = 8 * unit < p.head_dim && counts(row);
    ptx::cp_async_16(to + row * Variant::kRowBytes + unit * 16, there ? first + row * row_stride + unit * 8 : first,
                     there ? 16 : 0);
  }
}

template <class Variant>
PTX_FN void copy_keys(const SeqparAttention& p, uint32_t to, const AttentionSm80Tile& at_tile,
                      const KeyTiles<Variant::kKeys>& keys) {
  const SeqparView& k = p.keys[keys.segment].k;
  const int left = keys.left();
  copy_rows<Variant, Variant::kKeys>(
      p, to, at<uint16_t>(k, at_tile.b, keys.tile * Variant::kKeys, at_tile.kv_head), k.row,
      [&](int row) { return row < left; });
  ptx::cp_async_commit();
}

// Whether key `row` of a tile counts.
template <class Variant>
PTX_FN bool key_counts(const SeqparKeySegment& s, int b, const KeyTiles<Variant::kKeys>& keys, int row) {
  if (row >= keys.left()) return false;
  if (s.mask == 0) return true;
  const uint8_t* mask = reinterpret_cast<const uint8_t*>(s.mask) + b * s.mask_batch;
  return mask[(keys.tile * Variant::kKeys + row) * s.mask_row] != 0;
}

// A masked value may be NaN, and a weight of 0 times NaN is NaN: masked rows become zeros.
template <class Variant>
PTX_FN void copy_values(const SeqparAttention& p, uint32_t to, const AttentionSm80Tile& at_tile,
                        const KeyTiles<Variant::kKeys>& keys) {
  const SeqparKeySegment& s = p.keys[keys.segment];
  copy_rows<Variant, Variant::kKeys>(
      p, to, at<uint16_t>(s.v, at_tile.b, keys.tile * Variant::kKeys, at_tile.kv_head), s.v.row,
      [&](int row) { return key_counts<Variant>(s, at_tile.b, keys, row); });
  ptx::cp_async_commit();
}

// The mask of a tile as bits in shared memory, a word a warp's turn.
template <class Variant>
PTX_FN void mark_keys(const SeqparAttention& p, uint32_t* keep, const AttentionSm80Tile& at_tile,
                      const KeyTiles<Variant::kKeys>& keys, int warp, int lane) {
  for (int word = warp; word < Variant::kKeepWords; word += Variant::kThreads / 32) {
    const uint32_t bits = ptx::ballot(key_counts<Variant>(p.keys[keys.segment], at_tile.b, keys, 32 * word + lane));
    if (lane == 0) keep[word] = bits;
  }
}

template <int N>
PTX_FN float (&quad_tile(float (&values)[N], int j))[4] {
  return reinterpret_cast<float(&)[4]>(values[4 * j]);
}

// scores[16][kKeys] = q·kᵀ for each of the warp's tiles of 16 rows.
template <class Variant, int N>
PTX_FN void multiply_scores(float (&scores)[Variant::kTiles][N], uint32_t q, uint32_t k, int lane) {
  const typename Variant::Element type{};
  constexpr int kPitch = Variant::kRowBytes;
#pragma unroll
  for (int t = 0; t < Variant::kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < N; ++i) scores[t][i] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < Variant::kDim / 16; ++step) {
    uint32_t a[Variant::kTiles][4];
#pragma unroll
    for (int t = 0; t < Variant::kTiles; ++t) {
      ptx::ldmatrix_x4(a[t], q + (16 * t + lane % 16) * kPitch + step * 32 + lane / 16 * 16);
    }
#pragma unroll
    for (int j = 0; j < N / 4; j += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, k + (8 * j + lane % 8 + lane / 16 * 8) * kPitch + step * 32 + lane / 8 % 2 * 16);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int t = 0; t < Variant::kTiles; ++t) {
        mma_16816(type, quad_tile(scores[t], j), a[t], left);
        mma_16816(type, quad_tile(scores[t], j + 1), a[t], right);
      }
    }
  }
  if constexpr (Variant::kDim % 16 == 8) {
    constexpr int kColumn = Variant::kDim / 16 * 32;
    uint32_t a[Variant::kTiles][2];
#pragma unroll
    for (int t = 0; t < Variant::kTiles; ++t) ptx::ldmatrix_x2(a[t], q + (16 * t + lane % 16) * kPitch + kColumn);
#pragma unroll
    for (int j = 0; j < N / 4; j += 4) {
      uint32_t b[4];
      ptx::ldmatrix_x4(b, k + (8 * j + lane) * kPitch + kColumn);
#pragma unroll
      for (int t = 0; t < Variant::kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) mma_1688(type, quad_tile(scores[t], j + i), a[t], b[i]);
      }
    }
  }
}

// o[16][kDim] += weights·v for each of the warp's tiles of 16 rows.
template <class Variant, int N, int kSteps>
PTX_FN void multiply_values(float (&o)[Variant::kTiles][N], const uint32_t (&weights)[Variant::kTiles][kSteps][4],
                            uint32_t v, int lane) {
  const typename Variant::Element type{};
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const uint32_t rows = v + (16 * step + lane % 16) * Variant::kRowBytes;
#pragma unroll
    for (int j = 0; j + 1 < N / 4; j += 2) {
      uint32_t b[4];
      ptx::ldmatrix_x4_trans(b, rows + (8 * j + lane / 16 * 8) * 2);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int t = 0; t < Variant::kTiles; ++t) {
        mma_16816(type, quad_tile(o[t], j), weights[t][step], left);
        mma_16816(type, quad_tile(o[t], j + 1), weights[t][step], right);
      }
    }
    if constexpr (N / 4 % 2 == 1) {
      uint32_t b[2];
      ptx::ldmatrix_x2_trans(b, rows + (N / 4 - 1) * 16);
#pragma unroll
      for (int t = 0; t < Variant::kTiles; ++t) mma_16816(type, quad_tile(o[t], N / 4 - 1), weights[t][step], b);
    }
  }
}

// Waits for a segment's gate; false in all threads if it stayed shut.
template <class Variant>
PTX_FN bool open_gate(const SeqparAttention& p, int segment, uint32_t* failed) {
  if (p.keys[segment].gate.flag == 0) return true;
  if (threadIdx.x == 0) *failed = !wait_for_gate(p.keys[segment].gate, segment, p.status, p.timeout_ns);
  __syncthreads();
  const bool open = *failed == 0;
  // Before the next gate writes it again.
  __syncthreads();
  return open;
}

template <class Variant>
PTX_FN void attention_sm80(const SeqparAttention& p, unsigned char* window) {
  constexpr int kScores = Variant::kKeys / 2, kOutputs = Variant::kDim / 2;
  const typename Variant::Element type{};
  const AttentionSm80Tile tile = attention_sm80_tile<Variant>(p);
  const SeqparQuerySegment& queries = p.queries[tile.segment];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, q = lane % 4;
  const uint32_t shared = ptx::smem_u32(window);
  const uint32_t q_tile = shared + warp * 16 * Variant::kTiles * Variant::kRowBytes;
  const uint32_t k_tile = shared + Variant::kKeyOffset, v_tile = shared + Variant::kValueOffset;
  uint32_t* keep = reinterpret_cast<uint32_t*>(window + Variant::kKeepOffset);
  uint32_t* failed = reinterpret_cast<uint32_t*>(window + Variant::kFailedOffset);

  SoftmaxState state[Variant::kTiles];
  float o[Variant::kTiles][kOutputs];
  AttentionRows rows[Variant::kTiles];
#pragma unroll
  for (int t = 0; t < Variant::kTiles; ++t) {
    rows[t] = {tile.b, tile.head, tile.first_row + 16 * (warp * Variant::kTiles + t)};
    load_state(p, queries, rows[t], lane, state[t], o[t]);
  }
  copy_rows<Variant, Variant::kRows>(p, shared, at<uint16_t>(queries.q, tile.b, tile.first_row, tile.head),
                                     queries.q.row, [&](int row) { return tile.first_row + row < queries.rows; });
  ptx::cp_async_commit();

  KeyTiles<Variant::kKeys> keys;
  bool more = keys.next(p, tile.b);
  if (more) {
    if (!open_gate<Variant>(p, keys.segment, failed)) {
      ptx::cp_async_wait<0>();
      return;
    }
    copy_keys<Variant>(p, k_tile, tile, keys);
  }
  while (more) {
    const KeyTiles<Variant::kKeys> now = keys;
    const bool masked = now.left() < Variant::kKeys || p.keys[now.segment].mask != 0;
    ptx::cp_async_wait<0>();
    __syncthreads();  // keys and queries are there; the values before are no longer read
    copy_values<Variant>(p, v_tile, tile, now);
    if (masked) mark_keys<Variant>(p, keep, tile, now, warp, lane);
    float scores[Variant::kTiles][kScores];
    multiply_scores<Variant>(scores, q_tile, k_tile, lane);
    ptx::cp_async_wait<0>();
    __syncthreads();  // values and mask are there; the keys are no longer read
    more = keys.next(p, tile.b);
    if (more) {
      if (keys.enters_segment() && !open_gate<Variant>(p, keys.segment, failed)) return;
      copy_keys<Variant>(p, k_tile, tile, keys);
    }
    uint32_t weights[Variant::kTiles][Variant::kKeys / 16][4];
#pragma unroll
    for (int t = 0; t < Variant::kTiles; ++t) {
      if (masked) {
        uint32_t bits[Variant::kKeepWords];
#pragma unroll
        for (int word = 0; word < Variant::kKeepWords; ++word) bits[word] = keep[word];
        mask_scores(scores[t], bits, q);
      }
      if (now.enters_segment()) fold_sums(state[t], q);
      float factor[2];
      online_softmax(scores[t], state[t], factor, p.scale_log2);
      rescale_rows(o[t], factor);
      pack_weights(type, scores[t], weights[t]);
    }
    multiply_values<Variant>(o, weights, v_tile, lane);
  }
  ptx::cp_async_wait<0>();
#pragma unroll
  for (int t = 0; t < Variant::kTiles; ++t) {
    if (p.carry_out) {
      fold_sums(state[t], q);
      store_state(p, queries, rows[t], lane, state[t], o[t]);
    } else {
      store_result(type, p, queries, rows[t], lane, state[t], o[t]);
    }
  }
}
