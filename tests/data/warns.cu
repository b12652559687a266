// A variable that nothing uses: must be refused, as every warning.
extern "C" __global__ void warns(float* out) {
  int unused;
  out[threadIdx.x] = 1.0f;
}
