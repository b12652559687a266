#include "lse_merge.cuh"

#include "../common/entry.cuh"

SEQPAR_KERNEL(lse_merge_bf16, SeqparLseMerge, kMergeThreads, 1) { lse_merge<Bf16Type>(p); }
SEQPAR_KERNEL(lse_merge_f16, SeqparLseMerge, kMergeThreads, 1) { lse_merge<F16Type>(p); }
