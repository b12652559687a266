// What the emulation does for a kernel, one function an instruction (or a family of them).
// Called by ptx.h from inside a launch; defined by the .cpp of each subject.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace emu {

enum class Half { kBf16, kF16 };
enum class Space { kShared, kGlobal };

// values.cpp
uint32_t bf16_bits(float x);
uint32_t f16_bits(float x);
float f16_value(uint16_t bits);
float flush(float x);  // subnormals to zero, as .ftz

// warp.cpp
uint32_t shuffle_xor(uint32_t v, int lane_mask);
uint32_t shuffle_index(uint32_t v, int lane);
uint32_t ballot(bool p);
bool elect_one();
void set_max_registers(int n, bool increase);

// barrier.cpp
void bar_sync(int id, int n);
void bar_arrive(int id, int n);
void grid_dependency_wait();
void grid_launch_dependents();

// mbarrier.cpp
void mbar_init(uint32_t bar, uint32_t count);
void mbar_inval(uint32_t bar);
void mbar_arrive(uint32_t bar);
void mbar_expect_tx(uint32_t bar, uint32_t bytes);
void mbar_arrive_expect_tx(uint32_t bar, uint32_t bytes);
bool mbar_try_wait(uint32_t bar, uint32_t parity);
bool mbar_test_wait(uint32_t bar, uint32_t parity);
void fence_mbar_init();

// async_copy.cpp
void cp_async(uint32_t dst, const void* src, int bytes, int src_bytes);
void cp_async_commit();
void cp_async_wait(int n);

// ordered.cpp
uint32_t load_acquire(const uint32_t* p);
void store_release(uint32_t* p, uint32_t v);
uint32_t atomic_add(uint32_t* p, uint32_t v);
uint32_t atomic_claim(uint32_t* p, uint32_t v);
void reduce_add(uint32_t* p, uint32_t v);
void fence_proxy_async(Space space);
uint64_t global_timer_ns();
void sleep_ns(uint32_t ns);
uint32_t shared_address(const void* p);

// matrix.cpp
void load_matrix(uint32_t* r, uint32_t addr, int count, bool transposed);
void store_matrix(const uint32_t* r, uint32_t addr, int count);
void mma(float* d, const uint32_t* a, const uint32_t* b, const float* c, int k, Half half);

// tma.cpp
void tma_load(uint32_t dst, const void* map, uint32_t bar, std::initializer_list<int> at);
void tma_store(const void* map, uint32_t src, std::initializer_list<int> at);
void tma_prefetch_map(const void* map);
void bulk_load(uint32_t dst, const void* src, uint32_t bytes, uint32_t bar);
void bulk_store(void* dst, uint32_t src, uint32_t bytes);
void bulk_commit();
void bulk_wait(int n, bool read);

// wgmma.cpp
struct Wgmma {
  float* d;           // this thread's N/2 accumulators
  int n;
  const uint32_t* a;  // this thread's fragment of A, or none
  uint64_t a_descriptor, b_descriptor;
  bool accumulate, a_transposed, b_transposed;
  Half half;
};
void wgmma(const Wgmma& op);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int n);

// launch.cpp: an entry point makes itself known by its symbol.
struct Registration {
  Registration(const char* symbol, unsigned threads, size_t param_bytes, void (*entry)(const void*));
};

}  // namespace emu
