// cp.async: thread i copies unit i of arg[0] bytes, of which (i * 5 + arg[1]) % (arg[0] + 1) are
// there; a second group goes to the next part of shared memory.
#include "probe.cuh"

PTX_FN void copy(uint32_t to, const unsigned char* from, int unit, int there) {
  if (unit == 4) ptx::cp_async_4(to, from, there);
  if (unit == 8) ptx::cp_async_8(to, from, there);
  if (unit == 16) ptx::cp_async_16(to, from, there);
}

PROBE(cp_async, 64) {
  SMEM_EXTERN(window);
  const int i = threadIdx.x, unit = p.arg[0], there = (i * 5 + p.arg[1]) % (unit + 1), part = 64 * unit;
  const auto* from = reinterpret_cast<const unsigned char*>(p.in);
  const uint32_t at = ptx::smem_u32(window) + i * unit;
  copy(at, from + i * unit, unit, there);
  ptx::cp_async_commit();
  copy(at + part, from + part + i * unit, unit, unit);
  if (p.fault != 4) ptx::cp_async_commit();
  if (p.fault == 2) {
    ptx::cp_async_wait<2>();
  } else if (p.fault != 1) {
    ptx::cp_async_wait<1>();
  }
  if (p.fault != 3) __syncthreads();
  const auto* words = reinterpret_cast<const uint32_t*>(window);
  for (int w = 0; w < unit / 4; w++) p.out[i * unit / 4 + w] = words[(63 - i) * unit / 4 + w];
  if (p.fault != 5) ptx::cp_async_wait<0>();
  __syncthreads();
  for (int w = 0; w < unit / 4; w++) p.out[part / 4 + i * unit / 4 + w] = words[part / 4 + (63 - i) * unit / 4 + w];
  if (p.fault == 1 || p.fault == 4 || p.fault == 5) ptx::cp_async_commit(), ptx::cp_async_wait<0>();
}
