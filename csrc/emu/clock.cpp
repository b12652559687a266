#include "clock.h"

#include <algorithm>

#include "machine.h"

namespace emu {
namespace {

__thread uint64_t next_id = 0;

SnapshotData* fresh(SnapshotData data) {
  auto* made = new SnapshotData(std::move(data));
  made->references = 0;
  made->id = ++next_id;
  return made;
}

void join(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
  for (size_t i = 0; i < into.size(); i++) into[i] = std::max(into[i], from[i]);
}

bool covers(const SnapshotData& big, const SnapshotData& small) {
  for (size_t i = 0; i < small.seen.size(); i++) {
    if (small.seen[i] > big.seen[i] || small.fenced[0][i] > big.fenced[0][i] || small.fenced[1][i] > big.fenced[1][i]) {
      return false;
    }
  }
  return true;
}

void open(const Block& block, Release& release) {
  if (release.used) return;
  release.seen.assign(block.agents, 0);
  for (auto& fenced : release.fenced) fenced.assign(block.agents, 0);
  release.used = true;
  release.last = 0;
}

bool checking(const Block& block) { return block.launch->options.check != 0; }

}  // namespace

Snapshot zero_snapshot(const Block& block) {
  SnapshotData data;
  data.seen.assign(block.agents, 0);
  for (auto& fenced : data.fenced) fenced.assign(block.agents, 0);
  return Snapshot(fresh(std::move(data)));
}

void release_into(Thread& thread, Release& release) {
  const Block& block = *thread.block;
  if (!checking(block)) return;
  open(block, release);
  if (release.last != thread.knows->id) {
    join(release.seen, thread.knows->seen);
    for (int s = 0; s < 2; s++) join(release.fenced[s], thread.knows->fenced[s]);
    release.last = thread.knows->id;
  }
  release.seen[thread.id] = std::max(release.seen[thread.id], thread.clock);
  for (int s = 0; s < 2; s++) {
    release.fenced[s][thread.id] = std::max(release.fenced[s][thread.id], thread.fenced_clock[s]);
  }
  thread.clock++;
}

void release_agent(const Block& block, Release& release, uint32_t agent, uint32_t clock) {
  if (!checking(block)) return;
  open(block, release);
  release.seen[agent] = release.fenced[0][agent] = release.fenced[1][agent] = clock;
}

Snapshot take(Release& release) {
  if (!release.used) return Snapshot();
  SnapshotData data;
  data.seen = release.seen;
  for (int s = 0; s < 2; s++) data.fenced[s] = release.fenced[s];
  release.used = false;
  return Snapshot(fresh(std::move(data)));
}

void acquire(Thread& thread, const Snapshot& snapshot) {
  Block& block = *thread.block;
  if (!checking(block) || !snapshot || snapshot == thread.knows) return;
  // Threads of a warp usually hold the same snapshot and join the same one.
  auto& memo = block.join_memo;
  if (memo.joined && memo.a == thread.knows->id && memo.b == snapshot->id) {
    thread.knows = memo.joined;
    return;
  }
  memo.a = thread.knows->id;
  memo.b = snapshot->id;
  if (covers(*snapshot, *thread.knows)) {
    memo.joined = snapshot;
  } else {
    SnapshotData data = *thread.knows;
    join(data.seen, snapshot->seen);
    for (int s = 0; s < 2; s++) join(data.fenced[s], snapshot->fenced[s]);
    memo.joined = Snapshot(fresh(std::move(data)));
  }
  thread.knows = memo.joined;
}

void learn(Thread& thread, uint32_t agent, uint32_t clock, bool fenced) {
  Block& block = *thread.block;
  if (!checking(block) || thread.knows->seen[agent] >= clock) return;
  auto& memo = block.learn_memo;
  if (!memo.result || memo.from != thread.knows->id || memo.agent != agent || memo.clock != clock) {
    memo.from = thread.knows->id;
    memo.agent = agent;
    memo.clock = clock;
    SnapshotData data = *thread.knows;
    data.seen[agent] = clock;
    if (fenced) data.fenced[0][agent] = data.fenced[1][agent] = clock;
    memo.result = Snapshot(fresh(std::move(data)));
  }
  thread.knows = memo.result;
}

void fence_own(Thread& thread, Space space) {
  const int of = static_cast<int>(space);
  thread.fenced_clock[of] = thread.clock++;
  if (!checking(*thread.block) || space != Space::kShared) return;
  uint32_t copies = thread.block->threads_count + thread.id;
  if (thread.knows->fenced[of][copies] >= thread.knows->seen[copies]) return;
  SnapshotData data = *thread.knows;
  data.fenced[of][copies] = data.seen[copies];
  thread.knows = Snapshot(fresh(std::move(data)));
}

bool happened_before(const Thread& thread, Epoch earlier) {
  uint32_t agent = agent_of(earlier), clock = clock_of(earlier);
  if (agent == static_cast<uint32_t>(thread.id)) return clock <= thread.clock;
  return clock <= thread.knows->seen[agent];
}

bool fenced_before(const Thread& thread, Epoch earlier, Space space) {
  uint32_t agent = agent_of(earlier), clock = clock_of(earlier);
  const int of = static_cast<int>(space);
  if (agent == static_cast<uint32_t>(thread.id)) return clock <= thread.fenced_clock[of];
  return clock <= thread.knows->fenced[of][agent];
}

}  // namespace emu
