// The two half-precision types, by tag: a kernel is written once for both.
#pragma once
#include "../ptx/ptx.cuh"

using ptx::Bf16Type;
using ptx::F16Type;

PTX_FN uint32_t pack(Bf16Type, float lo, float hi) { return ptx::pack_bf16(lo, hi); }
PTX_FN uint32_t pack(F16Type, float lo, float hi) { return ptx::pack_f16(lo, hi); }
PTX_FN float low(Bf16Type, uint32_t v) { return ptx::bf16_lo(v); }
PTX_FN float low(F16Type, uint32_t v) { return ptx::f16_lo(v); }
PTX_FN float high(Bf16Type, uint32_t v) { return ptx::bf16_hi(v); }
PTX_FN float high(F16Type, uint32_t v) { return ptx::f16_hi(v); }

PTX_FN void mma_16816(Bf16Type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ptx::mma_16816_bf16(d, a, b, d);
}
PTX_FN void mma_16816(F16Type, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ptx::mma_16816_f16(d, a, b, d);
}
PTX_FN void mma_1688(Bf16Type, float (&d)[4], const uint32_t (&a)[2], uint32_t b) { ptx::mma_1688_bf16(d, a, b, d); }
PTX_FN void mma_1688(F16Type, float (&d)[4], const uint32_t (&a)[2], uint32_t b) { ptx::mma_1688_f16(d, a, b, d); }
