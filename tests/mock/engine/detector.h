// Happens-before over memory: for every byte the last write and the reads since, each an
// operation; an access that is not ordered after them is a race, whatever the order was this time.
#pragma once
#include <map>
#include <unordered_map>
#include <vector>

#include "memory.h"
#include "operation.h"
#include "options.h"

namespace mock {

class Detector {
 public:
  Detector(const Memory& memory, Reports& reports) : memory_(memory), reports_(reports) {}
  void allocated(uint64_t address, uint64_t bytes, bool written);
  void freed(uint64_t address, uint64_t bytes);
  // Others write it unseen.
  void lent(uint64_t address, uint64_t bytes);
  // Checks and records an access of `op`, which runs; false: a bad address. `unwritten`: whether
  // a read of never-written bytes is reported (the emulation does it for its kernels).
  bool access(Operation& op, const Access& access, bool unwritten);
  // Forgets who touched what; what is written stays written.
  void forget();

 private:
  struct Segment {
    uint64_t end;
    bool written;
    OperationPtr writer;
    std::vector<OperationPtr> readers;
  };
  using Segments = std::map<uint64_t, Segment>;

  bool valid(const Operation& op, const Access& access);
  Segments::iterator split(uint64_t at);
  void read(Operation& op, const Access& access, Segment& segment, bool unwritten);
  void write(Operation& op, const Access& access, Segments::iterator first, Segments::iterator end);
  void race(const char* kind, const Operation& op, const Access& access, const Operation& earlier);

  const Memory& memory_;
  Reports& reports_;
  Segments segments_;
  std::unordered_map<uint64_t, Clock> flags_;  // what whoever set them knew
};

std::string name_of(const Operation& op);

}  // namespace mock
