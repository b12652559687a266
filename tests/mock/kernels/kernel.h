// What stands behind a launch: the kernels' own source, run by the emulation in csrc/emu. Every
// access of device memory goes to the race detector.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../engine/operation.h"

namespace mock {

struct KernelLaunch {
  std::string symbol;
  uint32_t grid[3], block[3];
  uint32_t shared_bytes;
  std::vector<char> params;
  bool dependent;  // may start before the kernel in front of it has ended
};

// Whether the device has code for it; its parameters' size and its launch bound.
struct KernelInfo {
  bool exists = false;
  uint64_t param_bytes = 0;
  uint32_t threads = 0;
};
KernelInfo kernel(const std::string& symbol);

// The effect of an operation: may stall while the kernel waits inside itself for another stream.
Outcome run_kernel(const std::shared_ptr<const KernelLaunch>& launch, Operation& op);

}  // namespace mock
