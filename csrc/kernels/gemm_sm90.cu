// Variants of the sm_90a GEMM: dtype, tile; with the transform of heads also the head's dimension.
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

#define GEMM_QKV_SM90(dtype, Type, dim, cols, stages)                                             \
  SEQPAR_KERNEL(gemm_qkv_sm90_##dtype##_d##dim##_m128n##cols, SeqparGemmQkvSm90, 384, 1) {        \
    GemmSm90<Type, cols, stages, dim>::run(p.tma, &p.qkv);                                        \
  }

#define GEMM_QKV_SM90_TILES(dtype, Type) \
  GEMM_QKV_SM90(dtype, Type, 64, 128, 5) \
  GEMM_QKV_SM90(dtype, Type, 64, 192, 4) \
  GEMM_QKV_SM90(dtype, Type, 64, 256, 3) \
  GEMM_QKV_SM90(dtype, Type, 72, 144, 5) \
  GEMM_QKV_SM90(dtype, Type, 96, 192, 4) \
  GEMM_QKV_SM90(dtype, Type, 128, 128, 5) \
  GEMM_QKV_SM90(dtype, Type, 128, 256, 3)

GEMM_QKV_SM90_TILES(bf16, Bf16Type)
GEMM_QKV_SM90_TILES(f16, F16Type)
