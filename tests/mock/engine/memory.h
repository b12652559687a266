// Device and pinned memory: the emulation's arena, so that kernels check bounds and unwritten
// bytes. Filled with 0xff (NaN in every float format) when made, 0xfd when freed, never reused.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

struct EmuDevice;

namespace mock {

struct Allocation {
  uint64_t bytes;
  int device;
  bool pinned, live;
  std::string name;
  uint64_t mapped = 0;  // of another process: bytes of the mapping
};

// Where an allocation lies in a process that shares its memory.
struct Shared {
  int32_t process, file, device, reserved;
  uint64_t offset, bytes;
};

class Memory {
 public:
  Memory();
  // Both give the engine's lock up for a while: an effect may run.
  uint64_t allocate(std::unique_lock<std::mutex>& lock, uint64_t bytes, int device, bool pinned);  // 0: none left
  void release(std::unique_lock<std::mutex>& lock, uint64_t address);
  // Device memory becomes a file, before anything is allocated; false: it cannot be.
  bool share();
  // An allocation for other processes, which may write it unseen.
  Shared lend(std::unique_lock<std::mutex>& lock, uint64_t address);
  // An allocation of another process; 0: it is gone.
  uint64_t map(const Shared& from);
  // Those that were freed are as if they had never been.
  void forget_dead();
  // The allocation that holds `address`, dead or alive, and its first address; null: none.
  const Allocation* find(uint64_t address, uint64_t* first = nullptr) const;
  std::string name_of(uint64_t address, uint64_t bytes) const;
  uint64_t used() const { return used_; }
  const std::map<uint64_t, Allocation>& all() const { return all_; }

  // By an operation other than a kernel, under `effects`.
  void write(uint64_t to, const void* from, uint64_t bytes);
  void release_flag(uint64_t address, uint64_t value, unsigned bytes);

  EmuDevice* emulated() { return emulated_; }
  // One effect at a time touches memory: the emulation's records are not for several threads.
  // Taken before the engine's lock, never after it.
  std::mutex effects;

 private:
  EmuDevice* emulated_;
  std::map<uint64_t, Allocation> all_;
  uint64_t used_ = 0, count_ = 0;
  int file_ = -1;
};

}  // namespace mock
