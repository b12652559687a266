// Device memory: allocations between red zones, and for every two bytes of them who wrote and who
// read last, so that accesses of different threads and blocks are found where nothing orders them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "clock.h"

namespace emu {

struct Thread;
constexpr uint32_t kExternal = 0xffffffffu;

struct Granule {  // two bytes
  uint32_t writer_block = 0;  // serial; 0 none since the host
  Epoch writer = 0;           // in that block; the event where the writer is external
  uint32_t reader_block = 0;
  Epoch reader = 0;
  bool initialised = false;
  bool async_writer = false;
  bool atomic_writer = false;
  bool many_readers = false;
};

struct Allocation {
  uint64_t offset, bytes;
  std::string name;
  std::vector<Granule> granules;
};

// What a block has learned from others through global memory.
struct Learned {
  uint32_t block;       // serial number, or kExternal
  uint64_t event;       // of an external agent
  Snapshot knows;       // of the releasing thread
  uint32_t thread, clock;
  uint32_t fenced_clock;
  Epoch acquired;       // by whom and when
};

struct SyncPoint {  // what was released at an address
  const void* address;
  std::vector<Learned> released;
};

struct Device {
  Device();
  ~Device();
  uint8_t* arena;
  uint64_t used = 1 << 20;  // room for accesses far before the first allocation
  std::vector<Allocation> allocations;  // ascending
  size_t last_hit = 0;
  uint32_t next_block_serial = 1;
  uint32_t events = 0;  // external writes and releases so far
  std::vector<SyncPoint> sync_points;
  bool contains(const void* p) const {
    return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(arena) < kArenaBytes;
  }
  static constexpr uint64_t kArenaBytes = 16ull << 30;
};

struct GlobalAccess {
  Thread& thread;
  Epoch epoch;   // of the thread or of the agent that acts for it
  bool write, async, atomic;
};

// Checks and records an access of n bytes; reports at most one error.
void global_access(const GlobalAccess& access, const void* p, uint64_t n);
std::string name_of(const Device& device, const void* p);

}  // namespace emu

struct EmuDevice : emu::Device {};
