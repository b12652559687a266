// Every PTX instruction that a kernel uses, as one named function: inline assembly under nvcc,
// the emulation of csrc/emu under a host compiler. Kernels include nothing else of CUDA.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define PTX_FN __device__ __forceinline__
#define PTX_KERNEL_PARAM const __grid_constant__
#define SMEM_EXTERN(name) extern __shared__ __align__(16) unsigned char name[]
#include "types.cuh"
#include "async_copy.cuh"
#include "barrier.cuh"
#include "convert.cuh"
#include "matrix.cuh"
#include "mbarrier.cuh"
#include "memory.cuh"
#include "tma.cuh"
#include "warp.cuh"
#include "wgmma.cuh"
#else
#include "../emu/ptx.h"
#endif
