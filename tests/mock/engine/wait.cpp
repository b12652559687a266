// The host waits: what cannot end is found here.
#include "engine.h"

namespace mock {

constexpr int kLaunchTimeout = 702;

int Engine::wait(Lock& lock, const OperationPtr& op) {
  if (!op || op->generation != generation_) return 0;
  while (op->state != State::kDone) {
    if (!by_threads() && step(lock, op)) continue;
    if (op->state == State::kDone) break;
    if (stand_by(lock) || let_time_pass(lock)) continue;
    reports.add("deadlock", "DEADLOCK: the host waits for " + name_of(*op) + ", and nothing can run:" + blocked());
    if (!op->queue->domain->error) op->queue->domain->error = kLaunchTimeout;
    return op->queue->domain->error;
  }
  learn(*op);
  return op->queue->domain->error;
}

bool Engine::await(Lock& lock, const std::function<bool()>& met, const std::function<std::string()>& what) {
  while (!met()) {
    if (!by_threads() && step(lock, nullptr)) continue;
    if (met()) break;
    if (stand_by(lock) || let_time_pass(lock)) continue;
    reports.add("deadlock", "DEADLOCK: the host waits for " + what() + ", and nothing can run:" + blocked());
    return false;
  }
  return true;
}

// No head of a queue could run.
bool Engine::idle() const {
  for (const auto& queue : queues_) {
    if (!queue->pending.empty() && ready(*queue->pending.front())) return false;
  }
  return true;
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
