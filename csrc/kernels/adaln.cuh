// Norm, modulation, gate and residual: each row is read once, kept in registers and written once.
//
// LANES threads share a row, each with VECTORS vectors of 8 channels: vector i of thread t holds
// channels 8·(i·LANES + t). Both depend on the hidden size alone, so a row's sums have one order
// whatever the number of rows. The fused kernel rounds x + gate·branch in registers where the
// chain of two kernels would store it, and goes on with the rounded values: the same bits.
#pragma once
#include "../common/reduce.cuh"
#include "../common/rows.cuh"

constexpr int kRowThreads = 256;

template <class T, int LANES, int VECTORS, bool GATE, bool NORM>
struct RowKernel {
  static constexpr int kGroups = kRowThreads / LANES;
  static constexpr int kWarps = LANES > 32 ? LANES / 32 : 1;
  static constexpr int kScratchBytes = LANES > 32 ? kGroups * 2 * kWarps * 4 : 0;

  const SeqparRowKernel& p;
  const int group, thread;
  const bool active;  // false: only here for the shuffles of its warp
  float* scratch;  // two sums of kWarps floats
  float x[VECTORS][8];

  PTX_FN bool has(int i) const { return active && (i * LANES + thread) * 8 < p.hidden; }
  PTX_FN int vector_index(int i) const { return i * LANES + thread; }

  PTX_FN float sum(float v, int which) const {
    if constexpr (LANES <= 32) {
      return sum_lanes<LANES>(v);
    } else {
      return sum_warps<LANES>(v, scratch + which * kWarps, 1 + group, thread);
    }
  }

  PTX_FN void load(int batch, int row) {
    const uint4* source = reinterpret_cast<const uint4*>(at<uint16_t>(p.x, batch, row));
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      uint4 v = {0, 0, 0, 0};
      if (has(i)) v = ptx::ld_stream(source + vector_index(i));
      widen<T>(v, x[i]);
    }
  }

  // x = round(x + gate·branch), stored to out.
  PTX_FN void add_branch(int batch, int row, bool frame) {
    const uint4* branch = reinterpret_cast<const uint4*>(at<uint16_t>(p.branch, batch, row));
    const uint4* gate = vector_of(p.gate, batch, row, frame);
    uint4* out = reinterpret_cast<uint4*>(at<uint16_t>(p.out, batch, row));
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      if (!has(i)) continue;
      float b[8], g[8];
      widen<T>(ptx::ld_stream(branch + vector_index(i)), b);
      widen<T>(gate[vector_index(i)], g);
#pragma unroll
      for (int j = 0; j < 8; j++) x[i][j] = ptx::fma(g[j], b[j], x[i][j]);
      const uint4 rounded = narrow<T>(x[i]);
      out[vector_index(i)] = rounded;
      widen<T>(rounded, x[i]);
    }
  }

  PTX_FN float mean() const {
    float s = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) s += x[i][j];
    }
    return sum(s, 0) / static_cast<float>(p.hidden);
  }

  PTX_FN float inverse_deviation(float mean) const {
    float s = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      if (!has(i)) continue;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float d = x[i][j] - mean;
        s = ptx::fma(d, d, s);
      }
    }
    return 1.0f / ptx::sqrt(sum(s, 1) / static_cast<float>(p.hidden) + p.eps);
  }

  PTX_FN void modulate(int batch, int row, bool frame, float mean, float inverse) {
    const uint4* shift = vector_of(p.shift, batch, row, frame);
    const uint4* scale = vector_of(p.scale, batch, row, frame);
    uint4* y = reinterpret_cast<uint4*>(at<uint16_t>(p.y, batch, row));
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      if (!has(i)) continue;
      float a[8], b[8];
      widen<T>(scale[vector_index(i)], a);
      widen<T>(shift[vector_index(i)], b);
#pragma unroll
      for (int j = 0; j < 8; j++) x[i][j] = ptx::fma((x[i][j] - mean) * inverse, 1.0f + a[j], b[j]);
      y[vector_index(i)] = narrow<T>(x[i]);
    }
  }

  PTX_FN void statistics(int batch, int row, float mean, float inverse) const {
    if (thread != 0 || !active) return;
    if (p.mean.address) *at<float>(p.mean, batch, row) = mean;
    if (p.rstd.address) *at<float>(p.rstd, batch, row) = inverse;
  }

  PTX_FN void run(int batch, int row) {
    const bool frame = !p.frame.address || *at<uint8_t>(p.frame, batch, row) != 0;
    load(batch, row);
    if constexpr (GATE) add_branch(batch, row, frame);
    if constexpr (NORM) {
      const float m = p.rms ? 0.0f : mean();
      const float inverse = inverse_deviation(m);
      modulate(batch, row, frame, m, inverse);
      statistics(batch, row, m, inverse);
      // The next row's sums use the scratch again.
      if constexpr (LANES > 32) ptx::bar_sync(1 + group, LANES);
    }
  }
};

// Rows of all samples, cut evenly over the blocks; a block's groups take turns.
template <class T, int LANES, int VECTORS, bool GATE, bool NORM>
PTX_FN void row_kernel(const SeqparRowKernel& p) {
  using Kernel = RowKernel<T, LANES, VECTORS, GATE, NORM>;
  SMEM_EXTERN(shared);
  const int thread = static_cast<int>(threadIdx.x), group = thread / LANES;
  const int64_t rows = static_cast<int64_t>(p.batch) * p.rows;
  const int64_t first = rows * blockIdx.x / gridDim.x, end = rows * (blockIdx.x + 1) / gridDim.x;
  ptx::grid_launch_dependents();
  ptx::grid_dependency_wait();
  for (int64_t turn = first; turn < end; turn += Kernel::kGroups) {
    const int64_t row = turn + group;
    // Half a warp without a row stays for the shuffles of the other half.
    if (LANES >= 32 && row >= end) break;
    const bool active = row < end;
    const int64_t r = active ? row : end - 1;
    float* scratch = reinterpret_cast<float*>(shared) + group * 2 * Kernel::kWarps;
    Kernel kernel{p, group, thread % LANES, active, scratch, {}};
    kernel.run(static_cast<int>(r / p.rows), static_cast<int>(r % p.rows));
  }
}
