// Bulk copies by the async proxy. A load's destination is poisoned at issue and filled when it
// lands; it lands when nothing else can happen (late), at issue, or at random. A store reads its
// source no later than its group is waited for.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emu {
namespace {

// Calls f(shared offset of the row, its first element in global memory, valid elements [low, high))
// for each row of the box; a row runs along dimension 0. Outside the tensor nothing is valid.
template <class F>
void each_row(const TensorMap& map, const int* at, F&& f) {
  uint32_t extent[5] = {1, 1, 1, 1, 1};
  uint32_t rows = 1;
  for (uint32_t d = 1; d < map.rank(); d++) rows *= extent[d] = map.box[d];
  const uint32_t row_bytes = map.box[0] * map.elem_bytes;
  for (uint32_t row = 0; row < rows; row++) {
    auto* global = reinterpret_cast<uint8_t*>(map.address);
    bool inside = true;
    uint32_t rest = row;
    for (uint32_t d = 1; d < map.rank(); d++) {
      int64_t x = static_cast<int64_t>(at[d]) + rest % extent[d];
      rest /= extent[d];
      inside &= x >= 0 && x < static_cast<int64_t>(map.dims[d]);
      global += x * static_cast<int64_t>(map.strides[d]);
    }
    int64_t low = std::max<int64_t>(0, -int64_t{at[0]});
    int64_t high = std::min<int64_t>(map.box[0], static_cast<int64_t>(map.dims[0]) - at[0]);
    if (!inside || high < low) low = high = 0;
    f(row * row_bytes, global + static_cast<int64_t>(at[0]) * map.elem_bytes, low, high);
  }
}

// Where the copy's bytes are: in shared memory, or in what the store has read of it.
uint8_t* source_of(Block& block, BulkOp& op) {
  return op.source.empty() ? block.shared + (op.shared - block.shared_base) : op.source.data();
}

void move_tensor(Block& block, BulkOp& op) {
  uint8_t* box = source_of(block, op);
  const uint32_t elem = op.map.elem_bytes, row_bytes = op.map.box[0] * elem;
  each_row(op.map, op.at, [&](uint32_t offset, uint8_t* global, int64_t low, int64_t high) {
    for (uint32_t i = 0; i < row_bytes; i += elem) {
      const int64_t x = i / elem;
      const bool valid = x >= low && x < high;
      uint8_t* shared = box + (swizzled(op.shared + offset + i, op.map.swizzle) - op.shared);
      if (op.load && valid) memcpy(shared, global + x * elem, elem);
      if (op.load && !valid) memset(shared, 0, elem);
      if (!op.load && valid) memcpy(global + x * elem, shared, elem);
    }
  });
}

const TensorMap* checked_map(const void* map, size_t rank, const char* what) {
  auto* m = static_cast<const TensorMap*>(map);
  if (reinterpret_cast<uintptr_t>(map) % 64 || !m->valid()) {
    error("%s: no tensor map at the address (or not aligned to 64 bytes)", what);
    return nullptr;
  }
  if (m->rank() != rank) {
    error("%s: %zu coordinates for a tensor map of rank %u", what, rank, m->rank());
    return nullptr;
  }
  return m;
}

// Offset of the box in shared memory, or -1.
int64_t box_offset(Thread& thread, const TensorMap& map, uint32_t shared, const char* what) {
  static const uint32_t pattern[4] = {128, 256, 512, 1024};
  int64_t offset = shared_offset(thread, shared, map.box_bytes(), 128, what);
  if (offset >= 0 && shared % pattern[map.swizzle]) {
    error("%s: shared 0x%x is not aligned to the swizzle's pattern of %u bytes", what, shared, pattern[map.swizzle]);
    return -1;
  }
  return offset;
}

void issue(Thread& thread, BulkOp& op) {
  Block& block = *thread.block;
  block.launch->result->tma++;
  if (block.launch->options.async == EMU_ASYNC_AT_ONCE) {
    land_bulk(block, op);
  } else {
    block.bulk.push_back(op);
  }
  maybe_switch(thread);
}

void load(Thread& thread, BulkOp op, int64_t offset, uint32_t bar, const char* what) {
  Block& block = *thread.block;
  Mbarrier* barrier = find_mbarrier(thread, bar, what);
  if (offset < 0 || !barrier) return;
  if (!barrier->fenced) {
    error("%s: mbarrier 0x%x was not fenced after its init (fence.mbarrier_init or fence.proxy.async)", what, bar);
  }
  op.load = true;
  op.mbarrier = static_cast<int>(barrier - block.mbarriers.data());
  op.phase = barrier->phase;
  op.thread = thread.id;
  barrier->in_flight++;
  if (block.launch->options.check) {
    block.shadow.access({thread, epoch(barrier->agent, barrier->phase + 1), true, true}, static_cast<uint32_t>(offset),
                        static_cast<uint32_t>(op.bytes));
  }
  const GlobalAccess read{thread, epoch(thread.id, thread.clock), false, true, false};
  if (op.tensor) {
    each_row(op.map, op.at, [&](uint32_t, uint8_t* global, int64_t low, int64_t high) {
      if (high > low) global_access(read, global + low * op.map.elem_bytes, (high - low) * op.map.elem_bytes);
    });
  } else {
    global_access(read, op.global, op.bytes);
  }
  memset(block.shared + offset, 0xff, op.bytes);
  issue(thread, op);
}

void store(Thread& thread, BulkOp op, int64_t offset) {
  Block& block = *thread.block;
  if (offset < 0) return;
  if (thread.bulk_agent < 0) {
    thread.bulk_agent = new_agent(block);
    thread.bulk_write_agent = new_agent(block);
  }
  op.thread = thread.id;
  op.agent = static_cast<uint32_t>(thread.bulk_agent);
  op.group = thread.bulk_last = thread.bulk_group;
  const SharedAccess read{thread, epoch(op.agent, op.group), false, true};
  const GlobalAccess write{thread, epoch(static_cast<uint32_t>(thread.bulk_write_agent), op.group), true, true, false};
  auto read_shared = [&](uint32_t at, uint32_t bytes) {
    if (block.launch->options.check) block.shadow.access(read, at - block.shared_base, bytes);
  };
  if (op.tensor) {
    each_row(op.map, op.at, [&](uint32_t row, uint8_t* global, int64_t low, int64_t high) {
      if (high <= low) return;
      const int64_t elem = op.map.elem_bytes;
      for (int64_t k = low * elem / 16 * 16; k < high * elem; k += 16) {
        read_shared(swizzled(op.shared + row + static_cast<uint32_t>(k), op.map.swizzle), 16);
      }
      global_access(write, global + low * elem, (high - low) * elem);
    });
  } else {
    read_shared(op.shared, static_cast<uint32_t>(op.bytes));
    global_access(write, op.global, op.bytes);
  }
  issue(thread, op);
}

bool checked_bulk(const void* global, uint32_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(global) % 16 || bytes % 16 || !bytes) {
    error("%s: address and size must be multiples of 16 (size %u)", what, bytes);
    return false;
  }
  if (!current_launch->device->contains(global)) {
    error("%s: the address is not device memory", what);
    return false;
  }
  return true;
}

}  // namespace

void land_bulk(Block& block, BulkOp& op) {
  if (op.tensor) {
    move_tensor(block, op);
  } else {
    uint8_t* shared = source_of(block, op);
    op.load ? memcpy(shared, op.global, op.bytes) : memcpy(op.global, shared, op.bytes);
  }
  block.launch->progress++;
  if (!op.load) return;
  Mbarrier& barrier = block.mbarriers[op.mbarrier];
  if (barrier.phase == op.phase) {
    barrier.in_flight--;
  } else {
    error("a copy lands on mbarrier 0x%x in phase %u, but was issued in phase %u", barrier.address, barrier.phase, op.phase);
  }
  barrier.tx_bytes -= static_cast<int64_t>(op.bytes);
  if (!barrier.pending && barrier.tx_bytes < 0) {
    error("mbarrier 0x%x: %ld bytes more landed in phase %u than expected (too few bytes expected?)", barrier.address,
          static_cast<long>(-barrier.tx_bytes), barrier.phase);
  }
  complete_phase(block, barrier);
}

void land_random(Block& block) {
  std::vector<size_t> ready;
  for (size_t i = 0; i < block.bulk.size(); i++) {
    if (block.bulk[i].load || block.launch->options.async == EMU_ASYNC_RANDOM) ready.push_back(i);
  }
  if (ready.empty()) return;
  size_t i = ready[block.launch->random.below(static_cast<uint32_t>(ready.size()))];
  if (!block.bulk[i].load) {  // stores of one thread read in order
    for (size_t j = 0; j < i; j++) {
      if (!block.bulk[j].load && block.bulk[j].thread == block.bulk[i].thread) {
        i = j;
        break;
      }
    }
  }
  BulkOp op = block.bulk[i];
  block.bulk.erase(block.bulk.begin() + i);
  land_bulk(block, op);
}

void tma_load(uint32_t dst, const void* map, uint32_t bar, std::initializer_list<int> at) {
  EMU_SITE();
  static const char what[] = "cp.async.bulk.tensor load";
  Thread& thread = *current();
  const TensorMap* m = checked_map(map, at.size(), what);
  if (!m) return;
  BulkOp op{};
  op.tensor = true;
  op.map = *m;
  op.shared = dst;
  op.bytes = m->box_bytes();
  std::copy(at.begin(), at.end(), op.at);
  load(thread, op, box_offset(thread, *m, dst, what), bar, what);
}

void tma_store(const void* map, uint32_t src, std::initializer_list<int> at) {
  EMU_SITE();
  static const char what[] = "cp.async.bulk.tensor store";
  Thread& thread = *current();
  const TensorMap* m = checked_map(map, at.size(), what);
  if (!m) return;
  BulkOp op{};
  op.tensor = true;
  op.map = *m;
  op.shared = src;
  op.bytes = m->box_bytes();
  std::copy(at.begin(), at.end(), op.at);
  store(thread, op, box_offset(thread, *m, src, what));
}

void tma_prefetch_map(const void* map) {
  EMU_SITE();
  if (!static_cast<const TensorMap*>(map)->valid()) error("prefetch.tensormap: no tensor map at the address");
}

void bulk_load(uint32_t dst, const void* src, uint32_t bytes, uint32_t bar) {
  EMU_SITE();
  static const char what[] = "cp.async.bulk load";
  Thread& thread = *current();
  if (!checked_bulk(src, bytes, what)) return;
  BulkOp op{};
  op.global = static_cast<uint8_t*>(const_cast<void*>(src));
  op.shared = dst;
  op.bytes = bytes;
  load(thread, op, shared_offset(thread, dst, bytes, 16, what), bar, what);
}

void bulk_store(void* dst, uint32_t src, uint32_t bytes) {
  EMU_SITE();
  static const char what[] = "cp.async.bulk store";
  Thread& thread = *current();
  if (!checked_bulk(dst, bytes, what)) return;
  BulkOp op{};
  op.global = static_cast<uint8_t*>(dst);
  op.shared = src;
  op.bytes = bytes;
  store(thread, op, shared_offset(thread, src, bytes, 16, what));
}

void bulk_commit() {
  EMU_SITE();
  current()->bulk_group++;
}

// After .read a store has read its source; what it writes is visible to others after the full wait.
void bulk_wait(int n, bool read) {
  EMU_SITE();
  Thread& thread = *current();
  Block& block = *thread.block;
  const int64_t done_before = static_cast<int64_t>(thread.bulk_group) - n;
  for (size_t i = 0; i < block.bulk.size();) {
    BulkOp& op = block.bulk[i];
    if (op.load || op.thread != thread.id || static_cast<int64_t>(op.group) >= done_before) {
      i++;
    } else if (read) {
      const uint8_t* shared = block.shared + (op.shared - block.shared_base);
      if (op.source.empty()) op.source.assign(shared, shared + op.bytes);
      i++;
    } else {
      BulkOp landed = std::move(op);
      block.bulk.erase(block.bulk.begin() + i);
      land_bulk(block, landed);
    }
  }
  if (thread.bulk_agent >= 0 && done_before > 1) {
    const uint32_t done = static_cast<uint32_t>(done_before - 1);
    thread.bulk_waited = std::max(thread.bulk_waited, done);
    learn(thread, static_cast<uint32_t>(thread.bulk_agent), done, true);
    if (!read) learn(thread, static_cast<uint32_t>(thread.bulk_write_agent), done, true);
  }
  maybe_switch(thread);
}

}  // namespace emu

extern "C" int32_t emu_encode_tensor_map(void* out, uint32_t elem_bytes, uint32_t rank, uint64_t address,
                                         const uint64_t* dims, const uint64_t* strides_bytes, const uint32_t* box,
                                         uint32_t swizzle) {
  auto refuse = [](const char* why) {
    emu::set_last_error(std::string("tensor map: ") + why);
    return -1;
  };
  if (reinterpret_cast<uintptr_t>(out) % 64) return refuse("must stand at a multiple of 64 bytes");
  if (rank < 1 || rank > 5) return refuse("rank must be 1 to 5");
  if (elem_bytes != 1 && elem_bytes != 2 && elem_bytes != 4) return refuse("elements have 1, 2 or 4 bytes here");
  if (swizzle > 3) return refuse("unknown swizzle");
  if (!address || address % 16) return refuse("the address must be a multiple of 16");
  emu::TensorMap map{};
  map.address = address;
  map.magic_rank = emu::kTensorMapMagic | rank;
  map.elem_bytes = static_cast<uint8_t>(elem_bytes);
  map.swizzle = static_cast<uint8_t>(swizzle);
  map.strides[0] = elem_bytes;
  for (uint32_t d = 0; d < rank; d++) {
    if (!dims[d] || dims[d] > 1ull << 32) return refuse("a dimension is 0 or above 2^32");
    if (!box[d] || box[d] > 256) return refuse("a box dimension is 0 or above 256");
    map.dims[d] = dims[d];
    map.box[d] = static_cast<uint16_t>(box[d]);
    if (d == 0) continue;
    if (strides_bytes[d - 1] % 16 || strides_bytes[d - 1] >= 1ull << 40) {
      return refuse("a stride is not a multiple of 16 bytes below 2^40");
    }
    map.strides[d] = strides_bytes[d - 1];
  }
  const uint64_t inner = uint64_t{box[0]} * elem_bytes;
  if (inner % 16) return refuse("the inner box must be a multiple of 16 bytes");
  static const uint64_t span[4] = {1u << 30, 32, 64, 128};
  if (inner > span[swizzle]) return refuse("the inner box exceeds the swizzle's span");
  // Units of a narrower row would be exchanged with units of other rows, and of none at the end.
  if (swizzle && inner != span[swizzle]) return refuse("a swizzled box must be as wide as the swizzle's span here");
  memcpy(out, &map, sizeof map);
  return 0;
}
