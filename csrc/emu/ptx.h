// The twin of csrc/ptx for the host compiler: the same functions, executed by the emulation.
// Compared with csrc/ptx by tests/emulated_ptx.rs: same names, same parameters.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cuda.h"
// The element tags of csrc/ptx serve both.
#include "../ptx/types.cuh"
#include "services.h"

namespace ptx {

// convert
PTX_FN uint32_t float_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
PTX_FN float bits_float(uint32_t x) {
  float f;
  memcpy(&f, &x, 4);
  return f;
}
PTX_FN uint32_t pack_bf16(float lo, float hi) { return emu::bf16_bits(lo) | emu::bf16_bits(hi) << 16; }
PTX_FN uint32_t pack_f16(float lo, float hi) { return emu::f16_bits(lo) | emu::f16_bits(hi) << 16; }
PTX_FN float f16_lo(uint32_t v) { return emu::f16_value(static_cast<uint16_t>(v)); }
PTX_FN float f16_hi(uint32_t v) { return emu::f16_value(static_cast<uint16_t>(v >> 16)); }
PTX_FN float bf16_lo(uint32_t v) { return bits_float(v << 16); }
PTX_FN float bf16_hi(uint32_t v) { return bits_float(v & 0xffff0000u); }
PTX_FN float ex2(float x) { return emu::flush(exp2f(emu::flush(x))); }
PTX_FN float lg2(float x) { return emu::flush(log2f(emu::flush(x))); }
PTX_FN float rcp(float x) { return 1.0f / x; }
PTX_FN float sqrt(float x) { return sqrtf(x); }
PTX_FN float fma(float a, float b, float c) { return fmaf(a, b, c); }
// +0 is above -0, which fmaxf does not promise.
PTX_FN float max(float a, float b) {
  if (a == b) return float_bits(a) >> 31 ? b : a;
  return b != b || a > b ? a : b;
}
PTX_FN float max_nan(float a, float b) { return a != a || b != b ? bits_float(0x7fffffffu) : max(a, b); }

// warp
PTX_FN float shfl_xor(float v, int lane_mask) { return bits_float(emu::shuffle_xor(float_bits(v), lane_mask)); }
PTX_FN uint32_t shfl_idx(uint32_t v, int lane) { return emu::shuffle_index(v, lane); }
PTX_FN uint32_t ballot(bool p) { return emu::ballot(p); }
PTX_FN bool elect_one() { return emu::elect_one(); }
template <int N>
PTX_FN void setmaxnreg_inc() {
  emu::set_max_registers(N, true);
}
template <int N>
PTX_FN void setmaxnreg_dec() {
  emu::set_max_registers(N, false);
}

// barrier
PTX_FN void bar_sync(int id, int n) { emu::bar_sync(id, n); }
PTX_FN void bar_arrive(int id, int n) { emu::bar_arrive(id, n); }
PTX_FN void grid_dependency_wait() { emu::grid_dependency_wait(); }
PTX_FN void grid_launch_dependents() { emu::grid_launch_dependents(); }

// mbarrier
PTX_FN void mbar_init(uint32_t bar, uint32_t count) { emu::mbar_init(bar, count); }
PTX_FN void mbar_inval(uint32_t bar) { emu::mbar_inval(bar); }
PTX_FN void mbar_arrive(uint32_t bar) { emu::mbar_arrive(bar); }
PTX_FN void mbar_expect_tx(uint32_t bar, uint32_t bytes) { emu::mbar_expect_tx(bar, bytes); }
PTX_FN void mbar_arrive_expect_tx(uint32_t bar, uint32_t bytes) { emu::mbar_arrive_expect_tx(bar, bytes); }
PTX_FN bool mbar_try_wait(uint32_t bar, uint32_t parity) { return emu::mbar_try_wait(bar, parity); }
PTX_FN bool mbar_test_wait(uint32_t bar, uint32_t parity) { return emu::mbar_test_wait(bar, parity); }
PTX_FN void fence_mbar_init() { emu::fence_mbar_init(); }

// async_copy
PTX_FN void cp_async_16(uint32_t dst, const void* src, int src_bytes) { emu::cp_async(dst, src, 16, src_bytes); }
PTX_FN void cp_async_8(uint32_t dst, const void* src, int src_bytes) { emu::cp_async(dst, src, 8, src_bytes); }
PTX_FN void cp_async_4(uint32_t dst, const void* src, int src_bytes) { emu::cp_async(dst, src, 4, src_bytes); }
PTX_FN void cp_async_commit() { emu::cp_async_commit(); }
template <int N>
PTX_FN void cp_async_wait() {
  emu::cp_async_wait(N);
}

// memory
PTX_FN uint32_t smem_u32(const void* p) { return emu::shared_address(p); }
PTX_FN uint32_t ld_acquire_sys(const uint32_t* p) { return emu::load_acquire(p); }
PTX_FN uint32_t ld_acquire_gpu(const uint32_t* p) { return emu::load_acquire(p); }
PTX_FN void st_release_sys(uint32_t* p, uint32_t v) { emu::store_release(p, v); }
PTX_FN void st_release_gpu(uint32_t* p, uint32_t v) { emu::store_release(p, v); }
PTX_FN uint32_t atom_add_gpu(uint32_t* p, uint32_t v) { return emu::atomic_add(p, v); }
PTX_FN uint32_t atom_claim_sys(uint32_t* p, uint32_t v) { return emu::atomic_claim(p, v); }
PTX_FN void red_add_gpu(uint32_t* p, uint32_t v) { emu::reduce_add(p, v); }
PTX_FN void fence_proxy_async() { emu::fence_proxy_async(emu::Space::kShared); }
PTX_FN void fence_proxy_async_global() { emu::fence_proxy_async(emu::Space::kGlobal); }
PTX_FN uint4 ld_stream(const uint4* p) { return *p; }
PTX_FN void st_stream(uint4* p, uint4 v) { *p = v; }
PTX_FN uint64_t global_timer_ns() { return emu::global_timer_ns(); }
PTX_FN void sleep_ns(uint32_t ns) { emu::sleep_ns(ns); }

// matrix
PTX_FN void ldmatrix_x4(uint32_t (&r)[4], uint32_t addr) { emu::load_matrix(r, addr, 4, false); }
PTX_FN void ldmatrix_x2(uint32_t (&r)[2], uint32_t addr) { emu::load_matrix(r, addr, 2, false); }
PTX_FN void ldmatrix_x1(uint32_t& r, uint32_t addr) { emu::load_matrix(&r, addr, 1, false); }
PTX_FN void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t addr) { emu::load_matrix(r, addr, 4, true); }
PTX_FN void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t addr) { emu::load_matrix(r, addr, 2, true); }
PTX_FN void stmatrix_x4(const uint32_t (&r)[4], uint32_t addr) { emu::store_matrix(r, addr, 4); }
PTX_FN void stmatrix_x2(const uint32_t (&r)[2], uint32_t addr) { emu::store_matrix(r, addr, 2); }
PTX_FN void mma_16816_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  emu::mma(d, a, b, c, 16, emu::Half::kBf16);
}
PTX_FN void mma_16816_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  emu::mma(d, a, b, c, 16, emu::Half::kF16);
}
PTX_FN void mma_1688_bf16(float (&d)[4], const uint32_t (&a)[2], uint32_t b, const float (&c)[4]) {
  emu::mma(d, a, &b, c, 8, emu::Half::kBf16);
}
PTX_FN void mma_1688_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b, const float (&c)[4]) {
  emu::mma(d, a, &b, c, 8, emu::Half::kF16);
}

// tma
PTX_FN void tma_load_2d(uint32_t dst, const void* map, uint32_t bar, int c0, int c1) {
  emu::tma_load(dst, map, bar, {c0, c1});
}
PTX_FN void tma_load_3d(uint32_t dst, const void* map, uint32_t bar, int c0, int c1, int c2) {
  emu::tma_load(dst, map, bar, {c0, c1, c2});
}
PTX_FN void tma_load_4d(uint32_t dst, const void* map, uint32_t bar, int c0, int c1, int c2, int c3) {
  emu::tma_load(dst, map, bar, {c0, c1, c2, c3});
}
PTX_FN void tma_load_5d(uint32_t dst, const void* map, uint32_t bar, int c0, int c1, int c2, int c3, int c4) {
  emu::tma_load(dst, map, bar, {c0, c1, c2, c3, c4});
}
PTX_FN void tma_store_2d(const void* map, uint32_t src, int c0, int c1) { emu::tma_store(map, src, {c0, c1}); }
PTX_FN void tma_store_3d(const void* map, uint32_t src, int c0, int c1, int c2) {
  emu::tma_store(map, src, {c0, c1, c2});
}
PTX_FN void tma_store_4d(const void* map, uint32_t src, int c0, int c1, int c2, int c3) {
  emu::tma_store(map, src, {c0, c1, c2, c3});
}
PTX_FN void tma_store_5d(const void* map, uint32_t src, int c0, int c1, int c2, int c3, int c4) {
  emu::tma_store(map, src, {c0, c1, c2, c3, c4});
}
PTX_FN void tma_prefetch_map(const void* map) { emu::tma_prefetch_map(map); }
PTX_FN void bulk_load(uint32_t dst, const void* src, uint32_t bytes, uint32_t bar) {
  emu::bulk_load(dst, src, bytes, bar);
}
PTX_FN void bulk_store(void* dst, uint32_t src, uint32_t bytes) { emu::bulk_store(dst, src, bytes); }
PTX_FN void bulk_commit() { emu::bulk_commit(); }
template <int N>
PTX_FN void bulk_wait_read() {
  emu::bulk_wait(N, true);
}
template <int N>
PTX_FN void bulk_wait() {
  emu::bulk_wait(N, false);
}

// wgmma
PTX_FN void wgmma_fence() { emu::wgmma_fence(); }
PTX_FN void wgmma_commit() { emu::wgmma_commit(); }
template <int N>
PTX_FN void wgmma_wait() {
  emu::wgmma_wait(N);
}
PTX_FN emu::Half half_of(Bf16Type) { return emu::Half::kBf16; }
PTX_FN emu::Half half_of(F16Type) { return emu::Half::kF16; }
template <int TA, int TB, class T, int D>
PTX_FN void wgmma_ss(T type, float (&d)[D], uint64_t a, uint64_t b, int accumulate) {
  emu::wgmma({d, 2 * D, nullptr, a, b, accumulate != 0, TA != 0, TB != 0, half_of(type)});
}
template <int TB, class T, int D>
PTX_FN void wgmma_rs(T type, float (&d)[D], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  emu::wgmma({d, 2 * D, a, 0, b, accumulate != 0, false, TB != 0, half_of(type)});
}

}  // namespace ptx
