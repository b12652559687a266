// cp.async: the bytes land when the issuing thread waits for their group, not before.
#include <cstring>

#include "machine.h"

namespace emu {

void cp_async(uint32_t dst, const void* src, int bytes, int src_bytes) {
  EMU_SITE();
  Thread& thread = *current();
  Block& block = *thread.block;
  int64_t offset = shared_offset(thread, dst, bytes, bytes, "cp.async");
  if (offset < 0) return;
  if (src_bytes < 0 || src_bytes > bytes) {
    error("cp.async: %d source bytes for %d", src_bytes, bytes);
    return;
  }
  if (reinterpret_cast<uintptr_t>(src) % bytes) error("cp.async: the source is not aligned to %d bytes", bytes);
  const uint32_t agent = block.threads_count + thread.id;
  if (src_bytes) {
    if (!block.launch->device->contains(src)) {
      error("cp.async: the source is not device memory");
      return;
    }
    global_access({thread, epoch(thread.id, thread.clock), false, false, false}, src, src_bytes);
  }
  if (block.launch->options.check) {
    block.shadow.access({thread, epoch(agent, thread.copy_group), true, false}, static_cast<uint32_t>(offset), bytes);
  }
  CopyOp op{dst, static_cast<const uint8_t*>(src), bytes, src_bytes, thread.copy_group};
  if (block.launch->options.async == EMU_ASYNC_AT_ONCE) {
    memset(block.shared + offset, 0, bytes);
    if (src_bytes) memcpy(block.shared + offset, src, src_bytes);
    op.bytes = 0;
  } else {
    memset(block.shared + offset, 0xff, bytes);
  }
  thread.copies.push_back(op);
}

void cp_async_commit() {
  EMU_SITE();
  current()->copy_group++;
}

void cp_async_wait(int n) {
  EMU_SITE();
  Thread& thread = *current();
  Block& block = *thread.block;
  // Open group g holds the copies since the last commit; groups before g - n must have landed.
  const int64_t landed_before = static_cast<int64_t>(thread.copy_group) - n;
  size_t kept = 0;
  for (const CopyOp& op : thread.copies) {
    if (static_cast<int64_t>(op.group) >= landed_before) {
      thread.copies[kept++] = op;
      continue;
    }
    if (!op.bytes) continue;
    uint8_t* to = block.shared + (op.dst - block.shared_base);
    memset(to, 0, op.bytes);
    if (op.src_bytes) memcpy(to, op.src, op.src_bytes);
  }
  thread.copies.resize(kept);
  if (landed_before > 1) {
    learn(thread, block.threads_count + thread.id, static_cast<uint32_t>(landed_before - 1), false);
  }
}

}  // namespace emu
