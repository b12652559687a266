// Variants of the sm_80 GEMM: dtype, tile; with the transform of heads also the head's dimension.
#include "gemm_sm80.cuh"

#define GEMM_SM80(dtype, Type, rows, cols)                                        \
  SEQPAR_KERNEL(gemm_sm80_##dtype##_m##rows##n##cols, SeqparGemm, 128, 2) {       \
    GemmSm80<Type, rows, cols>::run(p);                                           \
  }

#define GEMM_SM80_TILES(dtype, Type) \
  GEMM_SM80(dtype, Type, 128, 128)   \
  GEMM_SM80(dtype, Type, 128, 64)    \
  GEMM_SM80(dtype, Type, 64, 64)

GEMM_SM80_TILES(bf16, Bf16Type)
GEMM_SM80_TILES(f16, F16Type)

#define GEMM_QKV_SM80(dtype, Type, dim, rows, cols)                                          \
  SEQPAR_KERNEL(gemm_qkv_sm80_##dtype##_d##dim##_m##rows##n##cols, SeqparGemmQkv, 128, 2) {  \
    GemmSm80<Type, rows, cols, dim>::run(p.gemm, &p.qkv);                                    \
  }

#define GEMM_QKV_SM80_TILES(dtype, Type)  \
  GEMM_QKV_SM80(dtype, Type, 64, 128, 128) \
  GEMM_QKV_SM80(dtype, Type, 64, 64, 64)   \
  GEMM_QKV_SM80(dtype, Type, 72, 64, 144)  \
  GEMM_QKV_SM80(dtype, Type, 96, 128, 96)  \
  GEMM_QKV_SM80(dtype, Type, 128, 128, 128)

GEMM_QKV_SM80_TILES(bf16, Bf16Type)
GEMM_QKV_SM80_TILES(f16, F16Type)
