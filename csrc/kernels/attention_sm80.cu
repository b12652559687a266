// The variants of attention_sm80.cuh: element type, head dim, rows of a block.
#include "attention_sm80.cuh"

#include "../common/entry.cuh"

#define ATTENTION_SM80(name, Element, dim, tiles, warps)                                               \
  using Variant_##name = AttentionSm80Variant<Element, dim, tiles, warps>;                             \
  SEQPAR_KERNEL(attn_fwd_sm80_##name, SeqparAttention, Variant_##name::kThreads, 1) {                  \
    SMEM_EXTERN(window);                                                                               \
    attention_sm80<Variant_##name>(p, window);                                                         \
  }
// Two tiles a warp read keys and values half as often; at 128 columns they do not fit its registers.
#define ATTENTION_SM80_DIM(dim, tiles, warps)                           \
  ATTENTION_SM80(bf16_d##dim##_m64, Bf16Type, dim, 1, 4)                \
  ATTENTION_SM80(bf16_d##dim##_m128, Bf16Type, dim, tiles, warps)       \
  ATTENTION_SM80(f16_d##dim##_m64, F16Type, dim, 1, 4)                  \
  ATTENTION_SM80(f16_d##dim##_m128, F16Type, dim, tiles, warps)

ATTENTION_SM80_DIM(64, 2, 4)
ATTENTION_SM80_DIM(72, 2, 4)
ATTENTION_SM80_DIM(96, 2, 4)
ATTENTION_SM80_DIM(128, 1, 8)
