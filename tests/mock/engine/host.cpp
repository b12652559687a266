// Threads of the host: what each knows, and how many there are to wait for.
#include "engine.h"

namespace mock {
namespace {

struct Known {
  uint64_t generation = 0;
  Clock clock;
};
thread_local Known own;

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

void Engine::host_left() {
  if (hosts_) hosts_--;
  changed();
}

void Engine::hang(Lock& lock, const std::string& name) {
  const std::string call = name + ":" + std::to_string(options.occurrences[name]);
  if (options.hang != call) return;
  const bool counted = hosts_ > 0;
  host_left();
  condition_.wait(lock, [&] { return options.hang != call; });
  hosts_ += counted;
}

}  // namespace mock
