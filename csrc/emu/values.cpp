// Half-precision values as bits, rounded to nearest even as the hardware's conversions do.
#include <cmath>
#include <cstring>

#include "services.h"

namespace emu {

uint32_t bf16_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

uint32_t f16_bits(float x) {
  if (x != x) return 0x7fff;
  _Float16 h = static_cast<_Float16>(x);
  uint16_t bits;
  memcpy(&bits, &h, 2);
  return bits;
}

float f16_value(uint16_t bits) {
  _Float16 h;
  memcpy(&h, &bits, 2);
  return static_cast<float>(h);
}

float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

}  // namespace emu
