// Warpgroup multiplies. The four warps of a warpgroup issue the same operations; a group of them
// is executed when the warpgroup waits for it (or, at once, when it is committed). Until then the
// accumulators and the registers of A hold NaN, and the operands in shared memory must stay as they
// are.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace emu {
namespace {

constexpr uint32_t kPoison = 0xffffffffu;

// Address of element (mn, k) of an operand tile: K-major or MN-major core matrices (PTX ISA,
// "Strides", "Canonical layouts").
uint32_t element_address(uint64_t descriptor, int mn, int k, bool mn_major) {
  const uint32_t start = (descriptor & 0x3fff) << 4;
  const uint32_t leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  const uint32_t layout = descriptor >> 62;
  const uint32_t swizzle = layout == 1 ? 3 : layout == 2 ? 2 : layout == 3 ? 1 : 0;
  const uint32_t span = swizzle ? 16u << swizzle : 16;  // bytes of a row of the pattern
  uint32_t offset;
  if (!mn_major) {
    // Rows of K: 8 rows are `stride` apart; without a swizzle 16-byte columns are `leading` apart.
    const uint32_t byte = k * 2;
    offset = mn / 8 * stride + mn % 8 * span + (swizzle ? byte : byte / 16 * leading + byte % 16);
  } else {
    // Rows of MN, `span` bytes each, 8 of them along K. With a swizzle `leading` is between spans
    // along MN and `stride` between groups of 8 along K; without, they change places.
    const uint32_t per_span = span / 2;
    const uint32_t along_mn = swizzle ? leading : stride, along_k = swizzle ? stride : leading;
    offset = mn / per_span * along_mn + mn % per_span * 2 + k / 8 * along_k + k % 8 * span;
  }
  return swizzled(start + offset, swizzle);
}

void check_descriptor(uint64_t descriptor) {
  if (descriptor & 0xc000c000c000ull || descriptor >> 46 & 7 || descriptor >> 52 & 0x3ff) {
    error("wgmma: reserved bits of the descriptor 0x%lx are set", static_cast<unsigned long>(descriptor));
  }
  const uint32_t layout = descriptor >> 62, start = (descriptor & 0x3fff) << 4;
  const uint32_t pattern = layout == 1 ? 7 : layout == 2 ? 3 : layout == 3 ? 1 : 0;
  if ((start >> 7 & pattern) != (descriptor >> 49 & 7)) {
    error("wgmma: the operand at shared 0x%x does not start at a boundary of its swizzle pattern", start);
  }
}

// Calls f(offset in shared memory, mn, k) for each run of 16 bytes: 8 elements along the dimension
// that is contiguous. False after an error.
template <class F>
bool each_run(Block& block, uint64_t descriptor, int mn_count, bool mn_major, F&& f) {
  for (int mn = 0; mn < mn_count; mn += mn_major ? 8 : 1) {
    for (int k = 0; k < 16; k += mn_major ? 1 : 8) {
      const uint32_t address = element_address(descriptor, mn, k, mn_major), offset = address - block.shared_base;
      if (address < block.shared_base || offset + 16 > block.shared_bytes) {
        error("wgmma: an operand reaches shared 0x%x, outside the block's %u bytes", address, block.shared_bytes);
        return false;
      }
      note_shared(*block.launch, offset + 16);
      f(offset, mn, k);
    }
  }
  return true;
}

// The instruction reads its operands for every thread: each that knows something of its own must
// have synchronised with the writers.
void record_reads(Warp& warp, const WgmmaOp& op) {
  Block& block = *warp.block;
  if (!block.launch->options.check) return;
  const int group = warp.id / 4;
  WgmmaChecked& checked = block.wgmma_checked[group];
  const uint64_t index = warp.issued++;
  if (checked.op != index) {
    checked.op = index;
    checked.snapshots.clear();
  }
  const Epoch e = epoch(block.wgmma_agent[group], warp.committed + 1);
  for (int lane = 0; lane < 32; lane++) {
    Thread& thread = *warp.thread[lane];
    bool done = false;
    for (uint64_t id : checked.snapshots) done |= id == thread.knows->id;
    if (done) continue;
    checked.snapshots.push_back(thread.knows->id);
    auto read = [&](uint32_t offset, int, int) { block.shadow.access({thread, e, false, true}, offset, 16); };
    if (!each_run(block, op.op.b_descriptor, op.op.n, op.op.b_transposed, read)) return;
    if (!op.op.a && !each_run(block, op.op.a_descriptor, 64, op.op.a_transposed, read)) return;
  }
}

float value_of(uint16_t bits, Half half) {
  if (half == Half::kF16) return f16_value(bits);
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

// An operand as [mn][k] (row = 16) or [k][mn] (row = 256) floats.
bool load_operand(Block& block, uint64_t descriptor, int mn_count, bool mn_major, Half half, float* out, int mn_step,
                  int k_step) {
  return each_run(block, descriptor, mn_count, mn_major, [&](uint32_t offset, int mn, int k) {
    uint16_t bits[8];
    memcpy(bits, block.shared + offset, 16);
    for (int i = 0; i < 8; i++) {
      out[(mn + (mn_major ? i : 0)) * mn_step + (k + (mn_major ? 0 : i)) * k_step] = value_of(bits[i], half);
    }
  });
}

int accumulator_index(int lane_register, int lane, int n) {
  // d[j*4 + h*2 + q] of a lane is row lane/4 + 8h, column 8j + 2(lane%4) + q.
  const int j = lane_register / 4, h = lane_register / 2 % 2, q = lane_register % 2;
  return (lane / 4 + 8 * h) * n + j * 8 + lane % 4 * 2 + q;
}

// Executes the oldest group that is not, for all four warps.
void execute(Block& block, int warpgroup) {
  thread_local std::vector<float> a(64 * 16), b(16 * 256);
  const uint32_t group = block.wgmma_executed[warpgroup]++;
  Warp* warps = &block.warps[warpgroup * 4];
  auto of = [&](Warp& warp) -> std::vector<WgmmaOp>& { return warp.groups[group - warp.retired]; };
  const size_t count = of(warps[0]).size();
  for (int w = 1; w < 4; w++) {
    if (of(warps[w]).size() != count) {
      error("wgmma: the warps of warpgroup %d committed groups of different sizes", warpgroup);
      return;
    }
  }
  for (size_t i = 0; i < count; i++) {
    const Wgmma& op = of(warps[0])[i].op;
    bool whole = load_operand(block, op.b_descriptor, op.n, op.b_transposed, op.half, b.data(), 1, 256);
    if (!op.a) whole &= load_operand(block, op.a_descriptor, 64, op.a_transposed, op.half, a.data(), 16, 1);
    if (!whole) return;
    for (int w = 0; w < 4; w++) {
      WgmmaOp& own = of(warps[w])[i];
      if (own.op.n != op.n || own.op.b_descriptor != op.b_descriptor || own.op.accumulate != op.accumulate ||
          !own.op.a != !op.a || (!op.a && own.op.a_descriptor != op.a_descriptor)) {
        error("wgmma: the warps of warpgroup %d issued different shapes or descriptors", warpgroup);
        return;
      }
      if (op.a) {
        for (int lane = 0; lane < 32; lane++) {
          for (int e = 0; e < 4; e++) {
            for (int h = 0; h < 2; h++) {
              a[(w * 16 + lane / 4 + 8 * (e % 2)) * 16 + lane % 4 * 2 + h + 8 * (e / 2)] =
                  value_of(static_cast<uint16_t>(own.a[lane][e] >> 16 * h), op.half);
            }
          }
        }
      }
      Accumulator& acc = *warps[w].accumulators[own.d[0]];
      for (int r = 0; r < 16; r++) {
        float* __restrict__ row = &acc.values[r * op.n];
        if (!op.accumulate) memset(row, 0, op.n * sizeof(float));
        for (int k = 0; k < 16; k++) {
          const float left = a[(w * 16 + r) * 16 + k];
          const float* __restrict__ right = &b[k * 256];
          for (int n = 0; n < op.n; n++) row[n] += left * right[n];
        }
      }
    }
  }
}

bool all_committed(const Block& block, int warpgroup, uint32_t groups) {
  for (int w = warpgroup * 4; w < warpgroup * 4 + 4; w++) {
    if (block.warps[w].committed < groups) return false;
  }
  return true;
}

// Registers of A are the instructions' until the last of them is waited for.
void take_fragment(Warp& warp, const Collective& met, WgmmaOp& op) {
  Fragment& fragment = warp.fragments[op.op.a];
  if (fragment.in_flight++ == 0) {
    for (int lane = 0; lane < 32; lane++) {
      fragment.lanes[lane] = const_cast<uint32_t*>(static_cast<Wgmma*>(met.argument[lane])->a);
      memcpy(fragment.values[lane], fragment.lanes[lane], sizeof fragment.values[lane]);
      std::fill_n(fragment.lanes[lane], 4, kPoison);
    }
  }
  memcpy(op.a, fragment.values, sizeof op.a);
}

void give_back_fragment(Warp& warp, const WgmmaOp& op) {
  Fragment& fragment = warp.fragments[op.op.a];
  if (--fragment.in_flight) return;
  for (int lane = 0; lane < 32; lane++) {
    uint32_t* a = fragment.lanes[lane];
    if (std::any_of(a, a + 4, [](uint32_t bits) { return bits != kPoison; })) {
      error("wgmma: registers of A were written while an instruction read them");
      continue;
    }
    memcpy(a, fragment.values[lane], sizeof fragment.values[lane]);
  }
}

void issue(Warp& warp, const Collective& met) {
  Block& block = *warp.block;
  const int group = warp.id / 4;
  if (met.mask != kFullMask || group * 4 + 4 > static_cast<int>(block.warps.size())) {
    error("wgmma needs a warpgroup of four whole warps");
    return;
  }
  block.launch->result->wgmma += warp.id % 4 == 0;
  WgmmaOp op;
  for (int lane = 0; lane < 32; lane++) {
    auto& own = *static_cast<Wgmma*>(met.argument[lane]);
    op.op = own;
    op.d[lane] = own.d;
  }
  check_descriptor(op.op.b_descriptor);
  if (!op.op.a) check_descriptor(op.op.a_descriptor);
  if (op.op.a && warp.fences == warp.waits) error("wgmma: no wgmma.fence after the registers of A were written");
  if (op.op.n % 8 || op.op.n < 8 || op.op.n > 256) error("wgmma: no shape has n = %d", op.op.n);
  auto& slot = warp.accumulators[op.d[0]];
  if (slot && slot->in_flight && slot->n != op.op.n) error("wgmma: accumulators in flight are used in another shape");
  if (!slot || slot->in_flight == 0) {
    slot = std::make_shared<Accumulator>();
    slot->n = op.op.n;
    slot->values.resize(16 * op.op.n);
    slot->in_flight = 0;
    if (warp.fences == warp.waits) error("wgmma: accumulators were in use by the warp, and no wgmma.fence came before");
    for (int lane = 0; lane < 32; lane++) {
      slot->lanes[lane] = op.d[lane];
      for (int i = 0; i < op.op.n / 2; i++) slot->values[accumulator_index(i, lane, op.op.n)] = op.d[lane][i];
      memset(op.d[lane], 0xff, op.op.n / 2 * sizeof(float));
    }
  }
  slot->in_flight++;
  if (op.op.a) take_fragment(warp, met, op);
  if (block.wgmma_agent[group] < 0) block.wgmma_agent[group] = new_agent(block);
  record_reads(warp, op);
  warp.open.push_back(op);
}

}  // namespace

uint32_t wgmma_element_address(uint64_t descriptor, int mn, int k, bool mn_major) {
  return element_address(descriptor, mn, k, mn_major);
}

void wgmma(const Wgmma& op) {
  EMU_SITE();
  Wgmma args = op;
  collective("wgmma.mma_async", kFullMask, &args, issue);
}

void wgmma_fence() {
  EMU_SITE();
  collective("wgmma.fence", kFullMask, nullptr, [](Warp& warp, const Collective&) { warp.fences = warp.waits + 1; });
}

void wgmma_commit() {
  EMU_SITE();
  collective("wgmma.commit_group", kFullMask, nullptr, [](Warp& warp, const Collective&) {
    Block& block = *warp.block;
    warp.groups.push_back(std::move(warp.open));
    warp.open.clear();
    warp.committed++;
    block.launch->progress++;
    const int group = warp.id / 4;
    for (int w = group * 4; w < group * 4 + 4; w++) {
      for (int lane = 0; lane < block.warps[w].lanes; lane++) {
        if (block.warps[w].thread[lane]->state == State::kWgmma) wake(*block.warps[w].thread[lane]);
      }
    }
    if (block.launch->options.async == EMU_ASYNC_AT_ONCE) {
      while (all_committed(block, group, block.wgmma_executed[group] + 1)) execute(block, group);
    }
  });
}

void wgmma_wait(int n) {
  EMU_SITE();
  Thread& thread = *current();
  Warp& warp = *thread.warp;
  Block& block = *thread.block;
  const int group = warp.id / 4;
  const uint32_t done = warp.committed > static_cast<uint32_t>(n) ? warp.committed - n : 0;
  collective("wgmma.wait_group", kFullMask, nullptr, nullptr);
  while (warp.retired < done && !all_committed(block, group, done)) block_on(thread, State::kWgmma);
  while (warp.retired < done) {  // the first lane to get here retires for its warp
    if (block.wgmma_executed[group] <= warp.retired) execute(block, group);
    auto ops = std::move(warp.groups.front());
    warp.groups.pop_front();
    warp.retired++;
    for (WgmmaOp& op : ops) {
      if (op.op.a) give_back_fragment(warp, op);
      Accumulator& acc = *warp.accumulators[op.d[0]];
      if (--acc.in_flight) continue;
      for (int lane = 0; lane < 32; lane++) {
        uint32_t bits;
        memcpy(&bits, acc.lanes[lane], 4);
        if (bits != kPoison) error("wgmma: accumulators were written while an instruction owned them");
        for (int i = 0; i < acc.n / 2; i++) acc.lanes[lane][i] = acc.values[accumulator_index(i, lane, acc.n)];
      }
      warp.waits = warp.fences;
    }
  }
  if (block.wgmma_agent[group] >= 0 && done) learn(thread, block.wgmma_agent[group], done, true);
  collective("wgmma.wait_group (end)", kFullMask, nullptr, nullptr);
}

}  // namespace emu

// For the comparison with other libraries' layouts.
extern "C" uint32_t emu_wgmma_element_address(uint64_t descriptor, int32_t mn, int32_t k, int32_t mn_major) {
  return emu::wgmma_element_address(descriptor, mn, k, mn_major != 0);
}
extern "C" int32_t emu_wgmma_accumulator_index(int32_t lane_register, int32_t lane, int32_t n) {
  return emu::accumulator_index(lane_register, lane, n);
}
