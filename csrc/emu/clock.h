// Vector clocks. Every thread of a block is an agent; so is each of its groups of cp.async, each
// mbarrier (for the copies that signal it), each warpgroup (for wgmma) and each thread that
// stores in bulk. An access is an epoch: an agent and that agent's clock.
//
// A snapshot is immutable and shared: a thread holds one (what it has synchronised with) beside
// its own clock, so that a barrier of 1,024 threads hands one snapshot to all of them.
#pragma once
#include <cstdint>
#include <vector>

#include "services.h"

namespace emu {

using Epoch = uint32_t;
inline Epoch epoch(uint32_t agent, uint32_t clock) { return agent << 20 | (clock & 0xfffff); }
inline uint32_t agent_of(Epoch e) { return e >> 20; }
inline uint32_t clock_of(Epoch e) { return e & 0xfffff; }

struct SnapshotData {
  int references = 0;
  uint64_t id = 0;
  std::vector<uint32_t> seen;    // by agent: what happened before, for generic accesses
  std::vector<uint32_t> fenced[2];  // by Space, by agent: what also is visible to the async proxy
};

// Counted pointer for one OS thread.
class Snapshot {
 public:
  Snapshot() = default;
  explicit Snapshot(SnapshotData* data) : data_(data) { retain(); }
  Snapshot(const Snapshot& other) : data_(other.data_) { retain(); }
  Snapshot& operator=(const Snapshot& other) {
    Snapshot copy(other);
    SnapshotData* mine = data_;
    data_ = copy.data_;
    copy.data_ = mine;
    return *this;
  }
  ~Snapshot() {
    if (data_ && --data_->references == 0) delete data_;
  }
  explicit operator bool() const { return data_ != nullptr; }
  const SnapshotData* operator->() const { return data_; }
  const SnapshotData& operator*() const { return *data_; }
  bool operator==(const Snapshot& other) const { return data_ == other.data_; }

 private:
  void retain() {
    if (data_) data_->references++;
  }
  SnapshotData* data_ = nullptr;
};

// Joins what threads release into a barrier, until the barrier's phase hands it out.
struct Release {
  std::vector<uint32_t> seen, fenced[2];
  uint64_t last = 0;  // snapshot joined last
  bool used = false;
};

struct Thread;
struct Block;

Snapshot zero_snapshot(const Block& block);
// Hands all that `thread` did and knows to `release`, and starts its next epoch.
void release_into(Thread& thread, Release& release);
// Adds an agent's clock to `release`: an asynchronous operation is complete.
void release_agent(const Block& block, Release& release, uint32_t agent, uint32_t clock);
// The snapshot of all releases, which are forgotten.
Snapshot take(Release& release);
// `thread` learns what is in `snapshot`.
void acquire(Thread& thread, const Snapshot& snapshot);
// `thread` learns that `agent` reached `clock`; `fenced` if the async proxy sees it too.
void learn(Thread& thread, uint32_t agent, uint32_t clock, bool fenced);
// A proxy fence by `thread`: its own accesses of the space, and its copies so far, become visible to
// the async proxy.
void fence_own(Thread& thread, Space space);

bool happened_before(const Thread& thread, Epoch earlier);
bool fenced_before(const Thread& thread, Epoch earlier, Space space);

}  // namespace emu
