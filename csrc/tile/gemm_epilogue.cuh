// What follows a·wᵀ: the bias, then per element an activation, a residual or a gated residual,
// with the roundings of the unfused chain: the sum with its bias is rounded to the output type,
// finished in f32 and rounded again. Sums arrive through a staging area in shared memory, so that
// stores are whole lines whatever the layout of the output.
#pragma once
#include "../common/element.cuh"
#include "../common/method.cuh"
#include "../common/rows.cuh"
#include "activation.cuh"
#include "gemm_tile.cuh"

// Elements that a lane handles at once: 16 bytes of a half type.
constexpr int kGroup = 8;

// A staging area: rows of Cols halves, or of Cols/2 floats.
template <int Cols>
struct Staging {
  static constexpr int kGroups = Cols / kGroup;
  // An odd number of 16-byte units: eight rows start in different banks.
  static constexpr int kPitch = (kGroups | 1) * 16;
};

template <class T>
PTX_FN float load_half(const uint16_t* at) {
  return low(T{}, *at);
}
template <int N>
PTX_FN void finish(int epilogue, float (&x)[N], const float (&residual)[N], const float (&gate)[N]) {
  switch (epilogue) {
    case SEQPAR_EPILOGUE_GELU:
#pragma unroll
      for (int i = 0; i < N; i++) x[i] = gelu(x[i]);
      break;
    case SEQPAR_EPILOGUE_SILU:
#pragma unroll
      for (int i = 0; i < N; i++) x[i] = silu(x[i]);
      break;
    case SEQPAR_EPILOGUE_RESIDUAL:
#pragma unroll
      for (int i = 0; i < N; i++) x[i] = residual[i] + x[i];
      break;
    case SEQPAR_EPILOGUE_GATED_RESIDUAL:
#pragma unroll
      for (int i = 0; i < N; i++) x[i] = ptx::fma(gate[i], x[i], residual[i]);
      break;
    default:
      break;
  }
}

// The bias of a tile's columns in f32. Without one -0, which leaves every sum as it is.
template <class T, int Cols>
PTX_FN void load_bias(const SeqparGemmPart& part, int col, float* bias, int lane, int lanes) {
  const auto* from = reinterpret_cast<const uint16_t*>(part.bias);
  for (int i = lane; i < Cols; i += lanes)
    bias[i] = from != nullptr && col + i < part.cols ? load_half<T>(from + col + i) : -0.0f;
}

// Where the rows of one tile go and what they are finished with.
template <class T, bool F32>
struct GemmSink {
  int epilogue;
  int sample;
  int part;
  int head_cols;
  bool aligned; // groups of eight are at 16-byte boundaries in everything
  const SeqparGemmChunk& chunk;

  PTX_METHOD GemmSink(const SeqparGemm& p, const GemmTile& tile, int epilogue)
      : epilogue(epilogue), sample(tile.sample), part(tile.part), head_cols(p.head_cols),
        chunk(p.chunks[tile.chunk]) {
    aligned = is_aligned_16(chunk.out[part], F32 ? 4 : 2) && head_cols % kGroup == 0;
    if (epilogue >= SEQPAR_EPILOGUE_RESIDUAL) aligned = aligned && is_aligned_16(chunk.residual, 2);
    if (epilogue == SEQPAR_EPILOGUE_GATED_RESIDUAL) aligned = aligned && is_aligned_16(chunk.gate, 2);
  }

  PTX_METHOD const uint16_t* residual(int row, int col) const { return at<const uint16_t>(chunk.residual, sample, row) + col; }

  PTX_METHOD const uint16_t* gate(int row, int col) const {
    const SeqparVector& gate = chunk.gate;
    if (chunk.frame.address != 0 && *at<const uint8_t>(chunk.frame, sample, row) == 0)
      return reinterpret_cast<const uint16_t*>(gate.second) + sample * gate.second_batch + col;
    return reinterpret_cast<const uint16_t*>(gate.address) + sample * gate.batch + row * gate.row + col;
  }

  // Of an element of the output's type.
  template <class E>
  PTX_METHOD E* out(int row, int col) const {
    const int head = head_cols == 0 ? 0 : col / head_cols;
    return at<E>(chunk.out[part], sample, row, head) + (col - head * head_cols);
  }

  PTX_METHOD void prefetch(int row, int col, uint4& r, uint4& g) const {
    if (epilogue >= SEQPAR_EPILOGUE_RESIDUAL) r = *reinterpret_cast<const uint4*>(residual(row, col));
    if (epilogue == SEQPAR_EPILOGUE_GATED_RESIDUAL) g = *reinterpret_cast<const uint4*>(gate(row, col));
  }

  PTX_METHOD void store_group(int row, int col, float (&x)[kGroup], uint4 r, uint4 g) const {
    float residual[kGroup], gate[kGroup];
    widen<T>(r, residual);
    widen<T>(g, gate);
    finish(epilogue, x, residual, gate);
    if constexpr (F32) {
      auto* to = out<float>(row, col);
      *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]};
      *reinterpret_cast<float4*>(to + 4) = {x[4], x[5], x[6], x[7]};
    } else {
      *reinterpret_cast<uint4*>(out<uint16_t>(row, col)) = narrow<T>(x);
    }
  }

  // The same, element by element: unaligned tensors and the last columns.
  PTX_METHOD void store_elements(int row, int col, const float (&sums)[kGroup], int count) const {
#pragma unroll
    for (int i = 0; i < kGroup; i++) {
      if (i >= count) break;
      float x[1] = {sums[i]}, r[1] = {0.0f}, g[1] = {0.0f};
      if (epilogue >= SEQPAR_EPILOGUE_RESIDUAL) r[0] = load_half<T>(residual(row, col + i));
      if (epilogue == SEQPAR_EPILOGUE_GATED_RESIDUAL) g[0] = load_half<T>(gate(row, col + i));
      finish(epilogue, x, r, g);
      if constexpr (F32) *out<float>(row, col + i) = x[0];
      else *out<uint16_t>(row, col + i) = static_cast<uint16_t>(pack(T{}, x[0], 0.0f));
    }
  }
};

// Stores the staged rows `row..row + Rows` of a tile's columns `col..`, as many as the output has.
// Of `lanes` lanes this is the `lane`-th; the staged rows are visible to it.
template <class T, int Rows, int Cols, bool F32>
PTX_FN void store_staged(const SeqparGemm& p, int epilogue, const GemmTile& tile, int row, int col,
                         const unsigned char* staged, int lane, int lanes) {
  constexpr int kGroups = F32 ? Cols / 2 / kGroup : Cols / kGroup;
  constexpr int kGroupBytes = kGroup * (F32 ? 4 : 2);
  constexpr int kBatch = 4; // groups whose residual and gate are on their way at once
  const GemmSink<T, F32> sink(p, tile, epilogue);
  const int rows = sink.chunk.rows - row, cols = p.parts[tile.part].cols - col;
  for (int first = lane; first < Rows * kGroups; first += kBatch * lanes) {
    uint4 residual[kBatch] = {}, gate[kBatch] = {};
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const int group = first + i * lanes, r = group / kGroups, c = group % kGroups * kGroup;
      if (group < Rows * kGroups && r < rows && c + kGroup <= cols && sink.aligned)
        sink.prefetch(row + r, col + c, residual[i], gate[i]);
    }
#pragma unroll
    for (int i = 0; i < kBatch; i++) {
      const int group = first + i * lanes, r = group / kGroups, c = group % kGroups * kGroup;
      if (group >= Rows * kGroups || r >= rows || c >= cols) continue;
      const unsigned char* from = staged + r * Staging<Cols>::kPitch + c / kGroup * kGroupBytes;
      float x[kGroup];
      if constexpr (F32) {
        const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 16);
        const float both[kGroup] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int j = 0; j < kGroup; j++) x[j] = both[j];
      } else {
        widen<T>(*reinterpret_cast<const uint4*>(from), x);
      }
      if (sink.aligned && c + kGroup <= cols) sink.store_group(row + r, col + c, x, residual[i], gate[i]);
      else sink.store_elements(row + r, col + c, x, cols - c < kGroup ? cols - c : kGroup);
    }
  }
}
