// ldmatrix, stmatrix, mma.sync.
#include "probe.cuh"

// Row r of the matrices lies at row (r * arg[1] + arg[2]) % 32 of shared memory, arg[3] bytes a row.
PTX_FN int row_offset(const Probe& p, int r) { return (r * p.arg[1] + p.arg[2]) % 32 * p.arg[3]; }

PROBE(load_matrix, 32) {
  SMEM_EXTERN(window);
  const int lane = threadIdx.x;
  auto* words = reinterpret_cast<uint32_t*>(window);
  for (int w = 0; w < 4; w++) words[row_offset(p, lane) / 4 + w] = p.in[lane * 4 + w];
  if (p.fault != 1) __syncwarp();
  uint32_t r4[4] = {0, 0, 0, 0}, r2[2] = {0, 0};
  const uint32_t at = ptx::smem_u32(window) + row_offset(p, lane) + (p.fault == 2 ? 8 : 0);
  switch (p.arg[0]) {
    case 0: ptx::ldmatrix_x1(r4[0], at); break;
    case 1: ptx::ldmatrix_x2(r2, at); break;
    case 2: ptx::ldmatrix_x4(r4, at); break;
    case 3: ptx::ldmatrix_x2_trans(r2, at); break;
    case 4: ptx::ldmatrix_x4_trans(r4, at); break;
  }
  if (p.arg[0] == 1 || p.arg[0] == 3) r4[0] = r2[0], r4[1] = r2[1];
  for (int w = 0; w < 4; w++) p.out[lane * 4 + w] = r4[w];
}

PROBE(store_matrix, 32) {
  SMEM_EXTERN(window);
  const int lane = threadIdx.x;
  auto* words = reinterpret_cast<uint32_t*>(window);
  for (int w = 0; w < 4; w++) words[row_offset(p, lane) / 4 + w] = 0;
  __syncwarp();
  const uint32_t at = ptx::smem_u32(window) + row_offset(p, lane);
  uint32_t r4[4], r2[2];
  for (int w = 0; w < 4; w++) r4[w] = p.in[lane * 4 + w];
  for (int w = 0; w < 2; w++) r2[w] = r4[w];
  if (p.arg[0] == 1) {
    ptx::stmatrix_x2(r2, at);
  } else {
    ptx::stmatrix_x4(r4, at);
  }
  if (p.fault != 1) __syncwarp();
  for (int w = 0; w < 4; w++) p.out[lane * 4 + w] = words[row_offset(p, lane) / 4 + w];
}

// A lane's a[4], b[2], c[4]; out d[4].
PROBE(mma, 32) {
  const uint32_t* own = p.in + threadIdx.x * 10;
  const uint32_t a4[4] = {own[0], own[1], own[2], own[3]}, a2[2] = {own[0], own[1]}, b[2] = {own[4], own[5]};
  float c[4], d[4];
  for (int i = 0; i < 4; i++) c[i] = ptx::bits_float(own[6 + i]);
  switch (p.arg[0]) {
    case 0: ptx::mma_16816_bf16(d, a4, b, c); break;
    case 1: ptx::mma_16816_f16(d, a4, b, c); break;
    case 2: ptx::mma_1688_bf16(d, a2, b[0], c); break;
    default: ptx::mma_1688_f16(d, a2, b[0], c); break;
  }
  for (int i = 0; i < 4; i++) p.out[threadIdx.x * 4 + i] = ptx::float_bits(d[i]);
}
