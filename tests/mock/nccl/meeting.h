// Where ranks meet: a collective of all, or a send and its receive. The data moves when everyone's
// operation is the next of its stream, all at once; each operation then ends by itself.
#pragma once
#include "communicator.h"

namespace mock {

enum class Kind { kReduce, kBroadcast, kAllReduce, kReduceScatter, kAllGather, kAlltoAll, kSend, kReceive };

// What one call asks for. `peer` is the other rank of a send or a receive, or the root.
struct Part {
  Kind kind;
  uint64_t send, receive;
  size_t count;
  ncclDataType_t type;
  ncclRedOp_t op = ncclSum;
  int peer = 0;
};

struct Range {
  uint64_t address = 0, bytes = 0;
};

// arithmetic.cpp
size_t elem_bytes(ncclDataType_t type);
const char* name_of(ncclDataType_t type);
// The reduction of `count` elements into the first of them, in the order of the inputs.
void reduce(ncclDataType_t type, ncclRedOp_t op, size_t count, const std::vector<const char*>& inputs, char* output);

// parts.cpp
inline bool is_pair(Kind kind) { return kind == Kind::kSend || kind == Kind::kReceive; }
const char* name_of(Kind kind);
std::string text_of(const Part& part);
Range reads(const Part& part, int rank, int size);
Range writes(const Part& part, int rank, int size);
// Whether a rank's result holds data of another's.
bool receives_from(const Part& part, int rank, int other);
// Whether the two ranges of one call may lie as they do.
bool placed_well(const Part& part, int rank, int size);

// One rank's place at a meeting.
struct Seat {
  int rank = 0;
  Part part;
  ncclComm_t comm = nullptr;
  OperationPtr op, previous;  // previous: of the same communicator
  Clock knows;                // what the operation knew when the data moved
};

struct Meeting {
  std::string name;
  std::vector<Seat> seats;  // by rank; of a pair the sender's, then the receiver's
  size_t came = 0;
  bool mismatch = false;
  bool taken = false, moved = false;  // by an operation that runs; done
  double begin_ns = 0;
};

// transfer.cpp: what all write, from what all read.
void transfer(const Meeting& meeting, Memory& memory);

// meeting.cpp: makes `op`, which has reached its queue, do the parts.
void attend(ncclComm_t comm, const std::vector<Part>& parts, Operation& op);

}  // namespace mock
