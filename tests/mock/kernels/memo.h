// Launches that were emulated before: the same kernel with the same parameters over the same bytes
// writes the same bytes again, so that many schedules of one plan cost little more than one. Not
// for kernels that wait, use flags or read the clock.
#pragma once
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "../engine/memory.h"
#include "kernel.h"

namespace mock {

class Memo {
 public:
  // A launch, wherever its buffers are.
  struct Launch {
    std::string name;             // and its parameters, with the number of a buffer for its address
    std::vector<uint64_t> bases;  // the buffers, by number
    std::optional<uint64_t> inputs;  // a hash of what it reads; none: that is not known yet
  };
  static Launch launch(const KernelLaunch& of, const Memory& memory);

  // Whether it ran on the same bytes before; then it is done, and `touched` is what it touches.
  bool repeat(Launch& launch, Memory& memory, std::vector<Access>& touched) const;
  // What it touched, reads first, now that it has ended.
  void learn(const Launch& launch, const std::vector<Access>& touched, const Memory& memory);

 private:
  struct Range {
    size_t buffer;
    uint64_t offset, bytes;
    AccessKind kind;
    bool operator==(const Range& other) const {
      return buffer == other.buffer && offset == other.offset && bytes == other.bytes && kind == other.kind;
    }
  };
  struct Known {
    std::vector<Range> touched;
    std::unordered_map<uint64_t, std::vector<char>> written;  // by inputs
  };
  std::unordered_map<std::string, Known> known_;
};

}  // namespace mock
