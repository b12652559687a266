#include "engine.h"

#include <algorithm>
#include <chrono>

namespace mock {

constexpr int kIllegalAddress = 700;

namespace {

// What is of no use to an operation that has ended, and may hold others.
void forget_how(Operation& op) {
  op.after.clear();
  op.accesses.clear();
  op.host.clear();
  op.effect = nullptr;
  op.gate = nullptr;
  op.arrive = nullptr;
  op.enter = nullptr;
  op.needs = nullptr;
  op.waits_for = nullptr;
  op.running = nullptr;
}

}  // namespace

Engine& Engine::shared() {
  static Engine* engine = new Engine;  // never destroyed: workers may outlive main
  return *engine;
}

uint32_t Engine::below(uint32_t n) {
  if (seeded_with_ != options.seed) {
    seeded_with_ = options.seed;
    random_ = options.seed * 0x9e3779b97f4a7c15ull + 1;
  }
  random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
  return static_cast<uint32_t>((random_ >> 11) % n);
}

void Engine::changed() {
  changes_++;
  moved_ = std::chrono::steady_clock::now();
  blocked_ = 0;
  condition_.notify_all();
}

Queue& Engine::new_queue(const std::string& name, Domain& domain) {
  auto queue = std::make_unique<Queue>();
  queue->agent = queues_.size();
  queue->name = name;
  queue->domain = &domain;
  queue->weight = 1 + below(8);
  queues_.push_back(std::move(queue));
  return *queues_.back();
}

void Engine::submit(Lock&, Queue& queue, const OperationPtr& op) {
  op->id = next_id_++;
  op->generation = generation_;
  op->queue = &queue;
  op->sequence = ++queue.sequence;
  seen_host();
  op->host = host();
  queue.pending.push_back(op);
  queue.last = op;
  if (op->arrive) op->arrive(*op);
  changed();
}

bool Engine::ready(const Operation& op) const {
  if (op.state == State::kStalled) return op.stalled_at != changes_ || op.hopeless;
  if (op.state != State::kQueued) return false;
  for (const OperationPtr& earlier : op.after) {
    if (earlier->state != State::kDone) return false;
  }
  return !op.gate || op.gate();
}

// Marks, queue by queue, how far it must run for `target` to end.
void Engine::need(const OperationPtr& target) {
  for (auto& queue : queues_) queue->needed = 0;
  std::vector<OperationPtr> open{target};
  while (!open.empty()) {
    const OperationPtr op = open.back();
    open.pop_back();
    Queue& queue = *op->queue;
    const uint32_t from = queue.needed;
    if (op->state == State::kDone || from >= op->sequence) continue;
    queue.needed = op->sequence;
    for (const OperationPtr& earlier : queue.pending) {
      if (earlier->sequence > op->sequence) break;
      if (earlier->sequence <= from) continue;
      open.insert(open.end(), earlier->after.begin(), earlier->after.end());
      if (earlier->needs) earlier->needs(open);
    }
  }
}

// Runs one operation that is ready, first among those that `target` needs; false: none is.
bool Engine::step(Lock& lock, const OperationPtr& target) {
  if (target) need(target);
  std::vector<Queue*> able;
  uint32_t weight = 0;
  for (bool any : {false, true}) {
    if (!any && !target) continue;
    for (auto& queue : queues_) {
      if (queue->pending.empty()) continue;
      const Operation& head = *queue->pending.front();
      if ((!any && head.sequence > queue->needed) || !ready(head)) continue;
      able.push_back(queue.get());
      weight += queue->weight;
    }
    if (!able.empty()) break;
  }
  if (able.empty()) return false;
  uint32_t at = below(weight);
  size_t chosen = 0;
  while (at >= able[chosen]->weight) at -= able[chosen++]->weight;
  const OperationPtr op = able[chosen]->pending.front();
  op->state == State::kStalled ? advance(lock, op) : run(lock, op);
  return true;
}

void Engine::run(Lock& lock, const OperationPtr& op) {
  Queue& queue = *op->queue;
  op->state = State::kRunning;
  executed_++;
  order_ = order_ * 0x100000001b3ull + (op->id - first_id_);
  changed();
  op->clock = before(*op, &op->begin_ns);
  if (op->enter) op->enter(*op);
  if (op->clock.size() <= queue.agent) op->clock.resize(queue.agent + 1);
  op->clock[queue.agent] = op->sequence;
  op->end_ns = op->begin_ns + op->cost_ns;
  bool valid = true;
  if (options.record) ran_[op->id] = op->label;
  for (const Access& access : op->accesses) valid &= touch(*op, access, true);
  const int error = valid ? options.occurs("run." + op->label) : kIllegalAddress;
  if (error || queue.domain->error || !op->effect) {
    finish(op, error);
  } else {
    advance(lock, op);
  }
}

bool Engine::at_head(const Operation& op) const {
  if (op.state != State::kQueued || op.queue->pending.empty() || op.queue->pending.front().get() != &op) return false;
  return std::all_of(op.after.begin(), op.after.end(), [](const auto& o) { return o->state == State::kDone; });
}

Clock Engine::before(const Operation& op, double* begin_ns) const {
  Clock clock = op.queue->clock;
  join(clock, op.host);
  *begin_ns = op.queue->end_ns;
  for (const OperationPtr& earlier : op.after) {
    if (earlier->generation != generation_) continue;
    join(clock, earlier->clock);
    *begin_ns = std::max(*begin_ns, earlier->end_ns);
  }
  return clock;
}

void Engine::advance(Lock& lock, const OperationPtr& op) {
  op->state = State::kRunning;
  running_++;
  if (op->own_thread) {
    std::thread([this, op] {
      const Outcome outcome = op->effect(*op);
      Lock own(mutex);
      running_--;
      finish(op, outcome.error);
    }).detach();
    return;
  }
  // Whatever changes from here on, the effect may have looked before.
  const uint64_t seen = changes_;
  lock.unlock();
  Outcome outcome;
  {
    std::lock_guard<std::mutex> guard(memory.effects);
    outcome = op->effect(*op);
  }
  lock.lock();
  running_--;
  op->hopeless = false;
  if (outcome.done) {
    finish(op, outcome.error);
  } else {
    op->state = State::kStalled;
    op->stalled_at = seen;
    condition_.notify_all();
  }
}

void Engine::finish(const OperationPtr& op, int error) {
  Queue& queue = *op->queue;
  if (error && !queue.domain->error) queue.domain->error = error;
  op->state = State::kDone;
  queue.clock = op->clock;
  queue.end_ns = op->end_ns;
  if (!queue.pending.empty() && queue.pending.front() == op) queue.pending.pop_front();
  forget_how(*op);
  changed();
}

void Engine::observe(Lock&, Operation& op, const Access& access) {
  if (op.generation == generation_) touch(op, access, false);
}

bool Engine::touch(Operation& op, const Access& access, bool unwritten) {
  if (options.record) touched_.push_back({op.id, access.address, access.bytes, static_cast<uint64_t>(access.kind)});
  return detector.access(op, access, unwritten);
}

bool Engine::poll(Lock& lock, const OperationPtr& op) {
  if (op && !by_threads() && below(2)) {
    // A few at a time: a host that polls sleeps in between.
    for (uint32_t steps = 1 + below(32); steps && op->state != State::kDone && step(lock, op); steps--) {
    }
  }
  if (op && op->state != State::kDone) return false;
  if (op && op->generation == generation_) learn(*op);
  return true;
}

void Engine::pump(Lock& lock) {
  if (options.mode == Mode::kEager) {
    while (step(lock, nullptr)) {
    }
  } else if (options.mode == Mode::kRandom) {
    while (below(2) && step(lock, nullptr)) {
    }
  }
}

void Engine::drain(Lock& lock, const Domain& domain) {
  for (size_t i = 0; i < queues_.size(); i++) {
    if (queues_[i]->domain == &domain) wait(lock, queues_[i]->last);
  }
}

void Engine::start_workers() {
  if (working_) return;
  working_ = true;
  for (int i = 0; i < 4; i++) std::thread([this] { work(); }).detach();
}

void Engine::work() {
  Lock lock(mutex);
  while (true) {
    if (by_threads() && step(lock, nullptr)) continue;
    // Flags may be written by other processes, which nobody tells.
    options.processes_s > 0 ? (void)condition_.wait_for(lock, std::chrono::milliseconds(1)) : condition_.wait(lock);
  }
}

void Engine::reset(Lock& lock) {
  for (auto& queue : queues_) queue->domain->error = 0;
  // Kernels that wait inside end by their own deadlines; then nothing runs.
  while (running_ || let_time_pass(lock)) {
    if (running_) condition_.wait(lock);
  }
  std::vector<std::unique_ptr<Queue>> kept;
  for (auto& queue : queues_) {
    for (const OperationPtr& op : queue->pending) {
      op->state = State::kDone;
      forget_how(*op);
    }
    queue->pending.clear();
    queue->clock.clear();
    queue->last = nullptr;
    queue->domain->error = 0;
    if (!queue->retired) kept.push_back(std::move(queue));
  }
  detector.forget();  // before the queues that its operations name are gone
  queues_.swap(kept);
  for (size_t i = 0; i < queues_.size(); i++) queues_[i]->agent = i;
  generation_++;
  first_id_ = next_id_;
  order_ = 0;
  seeded_with_ = ~0ull;
  host_.clear();
  host_threads_.clear();
  hosts_ = 0;
  for (const auto& forget : at_reset) forget();
  reports.clear();
  touched_.clear();
  ran_.clear();
  options.faults.clear();
  options.ranks = {};
  options.hang.clear();
  options.occurrences.clear();
}

}  // namespace mock
