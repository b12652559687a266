// Addresses of the tensors in the parameter structs.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../ptx/ptx.cuh"

// Element (batch, row, head, 0) of a view.
template <class T>
PTX_FN T* at(const SeqparView& view, int batch, int row, int head = 0) {
  return reinterpret_cast<T*>(view.address) + (batch * view.batch + row * view.row + head * view.head);
}

// Whether every [batch, row, head, 8n] of a view starts at a multiple of 16 bytes; an absent one does.
PTX_FN bool is_aligned_16(const SeqparView& view, int elem_bytes) {
  const int64_t strides = view.batch | view.row | view.head;
  return ((view.address | static_cast<uint64_t>(strides * elem_bytes)) & 15) == 0;
}
PTX_FN bool is_aligned_16(const SeqparVector& v, int elem_bytes) {
  const int64_t strides = v.batch | v.row | v.second_batch;
  return ((v.address | v.second | static_cast<uint64_t>(strides * elem_bytes)) & 15) == 0;
}
