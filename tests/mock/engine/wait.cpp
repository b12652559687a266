// The host waits: what cannot end is found here.
#include <chrono>

#include "engine.h"

namespace mock {

constexpr int kLaunchTimeout = 702;

int Engine::wait(Lock& lock, const OperationPtr& op) {
  if (!op || op->generation != generation_) return 0;
  auto alone_since = std::chrono::steady_clock::now();
  while (op->state != State::kDone) {
    const auto now = std::chrono::steady_clock::now();
    if (!by_threads() && step(lock, op)) {
      alone_since = now;
      continue;
    }
    if (op->state == State::kDone) break;
    const uint64_t seen = changes_;
    if (now - alone_since < std::chrono::duration<double>(options.processes_s)) {
      // Gates are asked again: their words may be written by others.
      condition_.wait_for(lock, std::chrono::milliseconds(1));
      if (changes_ != seen) alone_since = now;
      continue;
    }
    if (by_threads() || running_ || host_threads_.size() > 1) {
      const auto limit = std::chrono::duration<double>(options.deadlock_s);
      auto moved = [&] { return changes_ != seen || op->state == State::kDone; };
      if (condition_.wait_for(lock, limit, moved) || running_) continue;
    }
    if (let_time_pass(lock)) continue;
    reports.add("deadlock", "DEADLOCK: the host waits for " + name_of(*op) + ", and nothing can run:" + blocked());
    if (!op->queue->domain->error) op->queue->domain->error = kLaunchTimeout;
    return op->queue->domain->error;
  }
  learn(*op);
  return op->queue->domain->error;
}

// A kernel that polls what nobody will write runs on until its own deadline ends the wait.
bool Engine::let_time_pass(Lock& lock) {
  for (auto& queue : queues_) {
    if (queue->pending.empty() || queue->pending.front()->state != State::kStalled) continue;
    const OperationPtr op = queue->pending.front();
    op->hopeless = true;
    advance(lock, op);
    return true;
  }
  return false;
}

std::string Engine::blocked() const {
  std::string text;
  for (const auto& queue : queues_) {
    if (queue->pending.empty()) continue;
    const Operation& op = *queue->pending.front();
    text += "\n  " + queue->name + " is at op " + std::to_string(op.id) + " '" + op.label + "'";
    for (const OperationPtr& earlier : op.after) {
      if (earlier->state != State::kDone) text += ", which waits for " + name_of(*earlier);
    }
    if (op.waits_for) text += ", which waits for " + op.waits_for();
    text += " (" + std::to_string(queue->pending.size() - 1) + " more behind it)";
  }
  return text;
}

}  // namespace mock
