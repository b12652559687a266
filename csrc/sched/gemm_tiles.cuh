// The order of a GEMM's output tiles: chunks in ring order from first_chunk, the rows of a chunk
// sample by sample, columns fastest. A tile lies in one sample of one chunk and in one part.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../tile/gemm_tile.cuh"

PTX_FN int gemm_tile_count(const SeqparGemm& p) { return p.row_tiles * p.col_tiles; }

template <int TileRows, int TileCols>
PTX_FN GemmTile gemm_tile(const SeqparGemm& p, int index) {
  GemmTile tile;
  int row_tile = index / p.col_tiles + p.chunks[p.first_chunk].first_tile;
  if (row_tile >= p.row_tiles) row_tile -= p.row_tiles;
  const int col_tile = index % p.col_tiles;
  // Chunks and parts without tiles share their first_tile with the next one: the last one wins.
  tile.chunk = 0;
  for (int i = 1; i < p.chunk_count; i++) tile.chunk += p.chunks[i].first_tile <= row_tile;
  tile.part = 0;
  for (int i = 1; i < p.part_count; i++) tile.part += p.parts[i].first_tile <= col_tile;
  const int in_chunk = row_tile - p.chunks[tile.chunk].first_tile;
  const int a_sample = (p.chunks[tile.chunk].rows + TileRows - 1) / TileRows;
  tile.sample = in_chunk / a_sample;
  tile.row = (in_chunk - tile.sample * a_sample) * TileRows;
  tile.col = (col_tile - p.parts[tile.part].first_tile) * TileCols;
  return tile;
}
