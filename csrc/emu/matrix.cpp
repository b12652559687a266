// ldmatrix, stmatrix and mma.sync, by the fragment maps of the PTX ISA.
#include <cstring>

#include "machine.h"

namespace emu {
namespace {

float half_value(uint32_t bits, Half half) {
  uint16_t low = static_cast<uint16_t>(bits);
  if (half == Half::kF16) return f16_value(low);
  uint32_t wide = uint32_t{low} << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

struct MatrixMove {
  uint32_t* registers;  // of the lane; only read by stmatrix
  uint32_t address;
  int count;
  bool transposed, store;
};

// Bank conflicts: eight rows of 16 bytes go in one pass if they touch each bank once.
void count_conflicts(Launch& launch, const uint32_t* rows) {
  int worst = 1;
  for (int i = 0; i < 8; i++) {
    int same = 0;
    for (int j = 0; j < 8; j++) same += rows[i] / 16 % 8 == rows[j] / 16 % 8 && (j <= i || rows[i] != rows[j]);
    worst = same > worst ? same : worst;
  }
  launch.result->matrix_rows++;
  launch.result->matrix_conflicts += worst - 1;
}

void move(Warp& warp, const Collective& met) {
  if (met.mask != kFullMask) {
    error("ldmatrix or stmatrix needs a warp of 32 lanes");
    return;
  }
  Block& block = *warp.block;
  auto lane_args = [&](int lane) -> MatrixMove& { return *static_cast<MatrixMove*>(met.argument[lane]); };
  const MatrixMove first = lane_args(0);
  for (int m = 0; m < first.count; m++) {
    uint32_t rows[8];
    uint16_t tile[8][8];
    for (int r = 0; r < 8; r++) {
      Thread& thread = *warp.thread[m * 8 + r];
      rows[r] = lane_args(m * 8 + r).address;
      int64_t offset = shared_offset(thread, rows[r], 16, 16, first.store ? "stmatrix" : "ldmatrix");
      if (offset < 0) return;
      if (block.launch->options.check) {
        // The row is of lanes 4r to 4r + 3, whoever gives its address: it counts as written by one of
        // them, and one of them must know of what it reads.
        const Thread& other = *warp.thread[4 * r + (m == 0 && r == 0)];
        const Thread& recorded = first.store ? other : thread;
        block.shadow.access({thread, epoch(recorded.id, recorded.clock), first.store, false}, static_cast<uint32_t>(offset), 16);
        if (!first.store) block.shadow.shares_read(other, static_cast<uint32_t>(offset));
      }
      if (!first.store) memcpy(tile[r], block.shared + offset, 16);
    }
    count_conflicts(*block.launch, rows);
    for (int lane = 0; lane < 32; lane++) {
      uint32_t& reg = lane_args(lane).registers[m];
      int r = lane / 4, c = lane % 4 * 2;
      if (first.store) {
        tile[r][c] = static_cast<uint16_t>(reg);
        tile[r][c + 1] = static_cast<uint16_t>(reg >> 16);
      } else if (first.transposed) {
        reg = tile[c][r] | static_cast<uint32_t>(tile[c + 1][r]) << 16;
      } else {
        reg = tile[r][c] | static_cast<uint32_t>(tile[r][c + 1]) << 16;
      }
    }
    if (!first.store) continue;
    for (int r = 0; r < 8; r++) memcpy(block.shared + (rows[r] - block.shared_base), tile[r], 16);
  }
}

struct Mma {
  float* d;
  const uint32_t *a, *b;
  const float* c;
  int k;
  Half half;
};

void multiply(Warp& warp, const Collective& met) {
  if (met.mask != kFullMask) {
    error("mma.sync needs a warp of 32 lanes");
    return;
  }
  warp.block->launch->result->mma++;
  auto lane_args = [&](int lane) -> Mma& { return *static_cast<Mma*>(met.argument[lane]); };
  const int k = lane_args(0).k;
  const Half half = lane_args(0).half;
  float a[16][16], b[16][8], sum[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Mma& own = lane_args(lane);
    const int g = lane / 4, t = lane % 4 * 2;
    for (int h = 0; h < 2; h++) {
      for (int part = 0; part < k / 8; part++) {
        a[g][8 * part + t + h] = half_value(own.a[2 * part] >> 16 * h, half);
        a[g + 8][8 * part + t + h] = half_value(own.a[2 * part + 1] >> 16 * h, half);
        b[8 * part + t + h][g] = half_value(own.b[part] >> 16 * h, half);
      }
      sum[g][t + h] = own.c[h];
      sum[g + 8][t + h] = own.c[2 + h];
    }
  }
  for (int i = 0; i < 16; i++) {
    for (int x = 0; x < k; x++) {
      for (int j = 0; j < 8; j++) sum[i][j] += a[i][x] * b[x][j];
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4 * 2;
    for (int e = 0; e < 4; e++) lane_args(lane).d[e] = sum[g + e / 2 * 8][t + e % 2];
  }
}

}  // namespace

void load_matrix(uint32_t* r, uint32_t addr, int count, bool transposed) {
  EMU_SITE();
  MatrixMove args{r, addr, count, transposed, false};
  collective(transposed ? "ldmatrix.trans" : "ldmatrix", kFullMask, &args, move);
}

void store_matrix(const uint32_t* r, uint32_t addr, int count) {
  EMU_SITE();
  MatrixMove args{const_cast<uint32_t*>(r), addr, count, false, true};
  collective("stmatrix", kFullMask, &args, move);
}

void mma(float* d, const uint32_t* a, const uint32_t* b, const float* c, int k, Half half) {
  EMU_SITE();
  Mma args{d, a, b, c, k, half};
  collective(k == 16 ? "mma.m16n8k16" : "mma.m16n8k8", kFullMask, &args, multiply);
}

}  // namespace emu
