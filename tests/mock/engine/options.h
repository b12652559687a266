// What a test sets and what it reads back.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace mock {

enum class Mode {
  kLate,     // only what the host waits for, as late as it can be
  kRandom,   // seeded steps after every call
  kEager,    // all at once
  kThreads,  // by four workers, beside the host
};

struct Fault {
  int nth, error;
};

// What the ranks of the mock NCCL meet. Counts are from 1; a rank is the one in its first communicator.
struct RankFaults {
  int absent = -1;  // a rank that never comes to the initialisation
  // From operation `nth` on, nobody sees what the rank enqueues; what the others are told of it.
  int dead = -1, dead_from = 0;
  enum class Told { kNobody, kNeighbours, kAll } told = Told::kNobody;
  // The communicator of a rank fails by itself at its operation `nth`.
  int failed = -1, failed_at = 0, failed_with = 0;
};

struct Options {
  uint64_t seed = 1;
  Mode mode = Mode::kLate;
  double deadlock_s = 30;  // how long nothing may happen while other threads could do something
  // Above 0: other processes may do what this one waits for, so that a wait goes on for so many
  // seconds before it counts as a deadlock.
  double processes_s = 0;
  uint64_t memory_bytes = 4ull << 30;
  int devices = 1;
  int capability = 90;
  int sms = 4;
  bool check = true;  // emulated kernels for races within them
  bool record = false;  // what each operation touches, for mock_touched
  int resident = 0;  // blocks of an emulated kernel side by side; 0: drawn from the seed
  bool host_threads = false;  // each thread of the host knows only what it has seen itself
  bool share_device = true;   // several ranks of NCCL on one device, which it refuses
  int nccl_version = 22809;
  int in_progress = -1;       // polls until a non-blocking call of NCCL is done; -1: drawn from the seed
  bool windows = true;        // whether NCCL's windows are supported
  bool abort_waits = false;   // an abort ends with those of other ranks, and after the kernels of its device
  RankFaults ranks;
  std::string hang;  // NAME:NTH, a call that does not return while this is set
  // By the name of a call, or "run.LABEL" for an operation: which occurrence fails, and how.
  std::map<std::string, Fault> faults;
  std::map<std::string, int> occurrences;

  // Applies "seed=3 mode=late fail=cuMemAlloc_v2:2=2 …"; what it does not know is left and false.
  bool apply(const std::string& word);
  // Counts one occurrence of `name`; the error it must fail with, or 0.
  int occurs(const std::string& name);
};

// Messages, each once.
class Reports {
 public:
  void add(const std::string& key, const std::string& text) {
    if (keys_.insert(key).second && texts_.size() < kMost) texts_.push_back(text);
  }
  const std::vector<std::string>& texts() const { return texts_; }
  void clear() { keys_.clear(), texts_.clear(); }

 private:
  static constexpr size_t kMost = 50;
  std::set<std::string> keys_;
  std::vector<std::string> texts_;
};

}  // namespace mock
