// Who touched each part of a block's shared memory last: races, uninitialised reads.
#pragma once
#include <cstdint>
#include <vector>

#include "clock.h"

namespace emu {

struct Thread;

struct SharedAccess {
  Thread& thread;
  Epoch epoch;
  bool write, async;
};

// One cell for 16 bytes, split in eight where narrower accesses occur.
struct Cell {
  Epoch writer = 0;
  Epoch readers[3] = {0, 0, 0};
  uint8_t reader_count = 0;
  bool initialised = false, async_writer = false, mbarrier = false, split = false;
  uint16_t overflow = 0;  // more readers, in SharedShadow::more
};

class SharedShadow {
 public:
  void reset(uint32_t bytes);
  // Bounds were checked.
  void access(const SharedAccess& access, uint32_t offset, uint32_t bytes);
  // Another thread takes part in a read that was recorded: it too must know of the writer.
  void shares_read(const Thread& thread, uint32_t offset);
  void set_mbarrier(uint32_t offset, bool live);

 private:
  void touch(Cell& cell, const SharedAccess& access, uint32_t offset);
  void split(uint32_t line);
  std::vector<Cell> lines_, parts_;
  std::vector<std::vector<Epoch>> more_;
};

}  // namespace emu
