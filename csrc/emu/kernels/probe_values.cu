// Conversions and arithmetic: in[2i], in[2i + 1] to out[i].
#include "probe.cuh"

PROBE(value, 128) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t bits = p.in[2 * i];
  const float x = ptx::bits_float(bits), y = ptx::bits_float(p.in[2 * i + 1]);
  float result = 0;
  uint32_t pair = 0;
  switch (p.arg[0]) {
    case 0: pair = ptx::pack_bf16(x, y); break;
    case 1: pair = ptx::pack_f16(x, y); break;
    case 2: result = ptx::f16_lo(bits); break;
    case 3: result = ptx::f16_hi(bits); break;
    case 4: result = ptx::bf16_lo(bits); break;
    case 5: result = ptx::bf16_hi(bits); break;
    case 6: result = ptx::ex2(x); break;
    case 7: result = ptx::lg2(x); break;
    case 8: result = ptx::rcp(x); break;
    case 9: result = ptx::sqrt(x); break;
    case 10: result = ptx::fma(x, y, ptx::bits_float(0x3f800001u)); break;
    case 11: result = ptx::max(x, y); break;
    case 12: result = ptx::max_nan(x, y); break;
  }
  p.out[i] = p.arg[0] < 2 ? pair : ptx::float_bits(result);
}
