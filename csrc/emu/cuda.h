// What CUDA C++ gives a kernel beyond C++, for the host compiler.
#pragma once
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define PTX_FN __forceinline__
#define SMEM_EXTERN(name) unsigned char* name = ::emu::dynamic_shared_memory()

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emu {

struct Index3 {
  unsigned x, y, z;
};
// What distinguishes a thread of a launch from the others.
struct ThreadIndex {
  Index3 thread_index, block_index, block_dim, grid_dim;
};
extern __thread ThreadIndex* current_thread __attribute__((tls_model("initial-exec")));

unsigned char* dynamic_shared_memory();
void sync_threads();
void sync_warp(uint32_t mask);

}  // namespace emu

#define threadIdx (::emu::current_thread->thread_index)
#define blockIdx (::emu::current_thread->block_index)
#define blockDim (::emu::current_thread->block_dim)
#define gridDim (::emu::current_thread->grid_dim)

static inline void __syncthreads() { emu::sync_threads(); }
static inline void __syncwarp(uint32_t mask = 0xffffffffu) { emu::sync_warp(mask); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
