// Communicators, and the cliques of which each is one rank's share.
#pragma once
#include <optional>

#include "call.h"

namespace mock {

struct Meeting;
using MeetingPtr = std::shared_ptr<Meeting>;
struct Split;

// One rank of a first communicator and of all that were split from it.
struct Life {
  int rank;
  int operations = 0;
  bool dead = false;
};

struct Clique {
  Clique(const std::string& name, int size) : name(name), size(size), members(size) {}
  std::string name;
  int size;
  std::vector<ncclComm_t> members;  // by rank; null: has not come
  int came = 0;
  bool broken = false;              // its initialisation never ends
  Clock host;                       // what the hosts knew when they came
  // Meetings to which not all have come: of all ranks by their number, of pairs (from, to) in order.
  std::map<uint64_t, MeetingPtr> collectives;
  std::map<std::pair<int, int>, std::deque<MeetingPtr>> sends, receives;
  std::map<std::string, std::shared_ptr<Split>> splits;  // by name
};

// What a non-blocking call has begun.
struct Pending {
  std::function<bool()> done;
  std::function<ncclResult_t(NcclCall&)> finish;
  std::string what;
  int polls = 0;
};

}  // namespace mock

struct ncclComm : mock::Object {
  static constexpr const char* kKind = "communicator";
  ncclComm() : Object(kKind) {}
  std::shared_ptr<mock::Clique> clique;
  std::shared_ptr<mock::Life> life;
  int rank = 0;
  CUdevice device = 0;
  bool blocking = true;
  bool finalized = false, revoked = false;
  bool released = false;  // aborted or revoked: its operations end without peers
  ncclResult_t error = ncclSuccess;
  std::optional<mock::Pending> pending;
  uint64_t collectives = 0, splits = 0;
  mock::OperationPtr last;  // operations of one communicator run one after the other
};

namespace mock {

// Refuses a communicator that is busy, failed or revoked, as NCCL does before each operation.
ncclResult_t ensure_ready(NcclCall& call, ncclComm_t comm, bool even_revoked = false);
// Does it now where the communicator blocks, or begins it.
ncclResult_t begin(NcclCall& call, ncclComm_t comm, Pending pending);
// Polls that a non-blocking call answers with ncclInProgress.
int polls(NcclCall& call);

}  // namespace mock
