// Transaction barriers. Their state is kept beside shared memory; a cookie stands in their place,
// so that an overwritten barrier is found.
#include <cstring>

#include "machine.h"

namespace emu {
namespace {

constexpr uint64_t kCookie = 0x6d62617272696572ull;
constexpr int64_t kTxLimit = (1 << 20) - 1;

void arrive(Thread& thread, Mbarrier& barrier) {
  if (barrier.pending < 1) {
    error("mbarrier 0x%x: more arrivals than its count %u in phase %u", barrier.address, barrier.count, barrier.phase);
    return;
  }
  release_into(thread, barrier.release);
  barrier.pending--;
  complete_phase(*thread.block, barrier);
  maybe_switch(thread);
}

void expect(Mbarrier& barrier, uint32_t bytes) {
  barrier.tx_bytes += bytes;
  if (barrier.tx_bytes > kTxLimit) error("mbarrier 0x%x: more than %ld bytes expected", barrier.address, long{kTxLimit});
}

}  // namespace

Mbarrier* find_mbarrier(Thread& thread, uint32_t address, const char* what) {
  Block& block = *thread.block;
  int64_t offset = shared_offset(thread, address, 8, 8, what);
  if (offset < 0) return nullptr;
  int index = block.mbarrier_at[offset / 8];
  if (index < 0 || !block.mbarriers[index].live) {
    error("%s: shared 0x%x holds no initialised mbarrier", what, address);
    return nullptr;
  }
  Mbarrier& barrier = block.mbarriers[index];
  uint64_t cookie;
  memcpy(&cookie, block.shared + offset, 8);
  if (cookie != (kCookie ^ address)) error("%s: the mbarrier at shared 0x%x was overwritten", what, address);
  if (block.launch->options.check && barrier.init_thread != thread.id &&
      !happened_before(thread, epoch(barrier.init_thread, barrier.init_clock))) {
    error("%s: mbarrier 0x%x is used without synchronising with its init by thread %d", what, address, barrier.init_thread);
  }
  return &barrier;
}

void mbar_init(uint32_t address, uint32_t count) {
  EMU_SITE();
  Thread& thread = *current();
  Block& block = *thread.block;
  int64_t offset = shared_offset(thread, address, 8, 8, "mbarrier.init");
  if (offset < 0) return;
  if (count < 1 || count >= 1u << 20) error("mbarrier.init: count %u is out of range", count);
  int16_t& index = block.mbarrier_at[offset / 8];
  if (index < 0) {
    index = static_cast<int16_t>(block.mbarriers.size());
    block.mbarriers.emplace_back();
    block.mbarriers.back().agent = new_agent(block);
  } else if (block.mbarriers[index].live) {
    error("mbarrier.init: shared 0x%x holds a live mbarrier", address);
  }
  Mbarrier& barrier = block.mbarriers[index];
  int agent = barrier.agent;
  barrier = Mbarrier{};
  barrier.agent = agent;
  barrier.address = address;
  barrier.count = count;
  barrier.pending = static_cast<int>(count);
  barrier.init_thread = thread.id;
  barrier.init_clock = thread.clock;
  barrier.live = true;
  const uint64_t cookie = kCookie ^ address;
  memcpy(block.shared + offset, &cookie, 8);
  if (block.launch->options.check) block.shadow.set_mbarrier(static_cast<uint32_t>(offset), true);
}

void mbar_inval(uint32_t address) {
  EMU_SITE();
  Thread& thread = *current();
  Mbarrier* barrier = find_mbarrier(thread, address, "mbarrier.inval");
  if (!barrier) return;
  if (barrier->in_flight) error("mbarrier.inval 0x%x: copies that signal it are in flight", address);
  barrier->live = false;
  if (thread.block->launch->options.check) thread.block->shadow.set_mbarrier(address - thread.block->shared_base, false);
}

void fence_mbar_init() {
  EMU_SITE();
  for (Mbarrier& barrier : current()->block->mbarriers) {
    if (barrier.init_thread == current()->id) barrier.fenced = true;
  }
}

void complete_phase(Block& block, Mbarrier& barrier) {
  if (barrier.pending || barrier.tx_bytes) return;
  if (barrier.in_flight) {
    error("mbarrier 0x%x: phase %u completes while %d copies issued in it are in flight (too few bytes expected?)",
          barrier.address, barrier.phase, barrier.in_flight);
  }
  release_agent(block, barrier.release, barrier.agent, barrier.phase + 1);
  barrier.result = take(barrier.release);
  barrier.phase++;
  barrier.pending = static_cast<int>(barrier.count);
  barrier.in_flight = 0;
  for (Thread* thread : barrier.waiting) wake(*thread);
  barrier.waiting.clear();
  block.launch->progress++;
  wake_pollers(*block.launch);
}

void mbar_arrive(uint32_t address) {
  EMU_SITE();
  Thread& thread = *current();
  if (Mbarrier* barrier = find_mbarrier(thread, address, "mbarrier.arrive")) arrive(thread, *barrier);
}

void mbar_expect_tx(uint32_t address, uint32_t bytes) {
  EMU_SITE();
  if (Mbarrier* barrier = find_mbarrier(*current(), address, "mbarrier.expect_tx")) expect(*barrier, bytes);
}

void mbar_arrive_expect_tx(uint32_t address, uint32_t bytes) {
  EMU_SITE();
  Thread& thread = *current();
  Mbarrier* barrier = find_mbarrier(thread, address, "mbarrier.arrive.expect_tx");
  if (!barrier) return;
  expect(*barrier, bytes);
  arrive(thread, *barrier);
}

bool mbar_try_wait(uint32_t address, uint32_t parity) {
  EMU_SITE();
  Thread& thread = *current();
  Launch& launch = *thread.block->launch;
  maybe_fall_behind(thread);
  Mbarrier* barrier = find_mbarrier(thread, address, "mbarrier.try_wait");
  if (!barrier) {
    block_on(thread, State::kMbarrier);  // for ever: the report names it
    return true;
  }
  if (parity > 1) error("mbarrier.try_wait.parity: parity %u", parity);
  const int index = static_cast<int>(barrier - thread.block->mbarriers.data());
  if ((barrier->phase & 1) == parity) {  // the phase of this parity is the one that runs
    if (launch.options.order == EMU_ORDER_RANDOM && launch.random.one_in(8)) {
      maybe_switch(thread);
      return false;  // the instruction may give up early
    }
    thread.waits_for = index;
    thread.waits_parity = parity;
    barrier->waiting.push_back(&thread);
    block_on(thread, State::kMbarrier);
    barrier = &thread.block->mbarriers[index];
    if ((barrier->phase & 1) == parity) return false;
  }
  acquire(thread, barrier->result);
  return true;
}

bool mbar_test_wait(uint32_t address, uint32_t parity) {
  EMU_SITE();
  Thread& thread = *current();
  maybe_fall_behind(thread);
  Mbarrier* barrier = find_mbarrier(thread, address, "mbarrier.test_wait");
  if (!barrier) return true;
  const auto index = barrier - thread.block->mbarriers.data();
  if ((barrier->phase & 1) == parity) {
    block_on(thread, State::kPolling);
    barrier = &thread.block->mbarriers[index];
    if ((barrier->phase & 1) == parity) return false;
  }
  acquire(thread, barrier->result);
  return true;
}

}  // namespace emu
