// A kernel's entry point: one C symbol, one parameter struct by value. Under the host compiler the
// symbol also registers itself with the emulation.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../ptx/ptx.cuh"

#if defined(__CUDACC__)
#define SEQPAR_KERNEL(symbol, Params, threads, min_blocks) \
  extern "C" __global__ void __launch_bounds__(threads, min_blocks) symbol(PTX_KERNEL_PARAM Params p)
#else
#define SEQPAR_KERNEL(symbol, Params, threads, min_blocks)                                                     \
  static void symbol(const Params& p);                                                                         \
  static const emu::Registration symbol##_registration{                                                        \
      #symbol, threads, sizeof(Params), [](const void* p) { symbol(*static_cast<const Params*>(p)); }};        \
  static void symbol(const Params& p)
#endif
