// Runs operations, each queue in its order, the queues in any order that a seed and a mode choose.
// An operation runs when those it comes after have ended and its gate is open.
//
// Methods that take a Lock want it held; effects run without it, one at a time but for host
// functions.
#pragma once
#include <chrono>
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
  // The host waits for what another host does; false: nobody can do it any more, and `what` was
  // reported as a deadlock.
  bool await(Lock&, const std::function<bool()>& met, const std::function<std::string()>& what);
  // All queues of a domain.
  void drain(Lock&, const Domain& domain);
  // After each call of the host: whatever the mode runs unasked.
  void pump(Lock&);
  // The host has seen it end.
  void learn(const Operation& op) { learn(op.clock); }
  void learn(const Clock& clock);
  // What the calling thread knows to have ended; with host=thread its own knowledge, which starts
  // as that of all at its first call.
  Clock& host();
  // What all threads know: another thread has told the calling one.
  void handoff() { join(host(), host_); }
  // A thread of the host called.
  void seen_host() {
    host_threads_.insert(std::this_thread::get_id());
    host();
  }
  // From now on `count` threads alone act, those that enter: when all of them wait, nothing will
  // come. 0: unknown.
  void hosts(int count);
  void host_entered();
  void host_left();
  // Where options.hang names this call.
  void hang(Lock&, const std::string& name);
  // Something happened that a gate may look at.
  void changed();
  // Of the seeded choices.
  uint32_t below(uint32_t n);

  // Whether it is the next of its queue and what it comes after has ended; the gate aside.
  bool at_head(const Operation& op) const;
  // What such an operation knows when it begins, and when that is.
  Clock before(const Operation& op, double* begin_ns) const;

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
  // Called at every reset, after the queues were emptied.
  std::vector<std::function<void()>> at_reset;

 private:
  bool ready(const Operation& op) const;
  void need(const OperationPtr& target);
  bool step(Lock&, const OperationPtr& target);
  void run(Lock&, const OperationPtr& op);
  void advance(Lock&, const OperationPtr& op);
  void finish(const OperationPtr& op, int error);
  bool stand_by(Lock&);
  bool idle() const;
  bool let_time_pass(Lock&);
  bool touch(Operation& op, const Access& access, bool unwritten);
  std::string blocked() const;
  void work();

  std::condition_variable condition_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::set<std::thread::id> host_threads_;
  Clock host_;  // of all threads
  std::vector<Touch> touched_;
  std::map<uint64_t, std::string> ran_;
  uint64_t next_id_ = 1, first_id_ = 1, generation_ = 1;
  uint64_t changes_ = 1, executed_ = 0, order_ = 0;
  std::chrono::steady_clock::time_point moved_{};  // when anything changed last
  uint64_t random_ = 1, seeded_with_ = ~0ull;
  int running_ = 0;
  int hosts_ = 0, blocked_ = 0;  // threads that act; those of them that wait, since the last change
  bool working_ = false;
};

}  // namespace mock
