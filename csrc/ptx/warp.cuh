// Warp-wide exchange; every lane of the warp takes part.
#pragma once

namespace ptx {

PTX_FN float shfl_xor(float v, int lane_mask) { return __shfl_xor_sync(0xffffffffu, v, lane_mask); }
PTX_FN uint32_t shfl_idx(uint32_t v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
PTX_FN uint32_t ballot(bool p) { return __ballot_sync(0xffffffffu, p); }

// True in one lane of the warp; which one is not said.
PTX_FN bool elect_one() {
  uint32_t p;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(p)::"memory");
  return p;
}

// Registers of a thread of this warpgroup; all four warps execute it.
template <int N>
PTX_FN void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
PTX_FN void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

}  // namespace ptx
