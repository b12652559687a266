#include "detector.h"

namespace mock {
namespace {

uint32_t known(const Operation& earlier, const Clock& clock) {
  return earlier.queue->agent < clock.size() ? clock[earlier.queue->agent] : 0;
}

bool ordered(const OperationPtr& earlier, const Operation& op) {
  return !earlier || earlier.get() == &op || known(*earlier, op.clock) >= earlier->sequence;
}

}  // namespace

std::string name_of(const Operation& op) {
  return "op " + std::to_string(op.id) + " '" + op.label + "' on " + op.queue->name;
}

void Detector::allocated(uint64_t address, uint64_t bytes, bool written) {
  segments_[address] = {address + bytes, written, nullptr, {}};
}

void Detector::freed(uint64_t address, uint64_t bytes) {
  segments_.erase(segments_.lower_bound(address), segments_.lower_bound(address + bytes));
}

void Detector::lent(uint64_t address, uint64_t bytes) {
  const auto end = segments_.lower_bound(address + bytes);
  for (auto it = segments_.lower_bound(address); it != end; ++it) it->second.written = true;
}

void Detector::forget() {
  flags_.clear();
  for (auto& [address, segment] : segments_) {
    segment.writer = nullptr;
    segment.readers.clear();
  }
}

bool Detector::access(Operation& op, const Access& access, bool unwritten) {
  if (!valid(op, access)) return false;
  if (access.kind == AccessKind::kAcquire) {
    const auto flag = flags_.find(access.address);
    if (flag != flags_.end()) join(op.clock, flag->second);
    return true;
  }
  const auto first = split(access.address), end = split(access.address + access.bytes);
  switch (access.kind) {
    case AccessKind::kRead:
      for (auto it = first; it != end; ++it) read(op, access, it->second, unwritten);
      break;
    case AccessKind::kWrite: write(op, access, first, end); break;
    default:
      for (auto it = first; it != end; ++it) it->second.written = true;
      flags_[access.address] = op.clock;
  }
  return true;
}

bool Detector::valid(const Operation& op, const Access& access) {
  uint64_t first = 0;
  const Allocation* allocation = memory_.find(access.address, &first);
  const char* what = !allocation                                                          ? "BAD ADDRESS"
                     : !allocation->live                                                  ? "USE AFTER FREE"
                     : access.address + access.bytes > first + allocation->bytes ? "OUT OF BOUNDS"
                                                                                          : nullptr;
  if (!what) return true;
  reports_.add(what + op.label, std::string(what) + ": " + name_of(op) +
                                    (access.kind == AccessKind::kRead ? " reads " : " touches ") +
                                    memory_.name_of(access.address, access.bytes));
  return false;
}

// The first segment that starts at or after `at`, with one cut in two if it holds `at`.
Detector::Segments::iterator Detector::split(uint64_t at) {
  auto it = segments_.lower_bound(at);
  if (it == segments_.begin() || (it != segments_.end() && it->first == at)) return it;
  Segment& before = std::prev(it)->second;
  if (before.end <= at) return it;
  Segment rest = before;
  before.end = at;
  return segments_.emplace_hint(it, at, std::move(rest));
}

void Detector::read(Operation& op, const Access& access, Segment& segment, bool unwritten) {
  if (!ordered(segment.writer, op)) race("read after write", op, access, *segment.writer);
  if (unwritten && !segment.written) {
    reports_.add("unwritten" + op.label + op.queue->name,
                 "UNINITIALISED: " + name_of(op) + " reads bytes of " + memory_.name_of(access.address, access.bytes) +
                     " that nobody has written");
  }
  // A later read of one queue stands for its earlier ones.
  for (OperationPtr& reader : segment.readers) {
    if (reader->queue == op.queue) {
      reader = op.shared_from_this();
      return;
    }
  }
  segment.readers.push_back(op.shared_from_this());
}

void Detector::write(Operation& op, const Access& access, Segments::iterator first, Segments::iterator end) {
  for (auto it = first; it != end; ++it) {
    if (!ordered(it->second.writer, op)) race("write after write", op, access, *it->second.writer);
    for (const OperationPtr& reader : it->second.readers) {
      if (!ordered(reader, op)) race("write after read", op, access, *reader);
    }
  }
  segments_.erase(first, end);
  segments_[access.address] = {access.address + access.bytes, true, op.shared_from_this(), {}};
}

void Detector::race(const char* kind, const Operation& op, const Access& access, const Operation& earlier) {
  const std::string &own = op.queue->name, &other = earlier.queue->name;
  const uint32_t seen = known(earlier, op.clock);
  const std::string waited = seen ? own + " has waited for the first " + std::to_string(seen) + " of " +
                                        std::to_string(earlier.sequence) + " operations of " + other
                                  : own + " has never waited for " + other;
  reports_.add(kind + op.label + own + earlier.label + other,
               std::string("RACE (") + kind + ") on " + memory_.name_of(access.address, access.bytes) + ": " +
                   name_of(op) + " is not ordered after " + name_of(earlier) + "; " + waited +
                   "; record an event after op " + std::to_string(earlier.id) + " and wait for it before op " +
                   std::to_string(op.id));
}

}  // namespace mock
