// The state of a launch: threads in warps in blocks, their barriers and asynchronous operations.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "api.h"
#include "clock.h"
#include "cuda.h"
#include "global.h"
#include "services.h"
#include "shadow.h"
#include "tensor_map.h"

namespace emu {

struct Warp;
struct Block;
struct Launch;

constexpr uint32_t kFullMask = 0xffffffffu;
constexpr uint32_t kSharedLimit = 227 * 1024;
constexpr uint32_t kSharedRedZone = 64 * 1024;
constexpr int kOtherAgents = 384;  // beside the threads and their cp.async

enum class State : uint8_t { kReady, kCollective, kBarrier, kMbarrier, kPolling, kWgmma, kRegisters, kBehind, kExited };

struct CopyOp {  // cp.async
  uint32_t dst;
  const uint8_t* src;
  int bytes, src_bytes;
  uint32_t group;
};

struct Thread : ThreadIndex {
  Block* block;
  Warp* warp;
  int id, lane;
  void* stack_pointer = nullptr;
  State state = State::kReady;
  const void* site = nullptr;  // return address into the kernel, of the last operation
  int waits_for = 0;           // index of the barrier or mbarrier
  uint32_t waits_parity = 0;
  const void* polled = nullptr;
  uint32_t polled_value = 0;
  // Clocks.
  uint32_t clock = 1, fenced_clock[2] = {0, 0};  // fenced by Space
  Snapshot knows;
  uint64_t external_fence = 0;  // external events up to here are fenced for the async proxy
  // Asynchronous copies.
  std::vector<CopyOp> copies;
  uint32_t copy_group = 1;
  int bulk_agent = -1;        // for its stores' reads of shared memory
  int bulk_write_agent = -1;  // and for their writes
  uint32_t bulk_group = 1, bulk_last = 0, bulk_waited = 0;  // open, of the last store, waited for (or read)
};

struct Collective {  // lanes of a warp that met at one instruction
  uint32_t mask, arrived;
  const char* name;
  void* argument[32];
};

struct WgmmaOp {
  Wgmma op;
  float* d[32];
  uint32_t a[32][4];
};
struct Fragment {  // of A, in registers of one warp while instructions read them
  uint32_t values[32][4];
  uint32_t* lanes[32];
  int in_flight;
};
// Snapshots with which the reads of one operation of a warpgroup were checked.
struct WgmmaChecked {
  uint64_t op = ~0ull;
  std::vector<uint64_t> snapshots;
};
struct Accumulator {  // 16 rows of one warp's accumulators while an instruction owns them
  int n;
  std::vector<float> values;
  float* lanes[32];
  int in_flight;
};

struct Warp {
  Block* block;
  int id, lanes;
  uint32_t full, live, ready;
  Thread* thread[32];
  std::vector<Collective> collectives;
  int registers = 0;  // a thread, after setmaxnreg
  std::vector<int> register_requests;
  // wgmma
  std::vector<WgmmaOp> open;
  std::deque<std::vector<WgmmaOp>> groups;
  uint32_t committed = 0, retired = 0;
  uint64_t issued = 0;
  std::map<float*, std::shared_ptr<Accumulator>> accumulators;
  std::map<const uint32_t*, Fragment> fragments;
  uint32_t fences = 0, waits = 0;
};

struct NamedBarrier {
  int count = 0, arrived = 0;
  std::vector<Thread*> waiting;
  Release release;
};

struct Mbarrier {
  uint32_t address, count;
  int pending;
  int64_t tx_bytes;
  uint32_t phase;
  int in_flight;  // copies that were issued in this phase and have not landed
  int agent;
  int init_thread;
  uint32_t init_clock;
  bool live, fenced;
  Release release;
  Snapshot result;  // of the phase that completed last
  std::vector<Thread*> waiting;
};

struct BulkOp {  // TMA or plain bulk copy
  bool load, tensor;
  TensorMap map;
  int at[5];
  uint8_t* global;  // plain copies
  uint32_t shared;
  uint64_t bytes;
  int mbarrier;
  uint32_t phase;
  int thread;
  uint32_t agent, group;
  std::vector<uint8_t> source;  // of a store that has read its shared memory, but not yet written
};

struct Block {
  Launch* launch;
  Index3 index;
  uint32_t serial;  // unique over launches
  int threads_count, live;
  uint8_t *shared, *shared_mapping;
  uint32_t shared_bytes, shared_base;
  uint8_t* stacks;
  std::vector<Warp> warps;
  std::vector<Thread> threads;
  NamedBarrier barriers[16];
  std::vector<Mbarrier> mbarriers;
  std::vector<int16_t> mbarrier_at;  // by 8 bytes of shared memory
  std::vector<BulkOp> bulk;          // in flight
  std::vector<uint32_t> wgmma_executed;
  std::vector<int> wgmma_agent;
  std::vector<WgmmaChecked> wgmma_checked;
  int agents, next_agent;
  SharedShadow shadow;
  std::vector<Learned> learned;
  struct {
    uint64_t a = 0, b = 0;
    Snapshot joined;
  } join_memo;
  struct {
    uint64_t from = 0;
    uint32_t agent = 0, clock = 0;
    Snapshot result;
  } learn_memo;
  int register_pool = 0;
  std::vector<Epoch> dependency_waits;
};

struct Random {
  uint64_t state;
  uint32_t next() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<uint32_t>(state >> 11);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(uint64_t{next()} * n >> 32) % n; }
  bool one_in(uint32_t n) { return below(n) == 0; }
};

struct Launch {
  Device* device;
  uint32_t first_serial = 0, events_from = 0;  // other launches' blocks and events before this one are ordered
  Index3 grid, block_dim;
  uint32_t shared_bytes;
  EmuOptions options;
  void (*entry)(const void*);
  const void* params;
  uint64_t next_block = 0, total_blocks;
  std::vector<std::unique_ptr<Block>> blocks;  // resident
  std::vector<Warp*> warps;                    // of the resident blocks
  Random random;
  void* main_stack_pointer = nullptr;
  int polling = 0;        // threads in State::kPolling
  std::vector<Thread*> behind;
  uint64_t progress = 0;  // operations that others can see
  uint64_t now_ns = 0;
  uint64_t switches = 0;
  EmuResult* result;
  std::vector<std::string> messages;
  std::vector<std::string> message_kinds;
  bool aborted = false;
  bool owns(uint32_t serial) const { return serial >= first_serial && serial - first_serial < total_blocks; }
};

inline void note_shared(Launch& launch, uint64_t end) {
  if (end > launch.result->shared_high) launch.result->shared_high = end;
}

extern __thread Launch* current_launch __attribute__((tls_model("initial-exec")));
inline Thread* current() { return static_cast<Thread*>(current_thread); }

// Remembers where in the kernel the running operation was called from.
#define EMU_SITE() (::emu::current()->site = __builtin_return_address(0))

// schedule.cpp
void block_on(Thread& thread, State state);
void wake(Thread& thread);
void maybe_switch(Thread& thread);
// Perhaps a lane goes on only when nothing else can happen.
void maybe_fall_behind(Thread& thread);
void run_launch(Launch& launch);

// warp.cpp
using CollectiveBody = void (*)(Warp&, const Collective&);
void collective(const char* name, uint32_t mask, void* argument, CollectiveBody body);

// mbarrier.cpp
Mbarrier* find_mbarrier(Thread& thread, uint32_t address, const char* what);
void complete_phase(Block& block, Mbarrier& barrier);

// launch.cpp
int new_agent(Block& block);

// tma.cpp
void land_bulk(Block& block, BulkOp& op);
void land_random(Block& block);

// ordered.cpp
void wake_pollers(Launch& launch);

// report.cpp
void error(const char* format, ...) __attribute__((format(printf, 1, 2)));
void report(Launch& launch, const std::string& kind, const std::string& text);
std::string describe(const Block& block, Epoch e);
void report_deadlock(Launch& launch);
std::string with_source_lines(std::string text);
void set_last_error(const std::string& text);

// Offset in the block's window of `bytes` at a shared address, or -1 after an error.
int64_t shared_offset(Thread& thread, uint32_t address, uint64_t bytes, uint32_t alignment, const char* what);

}  // namespace emu
