// The sum of a reducing communication: parts in their order, in f32, rounded once.
#pragma once
#include "../common/storage.cuh"

constexpr int kSumThreads = 256;

template <class T>
PTX_FN void sum_parts(const SeqparSum& p) {
  using Element = typename Storage<T>::Type;
  ptx::grid_launch_dependents();
  ptx::grid_dependency_wait();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kSumThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x; i < p.elems; i += stride) {
    float sum = load_element(T{}, reinterpret_cast<const Element*>(p.parts[0]) + i);
    for (int part = 1; part < p.count; part++) {
      sum = sum + load_element(T{}, reinterpret_cast<const Element*>(p.parts[part]) + i);
    }
    store_element(T{}, reinterpret_cast<Element*>(p.out) + i, sum);
  }
}
