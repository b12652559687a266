// One output tile of a GEMM.
#pragma once
#include "../ptx/ptx.cuh"

struct GemmTile {
  int chunk;
  int sample;
  int row; // first row, in the sample's rows of the chunk
  int part;
  int col; // first column, in the part
};
