// The key tiles of one sample, in the one order that every row meets them in: segments in order,
// tiles cut from each segment's start. Segments without keys are passed over.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../common/method.cuh"

// Keys of the segment that count for sample b: its length, cut by the sample's key length.
PTX_FN int keys_of_segment(const SeqparAttention& p, int segment, int b) {
  const SeqparKeySegment& s = p.keys[segment];
  int keys = s.len;
  if (p.key_len != 0) {
    const int32_t* lengths = reinterpret_cast<const int32_t*>(p.key_len);
    const int left = lengths[b * p.key_len_batch + s.stream * p.key_len_row] - s.base;
    keys = left < keys ? left : keys;
  }
  return keys > 0 ? keys : 0;
}

template <int kKeys>
struct KeyTiles {
  int segment = -1;
  int tile = 0;
  int keys = 0;

  // Moves to the next tile, at first to the first one; false past the last.
  PTX_METHOD bool next(const SeqparAttention& p, int b) {
    ++tile;
    if (tile * kKeys < keys) return true;
    tile = 0;
    do {
      if (++segment >= p.key_segments) return false;
      keys = keys_of_segment(p, segment, b);
    } while (keys == 0);
    return true;
  }
  // Keys of the segment from this tile's first on; less than kKeys in a ragged tile.
  PTX_METHOD int left() const { return keys - tile * kKeys; }
  PTX_METHOD bool enters_segment() const { return tile == 0; }
};
