#include "meeting.h"

namespace mock {

const char* name_of(Kind kind) {
  static const char* names[] = {"ncclReduce",    "ncclBroadcast", "ncclAllReduce", "ncclReduceScatter",
                                "ncclAllGather", "ncclAlltoAll",  "ncclSend",      "ncclRecv"};
  return names[static_cast<int>(kind)];
}

std::string text_of(const Part& part) {
  return std::string(name_of(part.kind)) + " of " + std::to_string(part.count) + " " + name_of(part.type);
}

Range reads(const Part& part, int rank, int size) {
  const uint64_t bytes = part.count * elem_bytes(part.type);
  switch (part.kind) {
    case Kind::kReceive: return {};
    case Kind::kBroadcast: return rank == part.peer ? Range{part.send, bytes} : Range{};
    case Kind::kReduceScatter:
    case Kind::kAlltoAll: return {part.send, bytes * static_cast<uint64_t>(size)};
    default: return {part.send, bytes};
  }
}

Range writes(const Part& part, int rank, int size) {
  const uint64_t bytes = part.count * elem_bytes(part.type);
  switch (part.kind) {
    case Kind::kSend: return {};
    case Kind::kReduce: return rank == part.peer ? Range{part.receive, bytes} : Range{};
    // In place the root only sends.
    case Kind::kBroadcast: return rank == part.peer && part.send == part.receive ? Range{} : Range{part.receive, bytes};
    case Kind::kAllGather:
    case Kind::kAlltoAll: return {part.receive, bytes * static_cast<uint64_t>(size)};
    default: return {part.receive, bytes};
  }
}

bool receives_from(const Part& part, int rank, int other) {
  switch (part.kind) {
    case Kind::kSend: return false;
    case Kind::kReceive: return other == part.peer;
    case Kind::kBroadcast: return other == part.peer;
    case Kind::kReduce: return rank == part.peer;
    default: return true;
  }
}

// In place is where NCCL says it is.
bool placed_well(const Part& part, int rank, int size) {
  const Range from = reads(part, rank, size), to = writes(part, rank, size);
  if (!from.bytes || !to.bytes) return true;
  if (from.address + from.bytes <= to.address || to.address + to.bytes <= from.address) return true;
  const uint64_t own = static_cast<uint64_t>(rank) * part.count * elem_bytes(part.type);
  switch (part.kind) {
    case Kind::kAllGather: return from.address == to.address + own;
    case Kind::kReduceScatter: return to.address == from.address + own;
    case Kind::kAlltoAll: return false;
    default: return from.address == to.address;
  }
}

}  // namespace mock
