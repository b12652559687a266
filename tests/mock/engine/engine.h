// Runs operations, each queue in its order, the queues in any order that a seed and a mode choose.
// An operation runs when those it comes after have ended and its gate is open.
//
// Methods that take a Lock want it held; effects run without it, one at a time but for host
// functions.
#pragma once
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "detector.h"
#include "memory.h"
#include "operation.h"
#include "options.h"

namespace mock {

using Lock = std::unique_lock<std::mutex>;

class Engine {
 public:
  static Engine& shared();

  std::mutex mutex;
  Options options;
  Reports reports;
  Memory memory;
  Detector detector{memory, reports};

  Queue& new_queue(const std::string& name, Domain& domain);
  void submit(Lock&, Queue& queue, const OperationPtr& op);

  // The host waits; the error of the queue's domain. A wait that cannot end is reported.
  int wait(Lock&, const OperationPtr& op);
  // Whether it has ended; may run something, so that polling ends.
  bool poll(Lock&, const OperationPtr& op);
  // Everything of every queue.
  void drain(Lock&);
  // After each call of the host: whatever the mode runs unasked.
  void pump(Lock&);
  // The host has seen it end.
  void learn(const Operation& op) { join(host_, op.clock); }

  // Accesses of a running kernel, as they become known.
  void observe(Lock&, Operation& op, const Access& access);

  // With Options::record: what ran since the last reset, and what it touched.
  struct Touch {
    uint64_t operation, address, bytes, kind;
  };
  const std::vector<Touch>& touched() const { return touched_; }
  const std::map<uint64_t, std::string>& ran() const { return ran_; }

  // Abandons what is queued and forgets everything but memory, live queues and options.
  void reset(Lock&);
  uint64_t order() const { return order_; }
  uint64_t executed() const { return executed_; }
  bool by_threads() const { return options.mode == Mode::kThreads; }
  void start_workers();

 private:
  uint32_t below(uint32_t n);
  bool ready(const Operation& op) const;
  void need(const OperationPtr& target);
  bool step(Lock&, const OperationPtr& target);
  void run(Lock&, const OperationPtr& op);
  void advance(Lock&, const OperationPtr& op);
  void finish(const OperationPtr& op, int error);
  bool let_time_pass(Lock&);
  bool touch(Operation& op, const Access& access, bool unwritten);
  void changed();
  std::string blocked() const;
  void work();

  std::condition_variable condition_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::set<std::thread::id> host_threads_;
  Clock host_;
  std::vector<Touch> touched_;
  std::map<uint64_t, std::string> ran_;
  uint64_t next_id_ = 1, first_id_ = 1, generation_ = 1;
  uint64_t changes_ = 1, executed_ = 0, order_ = 0;
  uint64_t random_ = 1, seeded_with_ = ~0ull;
  int running_ = 0;
  bool working_ = false;
};

}  // namespace mock
