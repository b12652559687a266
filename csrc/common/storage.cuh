// Elements of any float type, one at a time, as floats.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "element.cuh"

struct F32Type {};
PTX_FN float load_element(F32Type, const float* p) { return *p; }
PTX_FN float load_element(Bf16Type t, const uint16_t* p) { return low(t, *p); }
PTX_FN float load_element(F16Type t, const uint16_t* p) { return low(t, *p); }
PTX_FN void store_element(F32Type, float* p, float x) { *p = x; }
PTX_FN void store_element(Bf16Type t, uint16_t* p, float x) { *p = static_cast<uint16_t>(pack(t, x, 0.0f)); }
PTX_FN void store_element(F16Type t, uint16_t* p, float x) { *p = static_cast<uint16_t>(pack(t, x, 0.0f)); }

template <class T>
struct Storage {
  using Type = uint16_t;
};
template <>
struct Storage<F32Type> {
  using Type = float;
};
