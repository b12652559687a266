// The kernels are compiled with -fsanitize=thread and linked with these functions instead of its
// library: every plain load and store of a kernel comes by here.
#include "machine.h"

namespace emu {
namespace {

inline __attribute__((always_inline)) void hook(const void* p, uint32_t bytes, bool write, const void* site) {
  Launch* launch = current_launch;
  Thread* thread = current();
  if (!launch || !thread) return;
  Block& block = *thread->block;
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  const uintptr_t window = reinterpret_cast<uintptr_t>(block.shared) - kSharedRedZone;
  if (address - window < block.shared_bytes + 2 * uintptr_t{kSharedRedZone}) {
    thread->site = site;
    launch->result->accesses++;
    const int64_t offset = static_cast<int64_t>(address - window) - kSharedRedZone;
    if (offset < 0 || offset + bytes > block.shared_bytes) {
      error("shared %s out of bounds: offset %ld of %u bytes", write ? "write" : "read", static_cast<long>(offset),
            block.shared_bytes);
      return;
    }
    note_shared(*launch, static_cast<uint64_t>(offset) + bytes);
    if (bytes <= 16 && address % bytes) error("misaligned shared access of %u bytes", bytes);
    if (launch->options.check) {
      block.shadow.access({*thread, epoch(thread->id, thread->clock), write, false}, static_cast<uint32_t>(offset), bytes);
    }
  } else if (launch->device->contains(p)) {
    thread->site = site;
    launch->result->accesses++;
    if (bytes <= 16 && address % bytes) error("misaligned global access of %u bytes: %s", bytes, name_of(*launch->device, p).c_str());
    global_access({*thread, epoch(thread->id, thread->clock), write, false, false}, p, bytes);
  }
}

}  // namespace
}  // namespace emu

#define SITE __builtin_return_address(0)
#define ACCESS(n)                                                                         \
  void __tsan_read##n(void* p) { emu::hook(p, n, false, SITE); }                          \
  void __tsan_write##n(void* p) { emu::hook(p, n, true, SITE); }                          \
  void __tsan_unaligned_read##n(void* p) { emu::hook(p, n, false, SITE); }                \
  void __tsan_unaligned_write##n(void* p) { emu::hook(p, n, true, SITE); }                \
  void __tsan_volatile_read##n(void* p) { emu::hook(p, n, false, SITE); }                 \
  void __tsan_volatile_write##n(void* p) { emu::hook(p, n, true, SITE); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* p, unsigned long n) { emu::hook(p, static_cast<uint32_t>(n), false, SITE); }
void __tsan_write_range(void* p, unsigned long n) { emu::hook(p, static_cast<uint32_t>(n), true, SITE); }
}

// What -fsanitize=alignment,bounds,shift calls: each begins with where it was compiled from.
struct SourceLocation {
  const char* file;
  unsigned line, column;
};
struct TypeMismatch {
  SourceLocation at;
  const void* type;
  unsigned char log_alignment, kind;
};

extern "C" {
void __ubsan_handle_type_mismatch_v1(TypeMismatch* what, void* p) {
  if (!emu::current_launch || !emu::current()) return;
  emu::current()->site = SITE;
  emu::error("misaligned access: the address %p is no multiple of %u", p, 1u << what->log_alignment);
}
void __ubsan_handle_out_of_bounds(SourceLocation*, uintptr_t index) {
  if (!emu::current_launch || !emu::current()) return;
  emu::current()->site = SITE;
  emu::error("index %ld is outside its array", static_cast<long>(index));
}
void __ubsan_handle_shift_out_of_bounds(SourceLocation*, uintptr_t, uintptr_t by) {
  if (!emu::current_launch || !emu::current()) return;
  emu::current()->site = SITE;
  emu::error("shift by %ld bits", static_cast<long>(by));
}
}
