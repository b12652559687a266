// PTX_FN for a function inside a struct: there the host build must not say `static`.
#pragma once
#include "../ptx/ptx.cuh"

#define PTX_METHOD __device__ __forceinline__
