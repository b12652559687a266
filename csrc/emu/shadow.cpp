#include "shadow.h"

#include <algorithm>

#include "machine.h"

namespace emu {
namespace {

void race(const SharedAccess& access, const char* kind, Epoch earlier, uint32_t offset) {
  error("%s at shared 0x%x: %s%s, and an earlier access by %s is not ordered before it", kind,
        offset + access.thread.block->shared_base, access.async ? "async-proxy " : "", access.write ? "write" : "read",
        describe(*access.thread.block, earlier).c_str());
}

}  // namespace

void SharedShadow::reset(uint32_t bytes) {
  lines_.assign(bytes / 16 + 2, Cell{});
  parts_.assign(lines_.size() * 8, Cell{});
  more_.assign(1, {});
}

void SharedShadow::split(uint32_t line) {
  Cell& cell = lines_[line];
  if (cell.split) return;
  for (int i = 0; i < 8; i++) {
    Cell& part = parts_[line * 8 + i] = cell;
    if (cell.overflow) {
      part.overflow = static_cast<uint16_t>(more_.size());
      more_.push_back(more_[cell.overflow]);
    }
  }
  cell.split = true;
}

void SharedShadow::access(const SharedAccess& access, uint32_t offset, uint32_t bytes) {
  const uint32_t end = offset + bytes;
  while (offset < end) {
    uint32_t line = offset / 16, within = offset % 16, n = std::min(16 - within, end - offset);
    Cell& cell = lines_[line];
    if (n == 16 && !cell.split) {
      touch(cell, access, offset);
    } else {
      split(line);
      for (uint32_t i = within / 2; i < (within + n + 1) / 2; i++) touch(parts_[line * 8 + i], access, line * 16 + i * 2);
      if (n == 16 && access.write) {  // whole again
        uint16_t overflow = cell.overflow;
        cell = parts_[line * 8];
        cell.overflow = overflow;
        if (overflow) more_[overflow].clear();
        cell.split = false;
      }
    }
    offset += n;
  }
}

void SharedShadow::shares_read(const Thread& thread, uint32_t offset) {
  const Cell& line = lines_[offset / 16];
  const Cell& cell = line.split ? parts_[offset / 16 * 8] : line;
  if (cell.writer && !happened_before(thread, cell.writer)) {
    race({const_cast<Thread&>(thread), 0, false, false}, "RAW race", cell.writer, offset);
  }
}

void SharedShadow::set_mbarrier(uint32_t offset, bool live) {
  split(offset / 16);
  for (uint32_t i = 0; i < 4; i++) {
    Cell& part = parts_[offset / 16 * 8 + offset % 16 / 2 + i];
    part.mbarrier = live;
    part.initialised = live;
  }
}

void SharedShadow::touch(Cell& cell, const SharedAccess& access, uint32_t offset) {
  const Thread& thread = access.thread;
  if (cell.mbarrier) {
    error("access to shared 0x%x, which holds a live mbarrier", offset + thread.block->shared_base);
    return;
  }
  if (!access.write && !cell.initialised) {
    error("%sread of uninitialised shared memory at 0x%x", access.async ? "async-proxy " : "",
          offset + thread.block->shared_base);
    return;
  }
  if (cell.writer && !happened_before(thread, cell.writer)) {
    race(access, access.write ? "WAW race" : "RAW race", cell.writer, offset);
  } else if (cell.writer && access.async && !cell.async_writer && !fenced_before(thread, cell.writer, Space::kShared)) {
    race(access, "missing fence.proxy.async (after a generic write)", cell.writer, offset);
  }
  if (!access.write) {
    const uint32_t agent = agent_of(access.epoch);
    for (int i = 0; i < cell.reader_count; i++) {
      if (agent_of(cell.readers[i]) == agent || happened_before(thread, cell.readers[i])) {
        cell.readers[i] = access.epoch;
        return;
      }
    }
    if (cell.reader_count < 3) {
      cell.readers[cell.reader_count++] = access.epoch;
      return;
    }
    if (!cell.overflow) {
      if (more_.size() >= 65535) return;  // one reader goes unseen
      cell.overflow = static_cast<uint16_t>(more_.size());
      more_.emplace_back();
    }
    for (Epoch& reader : more_[cell.overflow]) {
      if (agent_of(reader) == agent || happened_before(thread, reader)) {
        reader = access.epoch;
        return;
      }
    }
    more_[cell.overflow].push_back(access.epoch);
    return;
  }
  auto check_reader = [&](Epoch reader) {
    if (!happened_before(thread, reader)) {
      race(access, "WAR race", reader, offset);
    } else if (thread.block->launch->options.strict_war && access.async &&
               agent_of(reader) < static_cast<uint32_t>(thread.block->threads_count) && !fenced_before(thread, reader, Space::kShared)) {
      race(access, "missing fence.proxy.async (after a generic read)", reader, offset);
    }
  };
  for (int i = 0; i < cell.reader_count; i++) check_reader(cell.readers[i]);
  if (cell.overflow) {
    for (Epoch reader : more_[cell.overflow]) check_reader(reader);
    more_[cell.overflow].clear();
  }
  cell.writer = access.epoch;
  cell.reader_count = 0;
  cell.initialised = true;
  cell.async_writer = access.async;
}

}  // namespace emu
