// Attention forward for sm_90a: TMA, wgmma, warp specialisation (the dataflow of FlashAttention-3,
// Shah et al., arXiv 2407.08608), keys and queries in segments.
//
// A block has a warpgroup that feeds and one to three that compute, 64 query rows each. Blocks are
// persistent: block i takes tiles i, i + gridDim.x, ... of (sample, head, row tile), row tiles
// fastest, so that blocks that run together read the same keys. Of the feeding warpgroup warp 0
// loads (one lane), and warp 1 masks where the launch has key masks or key lengths: it writes the
// mask of each tile and zeroes the values of masked keys, since a weight of 0 times NaN is NaN.
//
// A computing warpgroup issues the scores of tile j + 1 before the weights·values of tile j, so that
// the softmax of the one runs beside the other's multiplication; the warpgroups take turns to issue.
// Nothing drains between segments. All variants of a head dim and dtype give the same bits: their
// key tiles are the same, and a row meets them in one order.
//
// Assumes scale >= 0, head_dim a multiple of 8, and addresses and strides of q, k, v, out that are
// multiples of 16 bytes (o: 8). Proof: tests/emulated/attention.rs, tests/emulated/attention_sm90.rs.
//
// No GPU has measured it yet. To be decided by measurement: kKeys and kStages; turns on or off, by
// number of warpgroups; the rate of 32-byte swizzled values for D = 72, and of n = 80; whether the
// skipped rescale pays for its vote; the rates of the cost model that chooses the row tile.
#pragma once
#include "../common/barrier.cuh"
#include "../common/method.cuh"
#include "../sched/gate.cuh"
#include "../sched/key_tiles.cuh"
#include "../tile/attention_rows.cuh"
#include "../tile/head_sm90.cuh"

template <class ElementTag, int kHeadDim, int kComputeWarpgroups>
struct AttentionSm90Variant {
  using Element = ElementTag;
  using Q = KMajorTile<kHeadDim, 64 * kComputeWarpgroups>;
  using K = KMajorTile<kHeadDim, HeadSm90<kHeadDim>::kKeys>;
  using V = ValueTile<kHeadDim>;
  static constexpr int kDim = kHeadDim;
  static constexpr int kKeys = HeadSm90<kHeadDim>::kKeys;
  static constexpr int kWarpgroups = kComputeWarpgroups;
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kThreads = 128 * (1 + kWarpgroups);
  static constexpr int kStages = kWarpgroups == 1 || kHeadDim == 128 ? 2 : 4;
  // One computing warpgroup: two blocks share an SM where shared memory allows.
  static constexpr int kMinBlocks = kWarpgroups == 1 && kHeadDim < 128 ? 2 : 1;
  // Registers of a thread after setmaxnreg; the sum over warpgroups is what the launch gave. 0: one
  // small block on an SM has enough as it is.
  static constexpr int kFeedRegisters = kWarpgroups == 3 ? 32 : 40;
  static constexpr int kComputeRegisters =
      kWarpgroups == 3 ? 160 : kWarpgroups == 2 ? 232 : kMinBlocks == 2 ? 216 : 0;
  static constexpr int kKeepWords = (kKeys + 31) / 32;

  // Offsets in shared memory, from an address that is a multiple of 1024 (a whole swizzle pattern).
  static constexpr int kValueOffset = K::kBytes;
  static constexpr int kStageBytes = K::kBytes + V::kBytes;
  static constexpr int kStageOffset = Q::kBytes;
  static constexpr int kBarrierOffset = kStageOffset + kStages * kStageBytes;
  static constexpr int kKeepOffset = kBarrierOffset + 8 * (2 + 5 * kStages);
  static constexpr int kFailedOffset = kKeepOffset + 4 * kStages * kKeepWords;
  static constexpr int kSharedBytes = kFailedOffset + 4 * kStages + 1008;
  static_assert(kStageOffset % 1024 == 0 && kStageBytes % 1024 == 0, "tiles start at a swizzle pattern");
  static_assert(kSharedBytes <= 232448, "shared memory of an SM");
};

// The block's shared memory, by name.
template <class Variant>
struct AttentionSm90Shared {
  unsigned char* base;
  uint32_t address;

  PTX_METHOD uint32_t q() const { return address; }
  PTX_METHOD uint32_t k(int stage) const { return address + Variant::kStageOffset + stage * Variant::kStageBytes; }
  PTX_METHOD uint32_t v(int stage) const { return k(stage) + Variant::kValueOffset; }
  PTX_METHOD unsigned char* values(int stage) const {
    return base + Variant::kStageOffset + stage * Variant::kStageBytes + Variant::kValueOffset;
  }
  PTX_METHOD uint32_t* keep(int stage) const {
    return reinterpret_cast<uint32_t*>(base + Variant::kKeepOffset) + stage * Variant::kKeepWords;
  }
  // Whether the gate in front of the stage's tile stayed shut; written and read only if it has one.
  PTX_METHOD uint32_t* failed(int stage) const {
    return reinterpret_cast<uint32_t*>(base + Variant::kFailedOffset) + stage;
  }

  PTX_METHOD uint32_t barrier(int i) const { return address + Variant::kBarrierOffset + 8 * i; }
  PTX_METHOD uint32_t q_full() const { return barrier(0); }
  PTX_METHOD uint32_t q_empty() const { return barrier(1); }
  PTX_METHOD uint32_t k_full(int stage) const { return barrier(2 + stage); }
  PTX_METHOD uint32_t k_empty(int stage) const { return barrier(2 + Variant::kStages + stage); }
  // Values as they were loaded (of use to the masking warp only), and ready for multiplication.
  PTX_METHOD uint32_t v_landed(int stage) const { return barrier(2 + 2 * Variant::kStages + stage); }
  PTX_METHOD uint32_t v_full(int stage) const { return barrier(2 + 3 * Variant::kStages + stage); }
  PTX_METHOD uint32_t v_empty(int stage) const { return barrier(2 + 4 * Variant::kStages + stage); }
};

// One unit of a block's work: a row tile of one head of one sample.
struct AttentionSm90Tile {
  int b;
  int head;
  int kv_head;
  int segment; /* of queries */
  int first_row;
};

PTX_FN int attention_sm90_tiles(const SeqparAttention& p) { return p.batch * p.heads * p.row_tiles; }

template <class Variant>
PTX_FN AttentionSm90Tile attention_sm90_tile(const SeqparAttention& p, int index) {
  const int row_tile = index % p.row_tiles;
  const int rest = index / p.row_tiles;
  AttentionSm90Tile tile;
  tile.head = rest % p.heads;
  tile.b = rest / p.heads;
  tile.kv_head = (p.first_head + tile.head) / p.group - p.first_kv_head;
  tile.segment = 0;
  while (tile.segment + 1 < p.query_segments && p.queries[tile.segment + 1].first_tile <= row_tile) ++tile.segment;
  tile.first_row = (row_tile - p.queries[tile.segment].first_tile) * Variant::kRows;
  return tile;
}

// Whether a gate stands in front of the tile.
template <class Variant>
PTX_FN bool has_gate(const SeqparAttention& p, const KeyTiles<Variant::kKeys>& keys) {
  return keys.enters_segment() && p.keys[keys.segment].gate.flag != 0;
}

// Whether the loading lane gave up at the tile's gate. Read by the lane that gives the stage back.
template <class Variant>
PTX_FN bool gave_up(const SeqparAttention& p, const AttentionSm90Shared<Variant>& shared,
                    const KeyTiles<Variant::kKeys>& keys, RingSlot ring, int lane) {
  if (!has_gate<Variant>(p, keys)) return false;
  return ptx::shfl_idx(lane == 0 ? *shared.failed(ring.slot) : 0, 0) != 0;
}

// ---- the loading lane ----

template <class Variant>
PTX_FN void load_queries(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared,
                         const AttentionSm90Tile& at) {
  using Q = typename Variant::Q;
  ptx::mbar_arrive_expect_tx(shared.q_full(), Q::kBytes);
#pragma unroll
  for (int block = 0; block < Q::kBlocks; ++block) {
    ptx::tma_load_4d(shared.q() + block * Q::kBlockBytes, &p.q[at.segment], shared.q_full(), 64 * block, at.first_row,
                     at.head, at.b);
  }
  if constexpr (Q::kTailRowBytes != 0) {
    ptx::tma_load_4d(shared.q() + Q::kTail, &p.q_tail[at.segment], shared.q_full(), 64 * Q::kBlocks, at.first_row,
                     at.head, at.b);
  }
}

template <class Variant>
PTX_FN void load_keys(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared, int stage,
                      const AttentionSm90Tile& at, int segment, int first_key) {
  using K = typename Variant::K;
  const uint32_t full = shared.k_full(stage);
  ptx::mbar_arrive_expect_tx(full, K::kBytes);
#pragma unroll
  for (int block = 0; block < K::kBlocks; ++block) {
    ptx::tma_load_4d(shared.k(stage) + block * K::kBlockBytes, &p.k[segment], full, 64 * block, first_key, at.kv_head,
                     at.b);
  }
  if constexpr (K::kTailRowBytes != 0) {
    ptx::tma_load_4d(shared.k(stage) + K::kTail, &p.k_tail[segment], full, 64 * K::kBlocks, first_key, at.kv_head,
                     at.b);
  }
}

template <class Variant>
PTX_FN void load_values(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared, int stage,
                        const AttentionSm90Tile& at, int segment, int first_key) {
  using V = typename Variant::V;
  const uint32_t full = p.masked ? shared.v_landed(stage) : shared.v_full(stage);
  ptx::mbar_arrive_expect_tx(full, V::kBytes);
#pragma unroll
  for (int block = 0; block < V::kBlocks; ++block) {
    ptx::tma_load_4d(shared.v(stage) + block * V::kBlockBytes, &p.v[segment], full, V::kRowBytes / 2 * block,
                     first_key, at.kv_head, at.b);
  }
}

// Waits for the gate in front of a tile, once a launch, and tells the other warps whether it opened.
template <class Variant>
PTX_FN bool pass_gate(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared, RingSlot ring,
                      int segment, uint32_t& open) {
  const SeqparGate& gate = p.base.keys[segment].gate;
  const bool opened = (open >> segment & 1) || wait_for_gate(gate, segment, p.base.status, p.base.timeout_ns);
  *shared.failed(ring.slot) = !opened;
  if (opened) {
    ptx::fence_proxy_async_global();
    open |= 1u << segment;
  } else {
    ptx::mbar_arrive(shared.k_full(ring.slot));
  }
  return opened;
}

// Loads whatever the block will read, as room becomes free. A gate that stays shut ends the block:
// the others find `failed` at the first tile behind it.
template <class Variant>
PTX_FN void attention_sm90_load(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared) {
  // The first loads wait for their maps otherwise.
  ptx::tma_prefetch_map(&p.q[0]);
  if (p.base.key_segments > 0 && p.base.keys[0].len > 0) {
    ptx::tma_prefetch_map(&p.k[0]);
    ptx::tma_prefetch_map(&p.v[0]);
  }
  RingSlot ring;
  uint32_t q_parity = 0;
  uint32_t open = 0;
  for (int index = blockIdx.x; index < attention_sm90_tiles(p.base); index += gridDim.x) {
    const AttentionSm90Tile at = attention_sm90_tile<Variant>(p.base, index);
    mbar_wait(shared.q_empty(), q_parity ^ 1);
    q_parity ^= 1;
    load_queries<Variant>(p, shared, at);
    KeyTiles<Variant::kKeys> keys;
    while (keys.next(p.base, at.b)) {
      const int segment = keys.segment;
      const int first_key = keys.tile * Variant::kKeys;
      mbar_wait(shared.k_empty(ring.slot), ring.parity ^ 1);
      if (has_gate<Variant>(p.base, keys) && !pass_gate<Variant>(p, shared, ring, segment, open)) return;
      load_keys<Variant>(p, shared, ring.slot, at, segment, first_key);
      mbar_wait(shared.v_empty(ring.slot), ring.parity ^ 1);
      load_values<Variant>(p, shared, ring.slot, at, segment, first_key);
      advance<Variant::kStages>(ring);
    }
  }
}

// ---- the masking warp ----

template <class Variant>
PTX_FN void zero_value_row(unsigned char* values, int row) {
  using V = typename Variant::V;
#pragma unroll
  for (int block = 0; block < V::kBlocks; ++block) {
    uint4* words = reinterpret_cast<uint4*>(values + block * V::kBlockBytes + row * V::kRowBytes);
#pragma unroll
    for (int i = 0; i < V::kRowBytes / 16; ++i) words[i] = uint4{0, 0, 0, 0};
  }
}

template <class Variant>
PTX_FN void attention_sm90_mask(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared, int lane) {
  RingSlot ring;
  for (int index = blockIdx.x; index < attention_sm90_tiles(p.base); index += gridDim.x) {
    const AttentionSm90Tile at = attention_sm90_tile<Variant>(p.base, index);
    KeyTiles<Variant::kKeys> keys;
    while (keys.next(p.base, at.b)) {
      mbar_wait(shared.k_full(ring.slot), ring.parity);
      if (gave_up<Variant>(p.base, shared, keys, ring, lane)) return;
      // A lane that has not seen this phase yet would take the next but one for it.
      __syncwarp();
      if (lane == 0) ptx::mbar_arrive(shared.k_empty(ring.slot));
      mbar_wait(shared.v_landed(ring.slot), ring.parity);
      const SeqparKeySegment& s = p.base.keys[keys.segment];
      const uint8_t* mask = reinterpret_cast<const uint8_t*>(s.mask) + at.b * s.mask_batch;
      const int first_key = keys.tile * Variant::kKeys;
#pragma unroll 1
      for (int word = 0; word < Variant::kKeepWords; ++word) {
        const int row = 32 * word + lane;
        bool keep = row < keys.left();
        if (keep && s.mask != 0) keep = mask[(first_key + row) * s.mask_row] != 0;
        const uint32_t bits = ptx::ballot(keep);
        if (lane == 0) shared.keep(ring.slot)[word] = bits;
        if (!keep && row < Variant::kKeys) zero_value_row<Variant>(shared.values(ring.slot), row);
      }
      ptx::fence_proxy_async();
      __syncwarp();
      if (lane == 0) ptx::mbar_arrive(shared.v_full(ring.slot));
      advance<Variant::kStages>(ring);
    }
  }
}

// ---- a computing warpgroup ----

// Turns: warpgroup g may issue its i-th multiplications once warpgroup g - 1 has issued its own.
template <class Variant>
struct Turns {
  static constexpr bool kOn = Variant::kWarpgroups > 1;
  int group;

  PTX_METHOD static int barrier(int group) { return 1 + group; }
  PTX_METHOD void begin() const {
    if (kOn && group == Variant::kWarpgroups - 1) ptx::bar_arrive(barrier(0), 256);
  }
  PTX_METHOD void take() const {
    if (kOn) ptx::bar_sync(barrier(group), 256);
  }
  PTX_METHOD void pass() const {
    if (kOn) ptx::bar_arrive(barrier(group == Variant::kWarpgroups - 1 ? 0 : group + 1), 256);
  }
  PTX_METHOD void end() const {
    if (kOn && group == 0) ptx::bar_sync(barrier(0), 256);
  }
};

// Masks the scores of a tile that is ragged or has masked keys.
template <class Variant, int N>
PTX_FN void mask_tile(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared,
                      const KeyTiles<Variant::kKeys>& keys, RingSlot ring, int q,
                      float (&scores)[N]) {
  if (!p.masked && keys.left() >= Variant::kKeys) return;
  uint32_t keep[Variant::kKeepWords];
  if (p.masked) {
    mbar_wait(shared.v_full(ring.slot), ring.parity);
#pragma unroll
    for (int word = 0; word < Variant::kKeepWords; ++word) keep[word] = shared.keep(ring.slot)[word];
    // Before lane 0 gives the stage back.
    __syncwarp();
  } else {
#pragma unroll
    for (int word = 0; word < Variant::kKeepWords; ++word) keep[word] = keep_word(word, keys.left());
  }
  mask_scores(scores, keep, q);
}

template <class Variant>
PTX_FN void attention_sm90_compute(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared, int group,
                                   int warp, int lane) {
  constexpr int kDim = Variant::kDim;
  constexpr int kRows = Variant::kRows;
  const typename Variant::Element type{};
  const Turns<Variant> turns{group};
  const int q = lane % 4;
  const auto release = [&](uint32_t barrier) {
    if (lane == 0) ptx::mbar_arrive(barrier);
  };
  RingSlot ring;
  uint32_t q_parity = 0;
  turns.begin();
  for (int index = blockIdx.x; index < attention_sm90_tiles(p.base); index += gridDim.x) {
    const AttentionSm90Tile tile = attention_sm90_tile<Variant>(p.base, index);
    const SeqparQuerySegment& queries = p.base.queries[tile.segment];
    const AttentionRows at{tile.b, tile.head, tile.first_row + 64 * group + 16 * warp};
    SoftmaxState state;
    float o[HeadSm90<kDim>::kValueColumns / 2];
    load_state(p.base, queries, at, lane, state, o);
    mbar_wait(shared.q_full(), q_parity);
    q_parity ^= 1;
    KeyTiles<Variant::kKeys> keys;
    if (keys.next(p.base, tile.b)) {
      float scores[Variant::kKeys / 2];
      uint32_t weights[Variant::kKeys / 16][4];
      float factor[2];
      mbar_wait(shared.k_full(ring.slot), ring.parity);
      if (gave_up<Variant>(p.base, shared, keys, ring, lane)) return;
      ptx::wgmma_fence();
      issue_scores<kDim, kRows>(type, scores, shared.q(), 64 * group, shared.k(ring.slot));
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      release(shared.k_empty(ring.slot));
      mask_tile<Variant>(p, shared, keys, ring, q, scores);
      fold_sums(state, q);
      online_softmax(scores, state, factor, p.base.scale_log2);
      rescale_rows(o, factor);
      pack_weights(type, scores, weights);
      RingSlot before = ring;
      advance<Variant::kStages>(ring);
      bool more = keys.next(p.base, tile.b);
      if (more) mbar_wait(shared.k_full(ring.slot), ring.parity);
      while (more) {
        if (gave_up<Variant>(p.base, shared, keys, ring, lane)) {
          // No load may land after the block has gone.
          mbar_wait(shared.v_full(before.slot), before.parity);
          return;
        }
        turns.take();
        ptx::wgmma_fence();
        issue_scores<kDim, kRows>(type, scores, shared.q(), 64 * group, shared.k(ring.slot));
        ptx::wgmma_commit();
        mbar_wait(shared.v_full(before.slot), before.parity);
        ptx::wgmma_fence();
        issue_values<kDim>(type, o, weights, shared.v(before.slot));
        ptx::wgmma_commit();
        turns.pass();
        ptx::wgmma_wait<1>();
        release(shared.k_empty(ring.slot));
        mask_tile<Variant>(p, shared, keys, ring, q, scores);
        if (keys.enters_segment()) fold_sums(state, q);
        online_softmax(scores, state, factor, p.base.scale_log2);
        const RingSlot done = before;
        before = ring;
        advance<Variant::kStages>(ring);
        // Between the softmax and the wait for the multiplication beside it, not after: a loop, across
        // which the compiler moves neither.
        more = keys.next(p.base, tile.b);
        if (more) mbar_wait(shared.k_full(ring.slot), ring.parity);
        ptx::wgmma_wait<0>();
        release(shared.v_empty(done.slot));
        rescale_rows(o, factor);
        pack_weights(type, scores, weights);
      }
      release(shared.q_empty());
      mbar_wait(shared.v_full(before.slot), before.parity);
      ptx::wgmma_fence();
      issue_values<kDim>(type, o, weights, shared.v(before.slot));
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      release(shared.v_empty(before.slot));
    } else {
      // As in the masking warp: all lanes have seen the queries' phase.
      __syncwarp();
      release(shared.q_empty());
    }
    if (p.base.carry_out) {
      fold_sums(state, q);
      store_state(p.base, queries, at, lane, state, o);
    } else {
      store_result(type, p.base, queries, at, lane, state, o);
    }
  }
  turns.end();
}

// ---- the block ----

template <class Variant>
PTX_FN void attention_sm90_begin(const SeqparAttentionSm90& p, const AttentionSm90Shared<Variant>& shared) {
  constexpr int kComputeWarps = 4 * Variant::kWarpgroups;
  if (threadIdx.x == 0) {
    ptx::mbar_init(shared.q_full(), 1);
    ptx::mbar_init(shared.q_empty(), kComputeWarps);
    for (int stage = 0; stage < Variant::kStages; ++stage) {
      ptx::mbar_init(shared.k_full(stage), 1);
      // The masking warp has to hear of a shut gate as well.
      ptx::mbar_init(shared.k_empty(stage), kComputeWarps + (p.masked ? 1 : 0));
      ptx::mbar_init(shared.v_landed(stage), 1);
      ptx::mbar_init(shared.v_full(stage), 1);
      ptx::mbar_init(shared.v_empty(stage), kComputeWarps);
    }
    ptx::fence_mbar_init();
  }
  __syncthreads();
}

template <class Variant>
PTX_FN void attention_sm90(const SeqparAttentionSm90& p, unsigned char* window) {
  const uint32_t start = ptx::smem_u32(window);
  const uint32_t aligned = (start + 1023) & ~1023u;
  const AttentionSm90Shared<Variant> shared{window + (aligned - start), aligned};
  attention_sm90_begin<Variant>(p, shared);
  // From one lane, so that the compiler knows the branches on it to be uniform.
  const int warp = ptx::shfl_idx(threadIdx.x / 32, 0);
  const int lane = threadIdx.x % 32;
  if (warp < 4) {
    if constexpr (Variant::kComputeRegisters != 0) ptx::setmaxnreg_dec<Variant::kFeedRegisters>();
    if (warp == 0) {
      if (ptx::elect_one()) attention_sm90_load<Variant>(p, shared);
    } else if (warp == 1 && p.masked) {
      attention_sm90_mask<Variant>(p, shared, lane);
    }
  } else {
    if constexpr (Variant::kComputeRegisters != 0) ptx::setmaxnreg_inc<Variant::kComputeRegisters>();
    attention_sm90_compute<Variant>(p, shared, warp / 4 - 1, warp % 4, lane);
  }
}
