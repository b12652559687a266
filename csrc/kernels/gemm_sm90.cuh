// Linear layers on sm_90a: out_j = epilogue(a·w_jᵀ + bias_j), by persistent blocks of three roles.
// One warp loads tiles of a and w by TMA into a ring of stages, waiting for the gate of each chunk
// of rows that it comes to; two warpgroups multiply, 64 rows each; three warps finish and store
// the staged sums of a tile while the next one is multiplied.
//
// Sums run over k in ascending order, 16 at a time, whatever the tile: all variants agree bit for
// bit. A gate that does not open ends the block: what it has multiplied is stored, the rest is not,
// and the status says why. Proof: tests/emulated/gemm.rs.
//
// Waits for measurement: stages and tile per shape; a cluster of two with w multicast; row tiles
// in groups where w does not fit the L2 cache; activations in the store warps (their only work
// that is not memory) against the multiplying ones.
#pragma once
#include "../common/barrier.cuh"
#include "../common/entry.cuh"
#include "../common/method.cuh"
#include "../sched/gate.cuh"
#include "../sched/gemm_tiles.cuh"
#include "../tile/descriptor.cuh"
#include "../tile/gemm_epilogue.cuh"
#include "../tile/qkv_epilogue.cuh"

// HeadDim 0: without the transform of heads.
template <class T, int Cols, int Stages, int HeadDim = 0>
struct GemmSm90 {
  static constexpr int kRows = 128;
  static constexpr int kHalfRows = 64; // of one multiplying warpgroup
  static constexpr int kK = 64;        // of a stage: 128 bytes, the widest swizzle
  static constexpr int kThreads = 384;
  static constexpr int kWarpgroups = 2;
  static constexpr int kStoreWarps = 3;
  static constexpr int kMultiplyWarps = 4 * kWarpgroups;

  static constexpr int kABytes = kRows * kK * 2;
  static constexpr int kStageBytes = kABytes + Cols * kK * 2;
  static constexpr int kStagedBytes = kHalfRows * Staging<Cols>::kPitch; // of one warpgroup
  static constexpr int kStaged = Stages * kStageBytes;
  static constexpr int kBias = kStaged + kWarpgroups * kStagedBytes;
  static constexpr int kBarriers = kBias + Cols * 4;
  static constexpr int kVerdicts = kBarriers + (2 * Stages + 2 * kWarpgroups) * 8;
  // The window starts at a multiple of 16, a swizzled tile at one of 1024.
  static constexpr int kSmemBytes = kVerdicts + (Stages + kWarpgroups) * 4 + 1024 - 16;

  // Registers of a thread: 128·(kStoreRegs + 2·kMultiplyRegs) fill the register file.
  static constexpr int kStoreRegs = 104;
  static constexpr int kMultiplyRegs = 200;

  const SeqparGemmSm90& p;
  const SeqparQkv* qkv;
  unsigned char* smem;
  uint32_t base; // address of smem in the shared window
  int tiles;
  int k_blocks;

  PTX_METHOD uint32_t full(int stage) const { return base + kBarriers + stage * 8; }
  PTX_METHOD uint32_t empty(int stage) const { return base + kBarriers + (Stages + stage) * 8; }
  // Sums of half h are staged; its area and the bias are ready for the next ones.
  PTX_METHOD uint32_t staged(int h) const { return base + kBarriers + (2 * Stages + h) * 8; }
  PTX_METHOD uint32_t ready(int h) const { return base + kBarriers + (2 * Stages + kWarpgroups + h) * 8; }
  // Not 0 once a stage (a half) brings the news that there is nothing more to come.
  PTX_METHOD uint32_t* stage_verdict(int stage) const { return reinterpret_cast<uint32_t*>(smem + kVerdicts) + stage; }
  PTX_METHOD uint32_t* half_verdict(int h) const { return stage_verdict(Stages) + h; }
  PTX_METHOD float* bias() const { return reinterpret_cast<float*>(smem + kBias); }
  PTX_METHOD unsigned char* staging(int h) const { return smem + kStaged + h * kStagedBytes; }
  PTX_METHOD GemmTile tile(int index) const { return gemm_tile<kRows, Cols>(p.gemm, index); }

  PTX_METHOD void init_barriers() const {
    for (int s = 0; s < Stages; s++) {
      ptx::mbar_init(full(s), 1);
      ptx::mbar_init(empty(s), kMultiplyWarps);
      *stage_verdict(s) = 0;
    }
    for (int h = 0; h < kWarpgroups; h++) {
      ptx::mbar_init(staged(h), 4);
      ptx::mbar_init(ready(h), kStoreWarps);
      *half_verdict(h) = 0;
    }
    ptx::fence_mbar_init();
  }

  // ---- the loading warp, one lane ----

  PTX_METHOD void load() const {
    RingSlot ring;
    int chunk = -1;
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const GemmTile t = tile(index);
      if (t.chunk != chunk) {
        chunk = t.chunk;
        if (!wait_for_gate(p.gemm.chunks[chunk].arrival, chunk, p.gemm.status, p.gemm.timeout_ns)) {
          mbar_wait(empty(ring.slot), ring.parity ^ 1);
          *stage_verdict(ring.slot) = 1;
          ptx::mbar_arrive(full(ring.slot));
          return;
        }
        ptx::fence_proxy_async_global();
      }
      for (int block = 0; block < k_blocks; block++) {
        const uint32_t bar = full(ring.slot), a = base + ring.slot * kStageBytes;
        mbar_wait(empty(ring.slot), ring.parity ^ 1);
        ptx::mbar_arrive_expect_tx(bar, kStageBytes);
        ptx::tma_load_3d(a, &p.a_maps[chunk], bar, block * kK, t.row, t.sample);
        ptx::tma_load_2d(a + kABytes, &p.w_maps[t.part], bar, block * kK, t.col);
        advance<Stages>(ring);
      }
    }
  }

  // ---- the multiplying warpgroups ----

  // One stage's products, 16 of k at a time; `fresh` starts a sum.
  PTX_METHOD void multiply_stage(float (&sums)[Cols / 2], int stage, int half, bool fresh) const {
    const uint32_t a = base + stage * kStageBytes + half * kHalfRows * 128;
    const uint64_t a_desc = matrix_descriptor(a, 16, 1024, Swizzle::k128);
    const uint64_t w_desc = matrix_descriptor(base + stage * kStageBytes + kABytes, 16, 1024, Swizzle::k128);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kK / 16; i++) // 16 of k are 32 bytes; descriptors count 16
      ptx::wgmma_ss<0, 0>(T{}, sums, a_desc + 2 * i, w_desc + 2 * i, !fresh || i > 0);
    ptx::wgmma_commit();
  }

  // A tile's sums; false where its gate did not open. A stage is given back once the products of
  // the next one are under way. There is at least one stage.
  PTX_METHOD bool multiply(float (&sums)[Cols / 2], RingSlot& ring, int half, int lane) const {
    mbar_wait(full(ring.slot), ring.parity);
    // Read by the lane whose arrival gives the stage back.
    const uint32_t verdict = lane == 0 ? *stage_verdict(ring.slot) : 0;
    if (ptx::shfl_idx(verdict, 0) != 0) return false;
    multiply_stage(sums, ring.slot, half, true);
    int last = ring.slot;
    advance<Stages>(ring);
    for (int block = 1; block < k_blocks; block++) {
      mbar_wait(full(ring.slot), ring.parity);
      multiply_stage(sums, ring.slot, half, false);
      ptx::wgmma_wait<1>();
      if (lane == 0) ptx::mbar_arrive(empty(last));
      last = ring.slot;
      advance<Stages>(ring);
    }
    ptx::wgmma_wait<0>();
    if (lane == 0) ptx::mbar_arrive(empty(last));
    return true;
  }

  // Lane l of warp w holds rows 16w + l/4 and 8 below, columns 8j + 2(l%4) and the next.
  PTX_METHOD void stage_halves(const float (&sums)[Cols / 2], int half, int warp, int lane) const {
    const float* from = bias() + lane % 4 * 2;
    const uint32_t row = base + kStaged + half * kStagedBytes + (warp * 16 + lane % 16) * Staging<Cols>::kPitch;
    uint32_t x[4];
#pragma unroll
    for (int j = 0; j < Cols / 8; j++) {
      const float2 b = *reinterpret_cast<const float2*>(from + j * 8);
      x[j % 2 * 2] = pack(T{}, sums[4 * j] + b.x, sums[4 * j + 1] + b.y);
      x[j % 2 * 2 + 1] = pack(T{}, sums[4 * j + 2] + b.x, sums[4 * j + 3] + b.y);
      if (j % 2 == 1) ptx::stmatrix_x4(x, row + (j - 1 + lane / 16) * 16);
    }
    static_assert(Cols % 16 == 0, "columns are staged 16 at a time");
  }

  // Half of the columns in f32, where they fill the area.
  PTX_METHOD void stage_floats(const float (&sums)[Cols / 2], int pass, int half, int warp, int lane) const {
    unsigned char* rows = staging(half) + (warp * 16 + lane / 4) * Staging<Cols>::kPitch + lane % 4 * 8;
#pragma unroll
    for (int j = 0; j < Cols / 8; j++) {
      if (j / (Cols / 16) != pass) continue;
      const float2 b = *reinterpret_cast<const float2*>(bias() + j * 8 + lane % 4 * 2);
      unsigned char* to = rows + j % (Cols / 16) * 32;
      *reinterpret_cast<float2*>(to) = {sums[4 * j] + b.x, sums[4 * j + 1] + b.y};
      *reinterpret_cast<float2*>(to + 8 * Staging<Cols>::kPitch) = {sums[4 * j + 2] + b.x, sums[4 * j + 3] + b.y};
    }
  }

  PTX_METHOD int passes() const { return HeadDim == 0 && p.gemm.out_f32 ? 2 : 1; }

  PTX_METHOD void give_staged(int half, int lane) const {
    __syncwarp();
    if (lane == 0) ptx::mbar_arrive(staged(half));
  }

  PTX_METHOD void multiply_tiles(int half, int warp, int lane) const {
    RingSlot ring;
    uint32_t parity = 0;
    float sums[Cols / 2];
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      if (!multiply(sums, ring, half, lane)) {
        mbar_wait(ready(half), parity);
        if (warp == 0 && lane == 0) *half_verdict(half) = 1;
        give_staged(half, lane);
        return;
      }
      for (int pass = 0; pass < passes(); pass++) {
        mbar_wait(ready(half), parity);
        parity ^= 1;
        if (p.gemm.out_f32) stage_floats(sums, pass, half, warp, lane);
        else stage_halves(sums, half, warp, lane);
        give_staged(half, lane);
      }
    }
  }

  // ---- the storing warps ----

  PTX_METHOD void give_ready(int half, int lane) const {
    __syncwarp();
    if (lane == 0) ptx::mbar_arrive(ready(half));
  }

  PTX_METHOD void load_tile_bias(const GemmTile& t, int thread) const {
    load_bias<T, Cols>(p.gemm.parts[t.part], t.col, bias(), thread, kStoreWarps * 32);
  }

  // The storing warps see each other's heads when this returns.
  PTX_METHOD void transform_heads(const GemmTile& t, int half, int thread) const {
    const HeadTransform<T> f(*qkv, t);
    if (f.is_identity()) return;
    transform_staged_heads<T, kHalfRows, Cols, HeadDim>(p.gemm, f, t, t.row + half * kHalfRows, staging(half),
                                                        thread / 32, kStoreWarps, thread % 32);
    ptx::bar_sync(1, kStoreWarps * 32);
  }

  PTX_METHOD void store_half(const GemmTile& t, int half, int pass, int thread) const {
    const int row = t.row + half * kHalfRows, col = t.col + pass * (Cols / 2);
    constexpr int kLanes = kStoreWarps * 32;
    if constexpr (HeadDim > 0) {
      transform_heads(t, half, thread);
      store_staged<T, kHalfRows, Cols, false>(p.gemm, SEQPAR_EPILOGUE_NONE, t, row, col, staging(half), thread, kLanes);
    } else if (p.gemm.out_f32) {
      store_staged<T, kHalfRows, Cols, true>(p.gemm, p.gemm.epilogue, t, row, col, staging(half), thread, kLanes);
    } else {
      store_staged<T, kHalfRows, Cols, false>(p.gemm, p.gemm.epilogue, t, row, col, staging(half), thread, kLanes);
    }
  }

  PTX_METHOD void store_tiles(int thread, int lane) const {
    if (static_cast<int>(blockIdx.x) < tiles) load_tile_bias(tile(blockIdx.x), thread);
    for (int half = 0; half < kWarpgroups; half++) give_ready(half, lane);
    uint32_t parity = 0;
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      const GemmTile t = tile(index);
      for (int pass = 0; pass < passes(); pass++) {
        for (int half = 0; half < kWarpgroups; half++) {
          mbar_wait(staged(half), parity);
          uint32_t verdict = lane == 0 ? *half_verdict(half) : 0;
          if (ptx::shfl_idx(verdict, 0) != 0) return;
          store_half(t, half, pass, thread);
          if (pass + 1 < passes()) give_ready(half, lane);
        }
        parity ^= 1;
      }
      const int next = index + gridDim.x;
      if (next >= tiles) return;
      // Both halves of this tile have read their bias.
      load_tile_bias(tile(next), thread);
      for (int half = 0; half < kWarpgroups; half++) give_ready(half, lane);
    }
  }

  PTX_METHOD static void run(const SeqparGemmSm90& p, const SeqparQkv* qkv = nullptr) {
    SMEM_EXTERN(window);
    const uint32_t start = ptx::smem_u32(window), base = (start + 1023) & ~1023u;
    const GemmSm90 block{p, qkv, window + (base - start), base, gemm_tile_count(p.gemm), (p.gemm.k + kK - 1) / kK};
    const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) block.init_barriers();
    ptx::grid_launch_dependents();
    __syncthreads();
    ptx::grid_dependency_wait();
    if (warpgroup == 0) {
      ptx::setmaxnreg_dec<kStoreRegs>();
      if (warp > 0) block.store_tiles(threadIdx.x - 32, lane);
      else if (ptx::elect_one()) block.load();
    } else {
      ptx::setmaxnreg_inc<kMultiplyRegs>();
      block.multiply_tiles(warpgroup - 1, warp, lane);
    }
  }
};
