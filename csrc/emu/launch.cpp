// Launches: registered entry points, blocks and their memory, the C interface of api.h.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "fiber.h"
#include "machine.h"

namespace emu {
namespace {

struct Entry {
  const char* symbol;
  unsigned threads;
  size_t param_bytes;
  void (*run)(const void*);
};

// A function, because entry points register before any global here need be constructed.
std::vector<Entry>& entries() {
  static std::vector<Entry> all;
  return all;
}

const Entry* find_entry(const char* symbol) {
  for (const Entry& entry : entries()) {
    if (!strcmp(entry.symbol, symbol)) return &entry;
  }
  return nullptr;
}

struct Memory {  // of one resident block
  uint8_t *stacks, *shared;
};
constexpr size_t kSharedMapping = kSharedLimit + 2 * kSharedRedZone + 4096;
thread_local std::vector<Memory> spare;
thread_local int spare_threads = 0;
thread_local std::vector<std::string> messages;

void free_spare() {
  for (Memory& memory : spare) {
    free_stacks(memory.stacks, spare_threads);
    munmap(memory.shared, kSharedMapping);
  }
  spare.clear();
}

bool new_memory(int threads, Memory& memory) {
  if (!spare.empty()) {
    memory = spare.back();
    spare.pop_back();
    return true;
  }
  memory.stacks = new_stacks(threads);
  void* shared = mmap(nullptr, kSharedMapping, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  memory.shared = shared == MAP_FAILED ? nullptr : static_cast<uint8_t*>(shared);
  return memory.stacks && memory.shared;
}

uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return (x ^ x >> 31) | 1;
}

void place_threads(Launch& launch, Block& block, uint8_t* stacks) {
  const Index3 dim = launch.block_dim;
  for (int t = 0; t < block.threads_count; t++) {
    const unsigned u = static_cast<unsigned>(t);
    Thread& thread = block.threads[t];
    static_cast<ThreadIndex&>(thread) = {
        {u % dim.x, u / dim.x % dim.y, u / dim.x / dim.y}, block.index, dim, launch.grid};
    Warp& warp = block.warps[t / 32];
    thread.block = &block;
    thread.warp = &warp;
    thread.id = t;
    thread.lane = t % 32;
    thread.stack_pointer = first_stack_pointer(stacks, t);
    warp.thread[t % 32] = &thread;
  }
}

}  // namespace

std::unique_ptr<Block> start_block(Launch& launch, uint64_t number) {
  auto block = std::make_unique<Block>();
  const Index3 grid = launch.grid;
  block->launch = &launch;
  block->index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                  static_cast<unsigned>(number / grid.x / grid.y)};
  block->serial = launch.first_serial + static_cast<uint32_t>(number);
  block->threads_count = block->live = static_cast<int>(launch.block_dim.x * launch.block_dim.y * launch.block_dim.z);
  Memory memory{};
  if (!new_memory(block->threads_count, memory)) return nullptr;
  block->stacks = memory.stacks;
  block->shared_mapping = memory.shared;
  block->shared_bytes = launch.shared_bytes;
  // CUDA promises dynamic shared memory 16-byte alignment, no more. Pointers and shared addresses
  // agree in their low bits.
  const uint32_t shift = 16 * static_cast<uint32_t>(mixed(launch.options.seed) % 8);
  block->shared_base = 0x400 + shift;
  block->shared = memory.shared + kSharedRedZone + shift;
  memset(block->shared, 0xff, block->shared_bytes);
  const int warps = (block->threads_count + 31) / 32;
  block->agents = 2 * block->threads_count + kOtherAgents;
  block->next_agent = 2 * block->threads_count;
  block->mbarriers.reserve(256);
  block->mbarrier_at.assign(block->shared_bytes / 8 + 1, -1);
  block->wgmma_executed.assign(warps / 4 + 1, 0);
  block->wgmma_agent.assign(warps / 4 + 1, -1);
  block->wgmma_checked.resize(warps / 4 + 1);
  block->warps.resize(warps);
  block->threads.resize(block->threads_count);
  const int registers = launch.options.registers;
  for (int i = 0; i < warps; i++) {
    Warp& warp = block->warps[i];
    warp.block = block.get();
    warp.id = i;
    warp.lanes = std::min(32, block->threads_count - i * 32);
    warp.full = warp.lanes == 32 ? kFullMask : (1u << warp.lanes) - 1;
    warp.live = warp.ready = warp.full;
    warp.registers = registers;
  }
  place_threads(launch, *block, memory.stacks);
  if (launch.options.check) {
    block->shadow.reset(block->shared_bytes);
    const Snapshot zero = zero_snapshot(*block);
    for (Thread& thread : block->threads) thread.knows = zero;
  }
  return block;
}

void finish_block(Launch& launch, Block& block) {
  current_thread = &block.threads[0];
  block.threads[0].site = nullptr;
  for (BulkOp& op : block.bulk) {
    if (op.load) {
      error("a block ends with a copy into its shared memory in flight");
    } else {
      land_bulk(block, op);  // it has read its source, or its thread was reported
    }
  }
  current_thread = nullptr;
  spare.push_back({block.stacks, block.shared_mapping});
  (void)launch;
}

int new_agent(Block& block) {
  if (block.next_agent < block.agents) return block.next_agent++;
  error("the emulation follows no more mbarriers and storing threads of a block than %d", kOtherAgents);
  return block.agents - 1;
}

unsigned char* dynamic_shared_memory() { return current()->block->shared; }

Registration::Registration(const char* symbol, unsigned threads, size_t param_bytes, void (*entry)(const void*)) {
  entries().push_back({symbol, threads, param_bytes, entry});
}

}  // namespace emu

using namespace emu;

extern "C" int32_t emu_launch(EmuDevice* device, const char* symbol, const uint32_t grid[3], const uint32_t block[3],
                              uint32_t shared_bytes, const void* params, uint64_t param_bytes, const EmuOptions* options,
                              EmuResult* result) {
  auto refuse = [&](const std::string& why) {
    set_last_error(std::string(symbol) + ": " + why);
    return -1;
  };
  const Entry* entry = find_entry(symbol);
  if (!entry) return refuse("no kernel of that name");
  const uint64_t threads = uint64_t{block[0]} * block[1] * block[2], blocks = uint64_t{grid[0]} * grid[1] * grid[2];
  if (!threads || threads > 1024 || !blocks) return refuse("an empty grid, or a block of none or over 1024 threads");
  if (grid[1] > 65535 || grid[2] > 65535) return refuse("a grid's y and z go to 65535");
  if (threads > entry->threads) return refuse("more threads than the kernel's launch bound");
  if (shared_bytes > kSharedLimit) return refuse("more than 227 KB of shared memory");
  if (param_bytes != entry->param_bytes) return refuse("the parameters have another size than the kernel's");
  if (param_bytes > 32764) return refuse("more than 32,764 bytes of parameters");
  if (current_launch) return refuse("a launch runs on this OS thread");
  Launch launch{};
  launch.device = device;
  launch.events_from = device->events;
  if (device->launches++ == 0) device->sync_points.clear();
  launch.grid = {grid[0], grid[1], grid[2]};
  launch.block_dim = {block[0], block[1], block[2]};
  launch.shared_bytes = (shared_bytes + 15) / 16 * 16;
  launch.options = *options;
  launch.options.resident = std::max(1, launch.options.resident);
  launch.now_ns = options->now_ns;
  launch.entry = entry->run;
  // Parameters are constant memory: a copy, aligned for tensor maps.
  std::vector<uint8_t> storage(param_bytes + 64);
  uint8_t* aligned = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
  memcpy(aligned, params, param_bytes);
  launch.params = aligned;
  launch.total_blocks = blocks;
  launch.first_serial = device->next_block_serial;
  device->next_block_serial += static_cast<uint32_t>(blocks);
  launch.random.state = mixed(options->seed * 977);
  *result = EmuResult{};
  launch.result = result;
  if (spare_threads != static_cast<int>(threads)) free_spare();
  spare_threads = static_cast<int>(threads);
  current_launch = &launch;
  run_launch(launch);
  device->launches--;
  current_thread = nullptr;
  current_launch = nullptr;
  for (auto& b : launch.blocks) spare.push_back({b->stacks, b->shared_mapping});
  result->switches = launch.switches;
  result->now_ns = launch.now_ns;
  messages.clear();
  for (std::string& message : launch.messages) messages.push_back(with_source_lines(message));
  return 0;
}

extern "C" const char* emu_message(uint32_t index) { return index < messages.size() ? messages[index].c_str() : nullptr; }

extern "C" const char* emu_symbol(uint32_t index) { return index < entries().size() ? entries()[index].symbol : nullptr; }

extern "C" uint64_t emu_param_bytes(const char* symbol) {
  const Entry* entry = find_entry(symbol);
  return entry ? entry->param_bytes : 0;
}

extern "C" uint32_t emu_thread_bound(const char* symbol) {
  const Entry* entry = find_entry(symbol);
  return entry ? entry->threads : 0;
}
