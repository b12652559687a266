// Flags and atomics in device memory, proxy fences, time. What a thread knows travels with a
// release to whoever acquires the value, in this block or another.
#include "machine.h"

namespace emu {

namespace {

SyncPoint& sync_point(Device& device, const void* address) {
  for (SyncPoint& point : device.sync_points) {
    if (point.address == address) return point;
  }
  device.sync_points.push_back({address, {}});
  return device.sync_points.back();
}

// A store begins a new sequence of releases; an atomic continues the one that stands.
void release_at(Thread& thread, const void* address, bool atomic) {
  Block& block = *thread.block;
  SyncPoint& point = sync_point(*block.launch->device, address);
  if (!atomic) point.released.clear();
  for (const Learned& item : block.learned) {
    if (happened_before(thread, item.acquired)) point.released.push_back(item);
  }
  Learned own{};
  own.block = block.serial;
  own.knows = thread.knows;
  own.thread = static_cast<uint32_t>(thread.id);
  own.clock = thread.clock++;
  point.released.push_back(own);
}

void acquire_at(Thread& thread, const void* address) {
  Block& block = *thread.block;
  const Epoch now = epoch(static_cast<uint32_t>(thread.id), thread.clock);
  for (Learned item : sync_point(*block.launch->device, address).released) {
    item.acquired = now;
    bool known = false;
    for (const Learned& have : block.learned) {
      known |= have.block == item.block && have.thread == item.thread && have.clock >= item.clock &&
               have.event >= item.event && happened_before(thread, have.acquired) && have.acquired == now;
    }
    if (!known) block.learned.push_back(item);
  }
  thread.clock++;
}

bool in_device(const void* p, const char* what) {
  if (current_launch->device->contains(p)) return true;
  error("%s: the address is not device memory", what);
  return false;
}

void check_word(Thread& thread, const void* p, bool write) {
  global_access({thread, epoch(static_cast<uint32_t>(thread.id), thread.clock), write, false, true}, p, 4);
}

void made_visible(Thread& thread) {
  Launch& launch = *thread.block->launch;
  launch.progress++;
  wake_pollers(launch);
  maybe_switch(thread);
}

uint32_t update(uint32_t* p, const char* what, bool acquires, uint32_t (*apply)(uint32_t, uint32_t), uint32_t v) {
  Thread& thread = *current();
  if (!in_device(p, what)) return 0;
  check_word(thread, p, true);
  uint32_t old = *p;
  if (acquires) acquire_at(thread, p);
  *p = apply(old, v);
  release_at(thread, p, true);
  if (*p == old) {  // polling by an atomic: nothing for others to see
    maybe_switch(thread);
  } else {
    made_visible(thread);
  }
  return old;
}

}  // namespace

void wake_pollers(Launch& launch) {
  if (!launch.polling) return;
  for (auto& block : launch.blocks) {
    for (Thread& thread : block->threads) {
      if (thread.state == State::kPolling) wake(thread);
    }
  }
}

uint32_t load_acquire(const uint32_t* p) {
  EMU_SITE();
  Thread& thread = *current();
  if (!in_device(p, "ld.acquire")) return 0;
  check_word(thread, p, false);
  // The same value again: asleep until something changes or time passes.
  if (thread.polled == p && thread.polled_value == *p) {
    block_on(thread, State::kPolling);
  } else {
    maybe_switch(thread);
  }
  thread.polled = p;
  thread.polled_value = *p;
  acquire_at(thread, p);
  return thread.polled_value;
}

void store_release(uint32_t* p, uint32_t v) {
  EMU_SITE();
  Thread& thread = *current();
  if (!in_device(p, "st.release")) return;
  check_word(thread, p, true);
  *p = v;
  release_at(thread, p, false);
  made_visible(thread);
}

uint32_t atomic_add(uint32_t* p, uint32_t v) {
  EMU_SITE();
  return update(p, "atom.add", true, [](uint32_t a, uint32_t b) { return a + b; }, v);
}

uint32_t atomic_claim(uint32_t* p, uint32_t v) {
  EMU_SITE();
  return update(p, "atom.cas", true, [](uint32_t a, uint32_t b) { return a ? a : b; }, v);
}

void reduce_add(uint32_t* p, uint32_t v) {
  EMU_SITE();
  update(p, "red.add", false, [](uint32_t a, uint32_t b) { return a + b; }, v);
}

void fence_proxy_async(Space space) {
  EMU_SITE();
  Thread& thread = *current();
  fence_own(thread, space);
  if (space != Space::kShared) return;
  for (Mbarrier& barrier : thread.block->mbarriers) {
    if (barrier.init_thread == thread.id) barrier.fenced = true;
  }
}

uint64_t global_timer_ns() {
  EMU_SITE();
  return current_launch->now_ns += 100;
}

void sleep_ns(uint32_t ns) {
  EMU_SITE();
  current_launch->now_ns += ns;
  // Asleep until something changes or nothing else can run: others must get on whatever the order.
  block_on(*current(), State::kPolling);
}

uint32_t shared_address(const void* p) {
  Block& block = *current()->block;
  uint64_t offset = static_cast<const uint8_t*>(p) - block.shared;
  if (offset > block.shared_bytes) {
    EMU_SITE();
    error("the shared address of a pointer outside the block's shared memory");
  }
  return block.shared_base + static_cast<uint32_t>(offset);
}

}  // namespace emu

extern "C" void emu_external_release(EmuDevice* device, uint64_t address, uint32_t value) {
  auto* word = reinterpret_cast<uint32_t*>(address);
  *word = value;
  emu_mark(device, address, 4, 1);
  emu::SyncPoint& point = emu::sync_point(*device, word);
  point.released.clear();
  emu::Learned all{};
  all.block = emu::kExternal;
  all.event = ++device->events;
  point.released.push_back(all);
}
