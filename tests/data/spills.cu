// 64 values live at once, 32 registers: must be refused.
extern "C" __global__ void __launch_bounds__(1024, 2) spills(const float* in, float* out) {
  float values[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) values[i] = in[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) out[(63 - i) * 1024 + threadIdx.x] = values[i] * values[i / 2];
}
