#include "qk_norm_rope.cuh"

#include "../common/entry.cuh"

SEQPAR_KERNEL(qk_norm_rope_bf16, SeqparQkNormRope, kHeadThreads, 1) {
  SMEM_EXTERN(window);
  qk_norm_rope<Bf16Type>(p, window);
}
SEQPAR_KERNEL(qk_norm_rope_f16, SeqparQkNormRope, kHeadThreads, 1) {
  SMEM_EXTERN(window);
  qk_norm_rope<F16Type>(p, window);
}
