// Linear layers on sm_80: the contract of gemm_sm90.cuh with cp.async, ldmatrix and mma.sync, one
// block a tile. The path of GPUs before Hopper, and of chunked launches there.
//
// Sums run over k in ascending order, 16 at a time, whatever the tile: all variants agree bit for
// bit. A block whose gate does not open stores nothing, and the status says why. A row of a and of
// w starts at a multiple of 16 bytes and k is a multiple of 8. Proof: tests/emulated/gemm.rs.
//
// Waits for measurement: k of a stage and number of stages; eight warps on 128×256.
#pragma once
#include "../common/entry.cuh"
#include "../common/method.cuh"
#include "../sched/gate.cuh"
#include "../sched/gemm_tiles.cuh"
#include "../tile/gemm_epilogue.cuh"
#include "../tile/qkv_epilogue.cuh"

// HeadDim 0: without the transform of heads.
template <class T, int Rows, int Cols, int HeadDim = 0>
struct GemmSm80 {
  static constexpr int kRows = Rows;
  static constexpr int kCols = Cols;
  static constexpr int kThreads = 128;
  static constexpr int kStages = 4;
  static constexpr int kK = 32; // of a stage
  // Two by two warps.
  static constexpr int kWarpRows = Rows / 2;
  static constexpr int kWarpCols = Cols / 2;
  static constexpr int kRowBlocks = kWarpRows / 16;
  static constexpr int kColBlocks = kWarpCols / 8;

  static constexpr int kRowBytes = kK * 2;
  static constexpr int kABytes = Rows * kRowBytes;
  static constexpr int kStageBytes = (Rows + Cols) * kRowBytes;
  static constexpr int kStagedBytes = Rows * Staging<Cols>::kPitch;
  // The stages are done with when sums are staged.
  static constexpr int kTileBytes = kStages * kStageBytes > kStagedBytes ? kStages * kStageBytes : kStagedBytes;
  static constexpr int kBias = kTileBytes;
  static constexpr int kVerdict = kBias + Cols * 4;
  static constexpr int kSmemBytes = kVerdict + 16;

  const SeqparGemm& p;
  const SeqparQkv* qkv;
  unsigned char* smem;
  uint32_t base; // address of smem in the shared window
  GemmTile tile;
  int thread;

  // Column block `block` of 8 of a row, where eight rows of one column block lie in different banks.
  PTX_METHOD static uint32_t offset(int row, int block) { return row * kRowBytes + ((block ^ row / 2 % 4) << 4); }

  // Rows first..first + Count of [rows, k] from `from` on; zeros past the last row and past k.
  template <int Count>
  PTX_METHOD void load_rows(uint32_t to, const uint16_t* from, int64_t stride, int rows, int k_first) const {
    constexpr int kBlocks = kK / 8;
#pragma unroll
    for (int i = 0; i < (Count * kBlocks + kThreads - 1) / kThreads; i++) {
      const int row = (i * kThreads + thread) / kBlocks, block = thread % kBlocks, k = k_first + block * 8;
      if (Count * kBlocks % kThreads != 0 && row >= Count) break;
      const bool inside = row < rows && k < p.k;
      ptx::cp_async_16(to + offset(row, block), inside ? from + row * stride + k : from, inside ? 16 : 0);
    }
  }

  PTX_METHOD void load_stage(int k_block) const {
    const uint32_t to = base + k_block % kStages * kStageBytes;
    const SeqparGemmChunk& chunk = p.chunks[tile.chunk];
    const SeqparGemmPart& part = p.parts[tile.part];
    load_rows<Rows>(to, at<const uint16_t>(chunk.a, tile.sample, tile.row), chunk.a.row, chunk.rows - tile.row,
                    k_block * kK);
    load_rows<Cols>(to + kABytes, reinterpret_cast<const uint16_t*>(part.w) + tile.col * part.w_row, part.w_row,
                    part.cols - tile.col, k_block * kK);
  }

  PTX_METHOD void multiply_stage(float (&sums)[kRowBlocks][kColBlocks][4], int k_block) const {
    const int lane = thread % 32, warp = thread / 32;
    const uint32_t a_tile = base + k_block % kStages * kStageBytes, w_tile = a_tile + kABytes;
    const int first_row = warp / 2 * kWarpRows, first_col = warp % 2 * kWarpCols;
#pragma unroll
    for (int step = 0; step < kK / 16; step++) {
      uint32_t a[kRowBlocks][4], w[kColBlocks][2];
#pragma unroll
      for (int i = 0; i < kRowBlocks; i++)
        ptx::ldmatrix_x4(a[i], a_tile + offset(first_row + i * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < kColBlocks; j += 2) {
        const int row = first_col + j * 8 + lane % 8, k_half = step * 2 + lane / 8 % 2;
        if (j + 1 == kColBlocks) {
          ptx::ldmatrix_x2(w[j], w_tile + offset(row, k_half));
          break;
        }
        uint32_t two[4];
        ptx::ldmatrix_x4(two, w_tile + offset(row + lane / 16 * 8, k_half));
        w[j][0] = two[0];
        w[j][1] = two[1];
        w[j + 1][0] = two[2];
        w[j + 1][1] = two[3];
      }
#pragma unroll
      for (int i = 0; i < kRowBlocks; i++)
#pragma unroll
        for (int j = 0; j < kColBlocks; j++) mma_16816(T{}, sums[i][j], a[i], w[j]);
    }
  }

  PTX_METHOD void multiply(float (&sums)[kRowBlocks][kColBlocks][4]) const {
    const int k_blocks = (p.k + kK - 1) / kK;
    for (int block = 0; block < kStages - 1; block++) {
      if (block < k_blocks) load_stage(block);
      ptx::cp_async_commit();
    }
    for (int block = 0; block < k_blocks; block++) {
      ptx::cp_async_wait<kStages - 2>();
      // The stage is there for all; all are done with the one that is loaded next.
      __syncthreads();
      if (block + kStages - 1 < k_blocks) load_stage(block + kStages - 1);
      ptx::cp_async_commit();
      multiply_stage(sums, block);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
  }

  // Lane l of a warp holds rows l/4 and 8 below of a 16×8 block, columns 2(l%4) and the next.
  PTX_METHOD void stage_sums(const float (&sums)[kRowBlocks][kColBlocks][4], int pass) const {
    const int lane = thread % 32, warp = thread / 32;
    const auto* bias = reinterpret_cast<const float*>(smem + kBias);
#pragma unroll
    for (int i = 0; i < kRowBlocks; i++)
#pragma unroll
      for (int j = 0; j < kColBlocks; j++) {
        const int col = warp % 2 * kWarpCols + j * 8 + lane % 4 * 2;
        unsigned char* row = smem + (warp / 2 * kWarpRows + i * 16 + lane / 4) * Staging<Cols>::kPitch;
        const float2 b = *reinterpret_cast<const float2*>(bias + col);
        const float (&s)[4] = sums[i][j];
#pragma unroll
        for (int below = 0; below < 2; below++) {
          unsigned char* to = row + below * 8 * Staging<Cols>::kPitch;
          const float x = s[2 * below] + b.x, y = s[2 * below + 1] + b.y;
          if (HeadDim > 0 || p.out_f32 == 0) *reinterpret_cast<uint32_t*>(to + col * 2) = pack(T{}, x, y);
          else if (col / (Cols / 2) == pass) *reinterpret_cast<float2*>(to + col % (Cols / 2) * 4) = {x, y};
        }
      }
  }

  PTX_METHOD void transform_heads() const {
    const HeadTransform<T> f(*qkv, tile);
    if (f.is_identity()) return;
    transform_staged_heads<T, Rows, Cols, HeadDim>(p, f, tile, tile.row, smem, thread / 32, kThreads / 32, thread % 32);
    __syncthreads();
  }

  PTX_METHOD void store(int pass) const {
    const int col = tile.col + pass * (Cols / 2);
    if constexpr (HeadDim > 0) {
      transform_heads();
      store_staged<T, Rows, Cols, false>(p, SEQPAR_EPILOGUE_NONE, tile, tile.row, col, smem, thread, kThreads);
    } else if (p.out_f32) {
      store_staged<T, Rows, Cols, true>(p, p.epilogue, tile, tile.row, col, smem, thread, kThreads);
    } else {
      store_staged<T, Rows, Cols, false>(p, p.epilogue, tile, tile.row, col, smem, thread, kThreads);
    }
  }

  // One thread waits for the block.
  PTX_METHOD bool is_open() const {
    const SeqparGate& gate = p.chunks[tile.chunk].arrival;
    if (gate.flag == 0) return true;
    auto* verdict = reinterpret_cast<uint32_t*>(smem + kVerdict);
    if (thread == 0) *verdict = wait_for_gate(gate, tile.chunk, p.status, p.timeout_ns);
    __syncthreads();
    return *verdict != 0;
  }

  PTX_METHOD static void run(const SeqparGemm& p, const SeqparQkv* qkv = nullptr) {
    SMEM_EXTERN(window);
    ptx::grid_launch_dependents();
    ptx::grid_dependency_wait();
    const GemmSm80 block{p, qkv, window, ptx::smem_u32(window), gemm_tile<Rows, Cols>(p, blockIdx.x),
                         static_cast<int>(threadIdx.x)};
    if (!block.is_open()) return;
    load_bias<T, Cols>(p.parts[block.tile.part], block.tile.col, reinterpret_cast<float*>(window + kBias),
                       threadIdx.x, kThreads);
    float sums[kRowBlocks][kColBlocks][4] = {};
    block.multiply(sums);
    for (int pass = 0; pass < (HeadDim == 0 && p.out_f32 ? 2 : 1); pass++) {
      if (pass > 0) __syncthreads();
      block.stage_sums(sums, pass);
      __syncthreads();
      block.store(pass);
    }
  }
};
