// Threads of the host: what each knows, and how many there are to wait for.
#include <chrono>

#include "engine.h"

namespace mock {
namespace {

struct Known {
  uint64_t generation = 0;
  Clock clock;
};
thread_local Known own;
thread_local bool counted = false;

}  // namespace

Clock& Engine::host() {
  if (!options.host_threads) return host_;
  if (own.generation != generation_) own = {generation_, host_};
  return own.clock;
}

void Engine::learn(const Clock& clock) {
  join(host(), clock);
  join(host_, clock);
}

void Engine::hosts(int count) {
  hosts_ = count;
  changed();
}

void Engine::host_entered() { counted = true; }

void Engine::host_left() {
  if (counted && hosts_) hosts_--;
  counted = false;
  changed();
}

void Engine::hang(Lock& lock, const std::string& name) {
  const std::string call = name + ":" + std::to_string(options.occurrences[name]);
  if (options.hang != call) return;
  const bool host = counted;
  host_left();
  condition_.wait(lock, [&] { return options.hang != call; });
  counted = host;
  if (host) hosts_++;
}

// Until something changes; false: nothing will.
bool Engine::stand_by(Lock& lock) {
  if (std::chrono::steady_clock::now() - moved_ < std::chrono::duration<double>(options.processes_s)) {
    // Gates are asked again: their words may be written by other processes.
    condition_.wait_for(lock, std::chrono::milliseconds(1));
    return true;
  }
  const bool alone = hosts_ ? blocked_ + counted >= hosts_ : host_threads_.size() < 2;
  if (alone && !running_ && idle()) return false;
  const uint64_t seen = changes_;
  blocked_ += counted;
  const auto limit = std::chrono::duration<double>(options.deadlock_s);
  if (condition_.wait_for(lock, limit, [&] { return changes_ != seen; })) return true;
  blocked_ -= counted;
  return running_ > 0;
}

}  // namespace mock
