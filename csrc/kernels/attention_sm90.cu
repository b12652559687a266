// The variants of attention_sm90.cuh: element type, head dim, rows of a block.
#include "../common/entry.cuh"
#include "attention_sm90.cuh"

#define ATTENTION_SM90(name, Element, dim, warpgroups)                                                       \
  using Variant_##name = AttentionSm90Variant<Element, dim, warpgroups>;                                     \
  SEQPAR_KERNEL(attn_fwd_sm90_##name, SeqparAttentionSm90, Variant_##name::kThreads, Variant_##name::kMinBlocks) { \
    SMEM_EXTERN(window);                                                                                     \
    attention_sm90<Variant_##name>(p, window);                                                               \
  }
#define ATTENTION_SM90_DIM(dim)                              \
  ATTENTION_SM90(bf16_d##dim##_m64, Bf16Type, dim, 1)        \
  ATTENTION_SM90(bf16_d##dim##_m128, Bf16Type, dim, 2)       \
  ATTENTION_SM90(f16_d##dim##_m64, F16Type, dim, 1)          \
  ATTENTION_SM90(f16_d##dim##_m128, F16Type, dim, 2)
#define ATTENTION_SM90_WIDE(dim)                             \
  ATTENTION_SM90(bf16_d##dim##_m192, Bf16Type, dim, 3)       \
  ATTENTION_SM90(f16_d##dim##_m192, F16Type, dim, 3)

ATTENTION_SM90_DIM(64)
ATTENTION_SM90_DIM(72)
ATTENTION_SM90_DIM(96)
ATTENTION_SM90_DIM(128)
ATTENTION_SM90_WIDE(64)
ATTENTION_SM90_WIDE(72)
ATTENTION_SM90_WIDE(96)
