#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "../../../csrc/emu/api.h"

namespace mock {

Memory::Memory() : emulated_(emu_device_new()) {}

uint64_t Memory::allocate(std::unique_lock<std::mutex>& lock, uint64_t bytes, int device, bool pinned) {
  const std::string name = (pinned ? "pinned#" : "buffer#") + std::to_string(++count_);
  uint64_t address = 0;
  lock.unlock();
  {
    std::lock_guard<std::mutex> guard(effects);
    if (emulated_) address = emu_alloc(emulated_, bytes, name.c_str());
    // The host writes pinned memory unseen.
    if (address && pinned) emu_mark(emulated_, address, bytes, 1);
  }
  lock.lock();
  if (!address) return 0;
  all_[address] = {bytes, device, pinned, true, name};
  if (!pinned) used_ += bytes;
  return address;
}

bool Memory::share() {
  if (file_ < 0 && emulated_) file_ = emu_share(emulated_);
  return file_ >= 0;
}

Shared Memory::lend(std::unique_lock<std::mutex>& lock, uint64_t address) {
  const Allocation& lent = all_.at(address);
  const Shared shared{getpid(), file_, lent.device, 0, address - emu_arena(emulated_), lent.bytes};
  if (file_ < 0) return shared;
  lock.unlock();
  {
    std::lock_guard<std::mutex> guard(effects);
    emu_mark(emulated_, address, lent.bytes, 1);
  }
  lock.lock();
  return shared;
}

uint64_t Memory::map(const Shared& from) {
  const std::string path = "/proc/" + std::to_string(from.process) + "/fd/" + std::to_string(from.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return 0;
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE)), before = from.offset % page;
  const uint64_t bytes = before + from.bytes;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, static_cast<off_t>(from.offset - before));
  close(file);
  if (mapped == MAP_FAILED) return 0;
  const uint64_t address = reinterpret_cast<uint64_t>(mapped) + before;
  all_[address] = {from.bytes, from.device, false, true, "imported#" + std::to_string(++count_), bytes};
  return address;
}

void Memory::release(std::unique_lock<std::mutex>& lock, uint64_t address) {
  Allocation& gone = all_.at(address);
  gone.live = false;
  if (gone.mapped) {
    const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    munmap(reinterpret_cast<void*>(address / page * page), gone.mapped);
    all_.erase(address);
    return;
  }
  if (!gone.pinned) used_ -= gone.bytes;
  lock.unlock();
  {
    std::lock_guard<std::mutex> guard(effects);
    emu_free(emulated_, address);
    memset(reinterpret_cast<void*>(address), 0xfd, gone.bytes);
  }
  lock.lock();
}

void Memory::forget_dead() {
  for (auto it = all_.begin(); it != all_.end();) it = it->second.live ? std::next(it) : all_.erase(it);
}

const Allocation* Memory::find(uint64_t address, uint64_t* first) const {
  auto after = all_.upper_bound(address);
  if (after == all_.begin()) return nullptr;
  --after;
  if (address - after->first >= after->second.bytes) return nullptr;
  if (first) *first = after->first;
  return &after->second;
}

std::string Memory::name_of(uint64_t address, uint64_t bytes) const {
  uint64_t first = 0;
  const Allocation* found = find(address, &first);
  char text[96];
  if (!found) {
    snprintf(text, sizeof text, "0x%lx (%lu bytes)", static_cast<long>(address), static_cast<unsigned long>(bytes));
    return text;
  }
  snprintf(text, sizeof text, "[bytes %lu to %lu of %lu]", static_cast<unsigned long>(address - first),
           static_cast<unsigned long>(address - first + bytes), static_cast<unsigned long>(found->bytes));
  return found->name + text;
}

void Memory::write(uint64_t to, const void* from, uint64_t bytes) { emu_external_write(emulated_, to, from, bytes); }

void Memory::release_flag(uint64_t address, uint64_t value, unsigned bytes) {
  if (bytes == 4) {
    emu_external_release(emulated_, address, static_cast<uint32_t>(value));
  } else {
    write(address, &value, bytes);
  }
}

}  // namespace mock
