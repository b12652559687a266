// What went wrong, once for each kind and place, with the kernel's source lines.
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <algorithm>
#include <map>
#include <mutex>

#include "machine.h"

namespace emu {
namespace {

thread_local std::string last_error;

std::string place(const Thread& thread) {
  char text[128];
  snprintf(text, sizeof text, "block (%u,%u,%u) thread %d (warp %d lane %d)", thread.block_index.x,
           thread.block_index.y, thread.block_index.z, thread.id, thread.id / 32, thread.id % 32);
  return text;
}

std::string address_of(const void* site) {
  char text[32];
  snprintf(text, sizeof text, " @%p", site);
  return text;
}

const char* state_name(State state) {
  switch (state) {
    case State::kReady: return "ready";
    case State::kCollective: return "a warp collective";
    case State::kBarrier: return "bar.sync";
    case State::kMbarrier: return "an mbarrier";
    case State::kPolling: return "a flag in global memory";
    case State::kWgmma: return "wgmma.wait_group (a warp of the warpgroup did not commit)";
    case State::kRegisters: return "setmaxnreg.inc (no registers are free)";
    case State::kBehind: return "its turn";
    case State::kExited: return "exited";
  }
  return "?";
}

std::string what_it_waits_for(const Block& block, const Thread& thread) {
  char text[256];
  if (thread.state == State::kBarrier) {
    const NamedBarrier& barrier = block.barriers[thread.waits_for];
    snprintf(text, sizeof text, "bar.sync %d (%d of %d threads are there)", thread.waits_for, barrier.arrived, barrier.count);
    return text;
  }
  if (thread.state == State::kMbarrier && thread.waits_for < static_cast<int>(block.mbarriers.size())) {
    const Mbarrier& barrier = block.mbarriers[thread.waits_for];
    snprintf(text, sizeof text, "mbarrier 0x%x parity %u (in phase %u, %d of %u arrivals and %ld bytes outstanding)",
             barrier.address, thread.waits_parity, barrier.phase, barrier.pending, barrier.count,
             static_cast<long>(barrier.tx_bytes));
    return text;
  }
  if (thread.state == State::kCollective) {
    for (const Collective& c : thread.warp->collectives) {
      if (!(c.mask >> thread.lane & 1)) continue;
      snprintf(text, sizeof text, "%s (lanes 0x%x of 0x%x are there)", c.name, c.arrived, c.mask);
      return text;
    }
  }
  return state_name(thread.state);
}

std::string ranges(const std::vector<int>& ids) {
  std::string text;
  for (size_t i = 0; i < ids.size();) {
    size_t j = i;
    while (j + 1 < ids.size() && ids[j + 1] == ids[j] + 1) j++;
    text += (text.empty() ? "" : ", ") + std::to_string(ids[i]);
    if (j > i) text += "-" + std::to_string(ids[j]);
    i = j + 1;
  }
  return text;
}

std::string look_up_source_line(const void* pc) {
  Dl_info info;
  if (!dladdr(pc, &info)) return "";
  char command[1024];
  const unsigned long offset = static_cast<const char*>(pc) - static_cast<const char*>(info.dli_fbase) - 1;
  snprintf(command, sizeof command, "addr2line -e '%s' -i 0x%lx 2>/dev/null", info.dli_fname, offset);
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  std::string text;
  char line[512];
  while (fgets(line, sizeof line, pipe)) {
    std::string at = line;
    at = at.substr(0, at.find_first_of(" \n"));
    const size_t slash = at.rfind('/');
    const std::string file = slash == std::string::npos ? at : at.substr(slash + 1);
    // The layers below the kernel are of no interest.
    if (file.rfind("ptx.h", 0) == 0 || file.rfind("cuda.h", 0) == 0 || file.rfind("??", 0) == 0) continue;
    text += (text.empty() ? "at " : " < ") + file;
  }
  pclose(pipe);
  return text;
}

// Looking one up starts a program that reads all debugging information.
std::string source_line(const void* pc) {
  static std::mutex mutex;
  static std::map<const void*, std::string> known;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(pc);
  if (found == known.end()) found = known.emplace(pc, look_up_source_line(pc)).first;
  return found->second;
}

}  // namespace

void report(Launch& launch, const std::string& kind, const std::string& text) {
  launch.result->errors++;
  if (static_cast<int>(launch.messages.size()) >= launch.options.max_messages) return;
  if (std::find(launch.message_kinds.begin(), launch.message_kinds.end(), kind) != launch.message_kinds.end()) return;
  launch.message_kinds.push_back(kind);
  launch.messages.push_back(text);
}

void error(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  Thread* thread = current();
  if (!thread) {
    report(*current_launch, format, text);
    return;
  }
  const std::string site = address_of(thread->site);
  report(*thread->block->launch, format + site, std::string(text) + " [" + place(*thread) + "]" + site);
}

std::string describe(const Block& block, Epoch e) {
  const uint32_t agent = agent_of(e), clock = clock_of(e), threads = static_cast<uint32_t>(block.threads_count);
  if (agent < threads) return "thread " + std::to_string(agent);
  if (agent < 2 * threads) {
    return "cp.async of thread " + std::to_string(agent - threads) + ", group " + std::to_string(clock);
  }
  for (const Mbarrier& barrier : block.mbarriers) {
    if (barrier.agent != static_cast<int>(agent)) continue;
    char text[96];
    snprintf(text, sizeof text, "a copy into mbarrier 0x%x, phase %u", barrier.address, clock - 1);
    return text;
  }
  for (size_t i = 0; i < block.wgmma_agent.size(); i++) {
    if (block.wgmma_agent[i] == static_cast<int>(agent)) {
      return "wgmma group " + std::to_string(clock) + " of warpgroup " + std::to_string(i);
    }
  }
  return "bulk store group " + std::to_string(clock);
}

void report_deadlock(Launch& launch) {
  std::string text = "DEADLOCK: no thread can run and nothing is in flight";
  for (auto& block : launch.blocks) {
    char head[64];
    snprintf(head, sizeof head, "\n  block (%u,%u,%u)", block->index.x, block->index.y, block->index.z);
    text += head;
    std::map<std::string, std::vector<int>> groups;
    for (Thread& thread : block->threads) {
      if (thread.state == State::kExited) continue;
      groups[what_it_waits_for(*block, thread) + address_of(thread.site)].push_back(thread.id);
    }
    for (auto& [what, ids] : groups) text += "\n    threads " + ranges(ids) + " wait for " + what;
  }
  const uint64_t waiting = launch.total_blocks - launch.next_block;
  if (waiting) {
    text += "\n  " + std::to_string(waiting) + (waiting == 1 ? " block has" : " blocks have") + " not started: " +
            std::to_string(launch.options.resident) + " are resident at a time";
  }
  launch.result->deadlock = 1;
  report(launch, "deadlock", text);
}

std::string with_source_lines(std::string text) {
  for (size_t at = 0; (at = text.find("@0x", at)) != std::string::npos; at++) {
    size_t end = text.find_first_not_of("0123456789abcdef", at + 3);
    if (end == std::string::npos) end = text.size();
    const void* pc = reinterpret_cast<void*>(strtoull(text.substr(at + 1, end - at - 1).c_str(), nullptr, 16));
    const std::string line = source_line(pc);
    if (!line.empty()) text.replace(at, end - at, line);
  }
  return text;
}

int64_t shared_offset(Thread& thread, uint32_t address, uint64_t bytes, uint32_t alignment, const char* what) {
  const Block& block = *thread.block;
  if (address < block.shared_base || address - block.shared_base + bytes > block.shared_bytes) {
    error("%s: shared 0x%x (+%lu) is outside the block's window 0x%x to 0x%x", what, address,
          static_cast<unsigned long>(bytes), block.shared_base, block.shared_base + block.shared_bytes);
    return -1;
  }
  if (address % alignment) {
    error("%s: shared 0x%x is not aligned to %u", what, address, alignment);
    return -1;
  }
  note_shared(*block.launch, address - block.shared_base + bytes);
  return address - block.shared_base;
}

void set_last_error(const std::string& text) { last_error = text; }

}  // namespace emu

extern "C" const char* emu_last_error(void) { return emu::last_error.c_str(); }
