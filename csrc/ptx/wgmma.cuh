// Warpgroup matrix multiply: four warps, 64 rows, operands in shared memory by descriptor or A in
// registers, f32 accumulators that belong to the instruction from issue to wait.
#pragma once

namespace ptx {

PTX_FN void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PTX_FN void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups of this warpgroup are in flight.
template <int N>
PTX_FN void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

#include "wgmma_ops.inl"

}  // namespace ptx
