// The accumulator is read before the wait: ptxas puts a wait of its own there and says so.
#include "../../csrc/common/entry.cuh"
#include "../../csrc/common/element.cuh"

extern "C" __global__ void __launch_bounds__(128) serialised(uint64_t a, uint64_t b, float* out) {
  float d[32] = {};
  ptx::wgmma_fence();
  ptx::wgmma_ss<0, 0>(Bf16Type{}, d, a, b, 1);
  ptx::wgmma_commit();
  out[threadIdx.x] = d[0];
  d[1] *= 2.0f;
  ptx::wgmma_ss<0, 0>(Bf16Type{}, d, a, b, 1);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  for (int i = 0; i < 32; ++i) out[(i + 1) * 128 + threadIdx.x] = d[i];
}
