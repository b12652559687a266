// Variants of the sm_90a GEMM: dtype, tile.
#include "gemm_sm90.cuh"

#define GEMM_SM90(dtype, Type, cols, stages)                                                      \
  SEQPAR_KERNEL(gemm_sm90_##dtype##_m128n##cols, SeqparGemmSm90, 384, 1) {                        \
    GemmSm90<Type, cols, stages>::run(p);                                                         \
  }                                                                                               \
  static_assert(GemmSm90<Type, cols, stages>::kSmemBytes <= 227 * 1024, "shared memory of a block");

#define GEMM_SM90_TILES(dtype, Type) \
  GEMM_SM90(dtype, Type, 128, 5)     \
  GEMM_SM90(dtype, Type, 144, 5)     \
  GEMM_SM90(dtype, Type, 192, 4)     \
  GEMM_SM90(dtype, Type, 256, 3)

GEMM_SM90_TILES(bf16, Bf16Type)
GEMM_SM90_TILES(f16, F16Type)
