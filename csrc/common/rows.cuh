// Rows of tensors and of modulation vectors, 8 channels (16 bytes) at a time.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "element.cuh"
#include "view.cuh"

// The vector that row `row` of sample `batch` reads; `frame` 0 takes the second one.
PTX_FN const uint4* vector_of(const SeqparVector& vector, int batch, int row, bool frame) {
  const uint16_t* first = reinterpret_cast<const uint16_t*>(vector.address) + batch * vector.batch + row * vector.row;
  if (frame) return reinterpret_cast<const uint4*>(first);
  return reinterpret_cast<const uint4*>(reinterpret_cast<const uint16_t*>(vector.second) + batch * vector.second_batch);
}

// Eight channels as floats.
template <class T>
PTX_FN void widen(const uint4& v, float (&x)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    x[2 * i] = low(T{}, words[i]);
    x[2 * i + 1] = high(T{}, words[i]);
  }
}
template <class T>
PTX_FN uint4 narrow(const float (&x)[8]) {
  uint4 v;
  v.x = pack(T{}, x[0], x[1]);
  v.y = pack(T{}, x[2], x[3]);
  v.z = pack(T{}, x[4], x[5]);
  v.w = pack(T{}, x[6], x[7]);
  return v;
}
