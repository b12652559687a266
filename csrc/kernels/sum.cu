#include "sum.cuh"

#include "../common/entry.cuh"

SEQPAR_KERNEL(sum_f32, SeqparSum, kSumThreads, 1) { sum_parts<F32Type>(p); }
SEQPAR_KERNEL(sum_bf16, SeqparSum, kSumThreads, 1) { sum_parts<Bf16Type>(p); }
SEQPAR_KERNEL(sum_f16, SeqparSum, kSumThreads, 1) { sum_parts<F16Type>(p); }
