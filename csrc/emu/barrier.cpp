// Named barriers of a block, and the edges of a grid.
#include "machine.h"

namespace emu {
namespace {

void complete(NamedBarrier& barrier) {
  Snapshot all = take(barrier.release);
  barrier.arrived = 0;
  barrier.count = 0;
  for (Thread* thread : barrier.waiting) {
    acquire(*thread, all);
    wake(*thread);
  }
  barrier.waiting.clear();
  current_launch->progress++;
}

// What lane of a warp counts for: a warp counts 32 even where the block's last one has fewer lanes.
int arrivals(const Thread& thread) {
  const int lanes = thread.warp->lanes;
  return thread.lane == lanes - 1 ? 32 - lanes + 1 : 1;
}

void meet(int id, int n, bool waits, const char* name) {
  Thread& thread = *current();
  Block& block = *thread.block;
  if (id < 0 || id > 15) {
    error("%s: barrier %d does not exist (0 to 15)", name, id);
    return;
  }
  if (n <= 0 || n % 32 || n > (block.threads_count + 31) / 32 * 32) {
    error("%s: %d threads is not a multiple of 32 within the block", name, n);
    return;
  }
  collective(name, kFullMask, nullptr, nullptr);
  NamedBarrier& barrier = block.barriers[id];
  if (barrier.count && barrier.count != n) {
    error("%s: barrier %d is met with %d threads while one of %d is pending", name, id, n, barrier.count);
  }
  barrier.count = n;
  release_into(thread, barrier.release);
  barrier.arrived += arrivals(thread);
  if (barrier.arrived > n) error("%s: more arrivals at barrier %d than its %d threads", name, id, n);
  if (waits) barrier.waiting.push_back(&thread);
  if (barrier.arrived >= n) {
    complete(barrier);
  } else if (waits) {
    thread.waits_for = id;
    block_on(thread, State::kBarrier);
  }
  if (!waits) maybe_switch(thread);
}

}  // namespace

void sync_threads() {
  EMU_SITE();
  meet(0, (current()->block->threads_count + 31) / 32 * 32, true, "__syncthreads");
}

void bar_sync(int id, int n) {
  EMU_SITE();
  meet(id, n, true, "bar.sync");
}

void bar_arrive(int id, int n) {
  EMU_SITE();
  meet(id, n, false, "bar.arrive");
}

// Launches run one after the other here; with EmuOptions.dependent the check of global accesses says
// what was touched before this, in program or barrier order.
void grid_dependency_wait() {
  EMU_SITE();
  Thread& thread = *current();
  thread.block->dependency_waits.push_back(epoch(static_cast<uint32_t>(thread.id), thread.clock));
  thread.clock++;
}
void grid_launch_dependents() { EMU_SITE(); }

}  // namespace emu
