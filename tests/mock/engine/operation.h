// What everything on the device is: an operation in an in-order queue.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mock {

struct Operation;
struct Queue;
using OperationPtr = std::shared_ptr<Operation>;

// By queue: how many of its operations are known to have ended.
using Clock = std::vector<uint32_t>;

inline void join(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); i++) {
    if (into[i] < from[i]) into[i] = from[i];
  }
}

// Acquire and release are of a flag's word: they order, and never race.
enum class AccessKind { kRead, kWrite, kAcquire, kRelease };
struct Access {
  uint64_t address, bytes;
  AccessKind kind;
};

enum class State { kQueued, kRunning, kStalled, kDone };

// How far an effect came: one that is not done is called again once anything else has happened.
struct Outcome {
  bool done = true;
  int error = 0;
};

struct Operation : std::enable_shared_from_this<Operation> {
  std::string label;
  std::vector<OperationPtr> after;          // must have ended; orders memory too
  std::function<bool()> gate;               // a further condition
  std::function<std::string()> waits_for;   // the gate in words
  std::function<void(Operation&)> arrive;   // when it enters its queue; in a graph, at every launch
  std::function<void(Operation&)> enter;    // as it begins: what it learns from others, in its clock
  // Operations of other queues that the gate waits for.
  std::function<void(std::vector<OperationPtr>&)> needs;
  std::function<Outcome(Operation&)> effect;
  std::vector<Access> accesses;             // known before it runs
  double cost_ns = 0;
  bool own_thread = false;                  // a host function: may block on its caller

  // Set by the engine.
  uint64_t id = 0, generation = 0;
  Queue* queue = nullptr;
  uint32_t sequence = 0;  // in its queue, from 1
  State state = State::kQueued;
  Clock host, clock;      // what the host knew at submission; what the operation knows
  double begin_ns = 0, end_ns = 0;
  uint64_t stalled_at = 0;
  bool hopeless = false;             // nothing it may wait for will come
  std::shared_ptr<void> running;     // the effect's own, between two calls
};

// Queues of one context fail together.
struct Domain {
  int error = 0;
};

struct Queue {
  size_t agent;
  std::string name;
  Domain* domain;
  uint32_t weight;  // of the random choice
  std::deque<OperationPtr> pending;
  OperationPtr last;
  uint32_t sequence = 0;
  uint32_t needed = 0;  // how far it must run for what the host waits for
  Clock clock;
  double end_ns = 0;
  bool retired = false;
};

}  // namespace mock
