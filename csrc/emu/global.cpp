#include "global.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "machine.h"

namespace emu {
namespace {

constexpr uint64_t kRedZone = 8192;

__thread EmuObserver observer = nullptr;
__thread void* observer_context = nullptr;

// The allocation that holds `offset`, or null.
Allocation* find(Device& device, uint64_t offset) {
  auto holds = [&](const Allocation& a) { return offset >= a.offset && offset < a.offset + a.bytes; };
  auto& all = device.allocations;
  if (device.last_hit < all.size() && holds(all[device.last_hit])) return &all[device.last_hit];
  auto after = std::upper_bound(all.begin(), all.end(), offset, [](uint64_t o, const Allocation& a) { return o < a.offset; });
  if (after == all.begin() || !holds(*(after - 1))) return nullptr;
  device.last_hit = after - 1 - all.begin();
  return &all[device.last_hit];
}

// Whether `thread` has learned, through global memory, of an epoch of another block.
bool learned(const Thread& thread, uint32_t block, Epoch e, bool async) {
  for (const Learned& item : thread.block->learned) {
    if (item.block != block) continue;
    bool acquired = async ? fenced_before(thread, item.acquired, Space::kGlobal) : happened_before(thread, item.acquired);
    if (!acquired) continue;
    if (block == kExternal) {
      if (item.event >= e) return true;
      continue;
    }
    uint32_t agent = agent_of(e), clock = clock_of(e);
    if (agent == item.thread ? clock <= item.clock : item.knows && clock <= item.knows->seen[agent]) return true;
  }
  return false;
}

const char* who(const Block& own, uint32_t block) {
  return block == kExternal ? "another agent of the machine" : block == own.serial ? "this block" : "another block";
}

// False after an error.
bool ordered(const GlobalAccess& access, uint32_t block, Epoch earlier, bool earlier_async, const char* kind,
             const void* p) {
  const Block& own = *access.thread.block;
  if (block == 0 || (block != kExternal && !own.launch->owns(block))) return true;
  if (block == kExternal && earlier <= own.launch->events_from) return true;
  bool known = block == own.serial ? happened_before(access.thread, earlier) : learned(access.thread, block, earlier, false);
  bool fenced = !access.async || earlier_async ||
                (block == own.serial ? fenced_before(access.thread, earlier, Space::kGlobal) : learned(access.thread, block, earlier, true));
  if (known && fenced) return true;
  error("%s in global memory: %s%s of %s, and an earlier access by %s is not ordered before it%s", kind,
        access.async ? "async-proxy " : "", access.write ? "write" : "read", name_of(*own.launch->device, p).c_str(),
        who(own, block), known ? " for the async proxy (fence.proxy.async after acquiring it)" : "");
  return false;
}

// Whether an earlier launch, which may still run, is waited for before this access.
bool waited_for_launches(const Thread& thread) {
  for (Epoch wait : thread.block->dependency_waits) {
    if (happened_before(thread, wait)) return true;
  }
  return false;
}

}  // namespace

Device::Device() {
  void* memory = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  arena = static_cast<uint8_t*>(memory);
}

Device::~Device() { munmap(arena, kArenaBytes); }

std::string name_of(const Device& device, const void* p) {
  uint64_t offset = static_cast<const uint8_t*>(p) - device.arena;
  const Allocation* best = nullptr;
  for (const Allocation& a : device.allocations) {
    if (a.offset <= offset) best = &a;
  }
  if (!best) return "memory before the first allocation";
  return best->name + "[byte " + std::to_string(offset - best->offset) + " of " + std::to_string(best->bytes) + "]";
}

void observe(const void* p, uint64_t n, int kind) {
  if (observer) observer(observer_context, reinterpret_cast<uint64_t>(p), n, kind);
}

void global_access(const GlobalAccess& access, const void* p, uint64_t n) {
  const Block& own = *access.thread.block;
  Device& device = *own.launch->device;
  const uint64_t offset = static_cast<const uint8_t*>(p) - device.arena;
  Allocation* allocation = find(device, offset);
  if (!allocation || offset + n > allocation->offset + allocation->bytes) {
    error("global %s out of bounds: %s", access.write ? "write" : "read", name_of(device, p).c_str());
    return;
  }
  if (!access.atomic) observe(p, n, access.write ? EMU_WRITE : EMU_READ);
  const uint64_t first = (offset - allocation->offset) / 2, end = (offset - allocation->offset + n + 1) / 2;
  // A single byte is half a granule: its neighbour may be another thread's.
  const bool check = own.launch->options.check != 0 && n > 1;
  const bool early = check && own.launch->options.dependent && !waited_for_launches(access.thread);
  auto of_earlier_launch = [&](uint32_t block) { return block != 0 && block < own.launch->first_serial; };
  for (uint64_t i = first; i < end; i++) {
    Granule& granule = allocation->granules[i];
    const void* at = device.arena + allocation->offset + 2 * i;
    if (!access.write && !granule.initialised) {
      error("read of uninitialised global memory: %s", name_of(device, at).c_str());
      return;
    }
    if (early && (of_earlier_launch(granule.writer_block) || (access.write && of_earlier_launch(granule.reader_block)))) {
      error("%s of %s, which an earlier launch %s, before grid_dependency_wait", access.write ? "write" : "read",
            name_of(device, at).c_str(), of_earlier_launch(granule.writer_block) ? "writes" : "reads");
      return;
    }
    if (!check) {
      if (access.write) granule.initialised = true;
      continue;
    }
    // Atomics (and acquiring loads, releasing stores) do not race with each other.
    if (!(access.atomic && granule.atomic_writer) &&
        !ordered(access, granule.writer_block, granule.writer, granule.async_writer,
                 access.write ? "WAW race" : "RAW race", at)) {
      return;
    }
    if (access.write) {
      if (!granule.many_readers && !ordered(access, granule.reader_block, granule.reader, true, "WAR race", at)) return;
      granule.writer_block = own.serial;
      granule.writer = access.epoch;
      granule.async_writer = access.async;
      granule.atomic_writer = access.atomic;
      granule.initialised = true;
      granule.reader_block = 0;
      granule.many_readers = false;
    } else if (!access.atomic) {
      if (own.launch->owns(granule.reader_block) && granule.reader_block != own.serial) granule.many_readers = true;
      granule.reader_block = own.serial;
      granule.reader = access.epoch;
    }
  }
}

}  // namespace emu

using emu::Allocation;
using emu::Granule;

extern "C" EmuDevice* emu_device_new(void) {
  try {
    return new EmuDevice;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

extern "C" int32_t emu_share(EmuDevice* device) {
  if (!device->allocations.empty()) return -1;
  const int file = memfd_create("device memory", MFD_CLOEXEC);
  if (file < 0) return -1;
  const int flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE;
  const bool mapped = ftruncate(file, emu::Device::kArenaBytes) == 0 &&
                      mmap(device->arena, emu::Device::kArenaBytes, PROT_READ | PROT_WRITE, flags, file, 0) != MAP_FAILED;
  if (mapped) return file;
  close(file);
  return -1;
}

extern "C" uint64_t emu_arena(EmuDevice* device) { return reinterpret_cast<uint64_t>(device->arena); }

extern "C" void emu_device_free(EmuDevice* device) { delete device; }

extern "C" void emu_observe(EmuObserver observer, void* context) {
  emu::observer = observer;
  emu::observer_context = context;
}

extern "C" uint64_t emu_alloc(EmuDevice* device, uint64_t bytes, const char* name) {
  uint64_t offset = (device->used + emu::kRedZone + 255) & ~255ull;
  if (offset + bytes + emu::kRedZone > emu::Device::kArenaBytes) return 0;
  device->used = offset + bytes;
  device->allocations.push_back({offset, bytes, name, std::vector<Granule>((bytes + 1) / 2)});
  memset(device->arena + offset, 0xff, bytes);
  return reinterpret_cast<uint64_t>(device->arena + offset);
}

extern "C" void emu_free(EmuDevice* device, uint64_t address) {
  auto& all = device->allocations;
  const uint64_t offset = address - reinterpret_cast<uint64_t>(device->arena);
  auto gone = std::find_if(all.begin(), all.end(), [&](const Allocation& a) { return a.offset == offset; });
  if (gone == all.end()) return;
  const uint64_t first = (address + 4095) & ~4095ull, end = (address + gone->bytes) & ~4095ull;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
  all.erase(gone);
}

namespace {

template <class F>
void each_granule(EmuDevice* device, uint64_t address, uint64_t bytes, F&& f) {
  uint64_t offset = address - reinterpret_cast<uint64_t>(device->arena);
  if (Allocation* a = emu::find(*device, offset)) {
    for (uint64_t i = (offset - a->offset) / 2; i < (offset - a->offset + bytes + 1) / 2 && i < a->granules.size(); i++) {
      f(a->granules[i]);
    }
  }
}

}  // namespace

extern "C" void emu_mark(EmuDevice* device, uint64_t address, uint64_t bytes, int32_t initialised) {
  each_granule(device, address, bytes, [&](Granule& g) {
    g = Granule{};
    g.initialised = initialised != 0;
  });
  if (!initialised) memset(reinterpret_cast<void*>(address), 0xff, bytes);
}

extern "C" uint64_t emu_unwritten_bytes(EmuDevice* device, uint64_t address, uint64_t bytes) {
  uint64_t unwritten = 0;
  each_granule(device, address, bytes, [&](Granule& g) { unwritten += g.initialised ? 0 : 2; });
  return unwritten;
}

extern "C" void emu_external_write(EmuDevice* device, uint64_t address, const void* data, uint64_t bytes) {
  memcpy(reinterpret_cast<void*>(address), data, bytes);
  device->events++;
  each_granule(device, address, bytes, [&](Granule& g) {
    g = Granule{};
    g.initialised = true;
    g.writer_block = emu::kExternal;
    g.writer = device->events;
  });
}
