#include "meeting.h"

namespace mock {
namespace {

// One operation at its meetings.
struct Attendance {
  struct Place {
    MeetingPtr meeting;
    size_t seat;
    Part part;
  };
  ncclComm_t comm;
  std::vector<Place> places;
  OperationPtr previous;
  bool unseen = false;              // the rank died before
  std::vector<MeetingPtr> duties;   // meetings whose data this operation moves
  std::vector<Range> undefined;     // what it would have received
};

bool has_ended(const OperationPtr& op) { return !op || op->state == State::kDone; }

// All are there, each next in its stream and in its communicator.
bool complete(const Meeting& meeting) {
  if (meeting.came < meeting.seats.size() || meeting.mismatch || meeting.taken) return false;
  for (const Seat& seat : meeting.seats) {
    if (seat.comm->released || !Engine::shared().at_head(*seat.op) || !has_ended(seat.previous)) return false;
  }
  return true;
}

bool is_open(const Attendance& own) {
  if (own.comm->released) return true;
  if (own.unseen || !has_ended(own.previous)) return false;
  for (const auto& place : own.places) {
    if (!place.meeting->moved && !complete(*place.meeting)) return false;
  }
  return true;
}

std::string waits_for(const Attendance& own) {
  if (own.unseen) return "nothing, its rank is dead";
  if (!has_ended(own.previous)) return name_of(*own.previous) + " of the same communicator";
  std::string text;
  for (const auto& [meeting, at, part] : own.places) {
    if (meeting->moved) continue;
    text += (text.empty() ? "" : ", ") + meeting->name;
    if (meeting->mismatch) text += ", whose ranks do not agree";
    for (const Seat& seat : meeting->seats) {
      if (!seat.op) {
        text += ", to which rank " + std::to_string(seat.rank) + " has not come";
      } else if (seat.comm->released) {
        text += ", which rank " + std::to_string(seat.rank) + " has left";
      } else if (!Engine::shared().at_head(*seat.op)) {
        text += ", before which rank " + std::to_string(seat.rank) + " has other work";
      }
    }
  }
  return text;
}

void mismatch(Meeting& meeting, const Seat& one, const Seat& other) {
  meeting.mismatch = true;
  Engine::shared().reports.add(meeting.name, "MISMATCH in " + meeting.name + ": rank " + std::to_string(one.rank) +
                                                 " calls " + text_of(one.part) + ", rank " +
                                                 std::to_string(other.rank) + " calls " + text_of(other.part));
}

void sit(Meeting& meeting, size_t at, Seat seat) {
  for (size_t other_at = 0; other_at < meeting.seats.size(); other_at++) {
    const Seat& other = meeting.seats[other_at];
    if (!other.op || meeting.mismatch) continue;
    const Part &a = seat.part, &b = other.part;
    const bool agree = a.count == b.count && a.type == b.type &&
                       (is_pair(a.kind) || (a.kind == b.kind && a.op == b.op && a.peer == b.peer));
    if (!agree) mismatch(meeting, at > other_at ? other : seat, at > other_at ? seat : other);
  }
  meeting.seats[at] = std::move(seat);
  meeting.came++;
}

Attendance::Place meet_all(ncclComm_t comm, const Part& part, Seat seat) {
  Clique& clique = *comm->clique;
  const uint64_t number = ++comm->collectives;
  MeetingPtr& kept = clique.collectives[number];
  if (!kept) {
    kept = std::make_shared<Meeting>();
    kept->name = "collective " + std::to_string(number) + " of " + clique.name;
    kept->seats.resize(clique.size);
    for (int rank = 0; rank < clique.size; rank++) kept->seats[rank].rank = rank;
  }
  const MeetingPtr meeting = kept;
  const auto at = static_cast<size_t>(comm->rank);
  sit(*meeting, at, std::move(seat));
  if (meeting->came == meeting->seats.size()) clique.collectives.erase(number);
  return {meeting, at, part};
}

// The first receive takes the first send of its pair.
Attendance::Place meet_one(ncclComm_t comm, const Part& part, Seat seat) {
  Clique& clique = *comm->clique;
  const bool sends = part.kind == Kind::kSend;
  const auto pair = sends ? std::make_pair(comm->rank, part.peer) : std::make_pair(part.peer, comm->rank);
  auto& same = (sends ? clique.sends : clique.receives)[pair];
  auto& others = (sends ? clique.receives : clique.sends)[pair];
  MeetingPtr meeting;
  if (others.empty()) {
    meeting = std::make_shared<Meeting>();
    meeting->name = "a send of rank " + std::to_string(pair.first) + " to rank " + std::to_string(pair.second) +
                    " in " + clique.name;
    meeting->seats.resize(2);
    meeting->seats[0].rank = pair.first;
    meeting->seats[1].rank = pair.second;
    same.push_back(meeting);
  } else {
    meeting = others.front();
    others.pop_front();
  }
  const size_t at = sends ? 0 : 1;
  sit(*meeting, at, std::move(seat));
  return {meeting, at, part};
}

// Before the operation begins: its meetings are its to move, or have been moved.
void enter(Attendance& own, Operation& op) {
  Engine& engine = Engine::shared();
  for (const auto& [meeting, at, part] : own.places) {
    if (!meeting->moved && own.comm->released) {
      own.undefined.push_back(writes(part, own.comm->rank, own.comm->clique->size));
      continue;
    }
    if (!meeting->moved) {
      meeting->taken = true;
      own.duties.push_back(meeting);
      for (Seat& seat : meeting->seats) {
        double begin_ns = 0;
        seat.knows = engine.before(*seat.op, &begin_ns);
        meeting->begin_ns = std::max(meeting->begin_ns, begin_ns);
      }
    }
    op.begin_ns = std::max(op.begin_ns, meeting->begin_ns);
    for (const Seat& other : meeting->seats) {
      if (receives_from(part, own.comm->rank, other.rank)) join(op.clock, other.knows);
    }
  }
}

Outcome act(Attendance& own) {
  Engine& engine = Engine::shared();
  for (const MeetingPtr& meeting : own.duties) transfer(*meeting, engine.memory);
  for (const Range& range : own.undefined) {
    const std::vector<char> poison(range.bytes, '\xff');
    if (range.bytes) engine.memory.write(range.address, poison.data(), range.bytes);
  }
  Lock lock(engine.mutex);
  for (const MeetingPtr& meeting : own.duties) {
    meeting->moved = true;
    for (Seat& seat : meeting->seats) seat.op = seat.previous = nullptr;
  }
  engine.changed();
  return {};
}

// Counts the rank's operation, and lets it die or fail where the test says so; true: it is seen.
bool lives(ncclComm_t comm) {
  const RankFaults& faults = Engine::shared().options.ranks;
  Life& life = *comm->life;
  life.operations++;
  if (life.rank == faults.dead && life.operations >= faults.dead_from) life.dead = true;
  if (life.rank != faults.failed || life.operations != faults.failed_at) return !life.dead;
  comm->error = static_cast<ncclResult_t>(faults.failed_with);
  return false;
}

}  // namespace

void attend(ncclComm_t comm, const std::vector<Part>& parts, Operation& op) {
  Engine& engine = Engine::shared();
  if (!comm->alive) {
    engine.reports.add("dead" + op.label, "MISUSE: " + name_of(op) + " is of a communicator that was given up");
    return;
  }
  auto own = std::make_shared<Attendance>();
  own->comm = comm;
  own->previous = comm->last;
  comm->last = op.shared_from_this();
  own->unseen = !lives(comm);
  for (const Part& part : parts) {
    if (own->unseen) break;
    Seat seat{comm->rank, part, comm, comm->last, own->previous, {}};
    own->places.push_back(is_pair(part.kind) ? meet_one(comm, part, std::move(seat))
                                             : meet_all(comm, part, std::move(seat)));
  }
  op.gate = [own] { return is_open(*own); };
  op.waits_for = [own] { return waits_for(*own); };
  op.enter = [own](Operation& op) { enter(*own, op); };
  op.effect = [own](Operation&) { return act(*own); };
  op.needs = [own](std::vector<OperationPtr>& needed) {
    if (own->previous) needed.push_back(own->previous);
    for (const auto& place : own->places) {
      for (const Seat& seat : place.meeting->seats) {
        if (seat.op) needed.push_back(seat.op);
      }
    }
  };
}

}  // namespace mock
