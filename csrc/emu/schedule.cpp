// Which thread runs next. A warp's lanes run one after the other in an order drawn from the seed;
// whenever an operation becomes visible to others, another warp may take over. A lane may fall far
// behind its warp where it looks at a phase: that it has looked is known to no clock.
#include <algorithm>
#include <cstdlib>

#include "fiber.h"
#include "machine.h"

namespace emu {

__thread ThreadIndex* current_thread = nullptr;
__thread Launch* current_launch = nullptr;

// launch.cpp
std::unique_ptr<Block> start_block(Launch& launch, uint64_t number);
void finish_block(Launch& launch, Block& block);

namespace {

constexpr int kIdleRounds = 4000;  // polls without any progress before it counts as a deadlock
constexpr uint64_t kIdleStepNs = 1'000'000;
constexpr uint32_t kFallsBehind = 256;  // one wait of so many

Thread* next_lane(Warp& warp) {
  uint32_t ready = warp.ready;
  if (!ready) return nullptr;
  Launch& launch = *warp.block->launch;
  switch (launch.options.order) {
    case EMU_ORDER_ASCENDING: return warp.thread[__builtin_ctz(ready)];
    case EMU_ORDER_DESCENDING: return warp.thread[31 - __builtin_clz(ready)];
    default: break;
  }
  uint32_t turn = (launch.switches >> 8) * 7 & 31;
  uint32_t rotated = turn ? ready >> turn | ready << (32 - turn) : ready;
  return warp.thread[(__builtin_ctz(rotated) + turn) & 31];
}

Thread* next_thread(Launch& launch) {
  const uint32_t count = static_cast<uint32_t>(launch.warps.size());
  if (!count) return nullptr;
  const uint32_t start = launch.options.order == EMU_ORDER_RANDOM ? launch.random.below(count) : 0;
  for (uint32_t i = 0; i < count; i++) {
    if (Thread* thread = next_lane(*launch.warps[(start + i) % count])) return thread;
  }
  return nullptr;
}

void enter(Launch& launch, Thread* thread) {
  current_thread = thread;
  launch.switches++;
}

void switch_from(Thread& self, Thread* next) {
  if (next == &self) return;
  Launch& launch = *self.block->launch;
  enter(launch, next);
  switch_stack(&self.stack_pointer, next ? next->stack_pointer : launch.main_stack_pointer);
}

// Something that no thread does by itself: the landing of a copy, an outside agent, time.
// False if nothing can happen any more.
bool advance(Launch& launch, int& idle, uint64_t& seen_progress) {
  std::vector<Block*> loading;
  for (auto& block : launch.blocks) {
    if (std::any_of(block->bulk.begin(), block->bulk.end(), [](const BulkOp& op) { return op.load; })) {
      loading.push_back(block.get());
    }
  }
  if (!loading.empty()) {
    Block& block = *loading[launch.random.below(static_cast<uint32_t>(loading.size()))];
    current_thread = &block.threads[0];
    land_random(block);
    current_thread = nullptr;
    return true;
  }
  if (!launch.behind.empty()) {
    std::swap(launch.behind[launch.random.below(static_cast<uint32_t>(launch.behind.size()))], launch.behind.back());
    wake(*launch.behind.back());
    launch.behind.pop_back();
    return true;
  }
  if (launch.options.external && launch.options.external(launch.options.context)) {
    wake_pollers(launch);
    idle = 0;
    return true;
  }
  if (!launch.polling) return false;
  if (launch.progress != seen_progress) idle = 0;
  seen_progress = launch.progress;
  // Ever longer steps: a bounded wait of any length ends before this counts as a deadlock.
  launch.now_ns += kIdleStepNs << std::min(idle / 256, 20);
  if (++idle >= kIdleRounds) return false;
  wake_pollers(launch);
  return true;
}

}  // namespace

void block_on(Thread& thread, State state) {
  thread.state = state;
  if (state == State::kPolling) thread.block->launch->polling++;
  thread.warp->ready &= ~(1u << thread.lane);
  Thread* next = next_lane(*thread.warp);
  switch_from(thread, next ? next : next_thread(*thread.block->launch));
}

void wake(Thread& thread) {
  if (thread.state == State::kPolling) thread.block->launch->polling--;
  thread.state = State::kReady;
  thread.warp->ready |= 1u << thread.lane;
}

void maybe_switch(Thread& thread) {
  Launch& launch = *thread.block->launch;
  if (launch.options.order != EMU_ORDER_RANDOM || !launch.random.one_in(8)) return;
  if (launch.options.async == EMU_ASYNC_RANDOM) land_random(*thread.block);
  if (Thread* next = next_thread(launch)) switch_from(thread, next);
}

void maybe_fall_behind(Thread& thread) {
  Launch& launch = *thread.block->launch;
  if (launch.options.order != EMU_ORDER_RANDOM || !launch.random.one_in(kFallsBehind)) return;
  launch.behind.push_back(&thread);
  block_on(thread, State::kBehind);
}

void fiber_main() {
  Thread& thread = *current();
  Block& block = *thread.block;
  Launch& launch = *block.launch;
  launch.entry(launch.params);
  thread.site = nullptr;
  if (!thread.copies.empty()) error("a thread ends with cp.async that it did not wait for");
  if (thread.bulk_last > thread.bulk_waited) error("a thread ends with a bulk store that it did not wait for");
  thread.state = State::kExited;
  thread.warp->ready &= ~(1u << thread.lane);
  thread.warp->live &= ~(1u << thread.lane);
  if (!thread.warp->live && (!thread.warp->groups.empty() || !thread.warp->open.empty())) {
    error("a warp ends with wgmma that it did not wait for");
  }
  block.live--;
  launch.progress++;
  void* abandoned = nullptr;
  Thread* next = next_lane(*thread.warp);
  if (!next) next = next_thread(launch);
  enter(launch, next);
  switch_stack(&abandoned, next ? next->stack_pointer : launch.main_stack_pointer);
  abort();  // nobody switches back to a thread that ended
}

void run_launch(Launch& launch) {
  int idle = 0;
  uint64_t seen_progress = 0;
  while (!launch.aborted) {
    while (static_cast<int>(launch.blocks.size()) < launch.options.resident && launch.next_block < launch.total_blocks) {
      auto block = start_block(launch, launch.next_block);
      if (!block) {
        report(launch, "memory", "no memory for the stacks of a block");
        launch.aborted = true;
        return;
      }
      launch.next_block++;
      for (Warp& warp : block->warps) launch.warps.push_back(&warp);
      launch.blocks.push_back(std::move(block));
    }
    if (launch.blocks.empty()) return;
    if (Thread* thread = next_thread(launch)) {
      enter(launch, thread);
      switch_stack(&launch.main_stack_pointer, thread->stack_pointer);
      current_thread = nullptr;
    }
    for (size_t i = 0; i < launch.blocks.size();) {
      Block& block = *launch.blocks[i];
      if (block.live) {
        i++;
        continue;
      }
      finish_block(launch, block);
      auto gone = [&](Warp* warp) { return warp->block == &block; };
      launch.warps.erase(std::remove_if(launch.warps.begin(), launch.warps.end(), gone), launch.warps.end());
      launch.blocks.erase(launch.blocks.begin() + i);
      launch.result->blocks++;
    }
    if (launch.blocks.empty() || std::any_of(launch.warps.begin(), launch.warps.end(), [](Warp* w) { return w->ready; })) {
      continue;
    }
    if (!advance(launch, idle, seen_progress)) {
      report_deadlock(launch);
      launch.aborted = true;
    }
  }
}

}  // namespace emu
