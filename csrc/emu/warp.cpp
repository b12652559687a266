// Collectives of a warp: its lanes meet, the last to come does the work for all.
#include <cstring>

#include "machine.h"

namespace emu {

void collective(const char* name, uint32_t mask, void* argument, CollectiveBody body) {
  Thread& thread = *current();
  Warp& warp = *thread.warp;
  mask &= warp.full;
  if (!(mask >> thread.lane & 1)) {
    error("%s: the executing lane is not in its mask 0x%x", name, mask);
    return;
  }
  Collective* met = nullptr;
  for (Collective& c : warp.collectives) {
    if (c.mask & mask) {
      met = &c;
      break;
    }
  }
  if (!met) {
    warp.collectives.push_back({mask, 0, name, {}});
    met = &warp.collectives.back();
  } else if (met->mask != mask || (met->name != name && strcmp(met->name, name) != 0)) {
    error("divergent warp: lanes 0x%x wait at %s (mask 0x%x), this lane is at %s (mask 0x%x)", met->arrived, met->name,
          met->mask, name, mask);
    block_on(thread, State::kCollective);
    return;
  }
  met->arrived |= 1u << thread.lane;
  met->argument[thread.lane] = argument;
  if (met->arrived != met->mask) {
    block_on(thread, State::kCollective);
    return;
  }
  Collective complete = *met;
  warp.collectives.erase(warp.collectives.begin() + (met - warp.collectives.data()));
  for (uint32_t rest = complete.mask & ~(1u << thread.lane); rest; rest &= rest - 1) {
    wake(*warp.thread[__builtin_ctz(rest)]);
  }
  if (body) body(warp, complete);
}

void sync_warp(uint32_t mask) {
  EMU_SITE();
  collective("__syncwarp", mask, nullptr, [](Warp& warp, const Collective& met) {
    Release release;
    for (uint32_t m = met.mask; m; m &= m - 1) release_into(*warp.thread[__builtin_ctz(m)], release);
    Snapshot all = take(release);
    for (uint32_t m = met.mask; m; m &= m - 1) acquire(*warp.thread[__builtin_ctz(m)], all);
  });
}

namespace {

struct Shuffle {
  uint32_t value;
  int from;  // lane
  uint32_t result;
};

uint32_t shuffle(Shuffle s) {
  collective("shfl.sync", kFullMask, &s, [](Warp&, const Collective& met) {
    for (uint32_t m = met.mask; m; m &= m - 1) {
      auto& own = *static_cast<Shuffle*>(met.argument[__builtin_ctz(m)]);
      if (!(met.mask >> own.from & 1)) {
        error("shfl: a lane reads lane %d, which is not in the warp's mask 0x%x", own.from, met.mask);
        continue;
      }
      own.result = static_cast<Shuffle*>(met.argument[own.from])->value;
    }
  });
  return s.result;
}

}  // namespace

uint32_t shuffle_xor(uint32_t v, int lane_mask) {
  EMU_SITE();
  return shuffle({v, (current()->lane ^ lane_mask) & 31, kFullMask});
}

uint32_t shuffle_index(uint32_t v, int lane) {
  EMU_SITE();
  return shuffle({v, lane & 31, kFullMask});
}

uint32_t ballot(bool p) {
  EMU_SITE();
  uint32_t vote[2] = {p, 0};
  collective("vote.ballot", kFullMask, vote, [](Warp&, const Collective& met) {
    uint32_t all = 0;
    for (uint32_t m = met.mask; m; m &= m - 1) {
      int lane = __builtin_ctz(m);
      all |= static_cast<uint32_t*>(met.argument[lane])[0] << lane;
    }
    for (uint32_t m = met.mask; m; m &= m - 1) static_cast<uint32_t*>(met.argument[__builtin_ctz(m)])[1] = all;
  });
  return vote[1];
}

bool elect_one() {
  EMU_SITE();
  bool elected = false;
  collective("elect.sync", kFullMask, &elected, [](Warp& warp, const Collective& met) {
    // Not always lane 0: PTX does not say which lane it is.
    const EmuOptions& options = warp.block->launch->options;
    int lane = options.order == EMU_ORDER_ASCENDING ? __builtin_ctz(met.mask) : static_cast<int>(options.seed % warp.lanes);
    *static_cast<bool*>(met.argument[lane]) = true;
  });
  return elected;
}

void set_max_registers(int n, bool increase) {
  EMU_SITE();
  Thread& thread = *current();
  Block& block = *thread.block;
  if (n < 24 || n > 256 || n % 8) error("setmaxnreg %d: from 24 to 256, a multiple of 8", n);
  int32_t asked = n;
  collective("setmaxnreg", kFullMask, &asked, [](Warp& of, const Collective& met) {
    // The four warps of a warpgroup execute the same sequence.
    of.register_requests.push_back(*static_cast<int32_t*>(met.argument[0]));
    const size_t last = of.register_requests.size() - 1, first = of.id / 4 * 4;
    for (size_t w = first; w < first + 4 && w < of.block->warps.size(); w++) {
      const std::vector<int>& other = of.block->warps[w].register_requests;
      if (other.size() > last && other[last] != of.register_requests[last]) {
        error("setmaxnreg: the warps of warpgroup %zu ask for different numbers of registers", first / 4);
      }
    }
  });
  Warp& warp = *thread.warp;
  if (!block.launch->options.registers || warp.registers == n) return;
  // The first lane to pass takes or returns the registers of the warp.
  if (increase && n < warp.registers) error("setmaxnreg.inc %d below the warp's %d registers", n, warp.registers);
  if (!increase && n > warp.registers) error("setmaxnreg.dec %d above the warp's %d registers", n, warp.registers);
  while (warp.registers != n && (n - warp.registers) * 32 > block.register_pool) block_on(thread, State::kRegisters);
  if (warp.registers == n) return;
  block.register_pool -= (n - warp.registers) * 32;
  warp.registers = n;
  block.launch->progress++;
  for (Thread& other : block.threads) {
    if (other.state == State::kRegisters) wake(other);
  }
}

}  // namespace emu
