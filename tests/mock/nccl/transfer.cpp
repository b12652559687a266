// The bytes of a meeting. Sums are not in the order of the ranks: as on a ring, the sum of a chunk
// begins behind the rank that owns it, so it differs from chunk to chunk and never from run to run.
#include <cstring>

#include "meeting.h"

namespace mock {
namespace {

using Bytes = std::vector<char>;

// Of the inputs `offset` elements in, beginning behind `owner`.
void sum(const Part& part, const std::vector<Bytes>& inputs, int owner, size_t offset, size_t count, char* output) {
  const size_t bytes = elem_bytes(part.type);
  std::vector<const char*> ordered;
  for (size_t i = 1; i <= inputs.size(); i++) {
    ordered.push_back(inputs[(static_cast<size_t>(owner) + i) % inputs.size()].data() + offset * bytes);
  }
  reduce(part.type, part.op, count, ordered, output);
}

Bytes all_reduced(const Part& part, const std::vector<Bytes>& inputs) {
  const size_t bytes = elem_bytes(part.type), ranks = inputs.size();
  Bytes output(part.count * bytes);
  for (size_t owner = 0; owner < ranks; owner++) {
    const size_t first = part.count * owner / ranks, end = part.count * (owner + 1) / ranks;
    sum(part, inputs, static_cast<int>(owner), first, end - first, output.data() + first * bytes);
  }
  return output;
}

Bytes result_of(const Seat& seat, const std::vector<Bytes>& inputs) {
  const Part& part = seat.part;
  const size_t bytes = part.count * elem_bytes(part.type);
  const auto rank = static_cast<size_t>(seat.rank);
  Bytes output;
  switch (part.kind) {
    case Kind::kReceive: return inputs[0];
    case Kind::kBroadcast: return inputs[static_cast<size_t>(part.peer)];
    case Kind::kAllGather:
      for (const Bytes& input : inputs) output.insert(output.end(), input.begin(), input.end());
      return output;
    case Kind::kAlltoAll:
      for (const Bytes& input : inputs) {
        output.insert(output.end(), input.data() + rank * bytes, input.data() + (rank + 1) * bytes);
      }
      return output;
    case Kind::kReduceScatter:
      output.resize(bytes);
      sum(part, inputs, seat.rank, rank * part.count, part.count, output.data());
      return output;
    case Kind::kReduce:
      output.resize(bytes);
      sum(part, inputs, seat.rank, 0, part.count, output.data());
      return output;
    default: return all_reduced(part, inputs);
  }
}

}  // namespace

void transfer(const Meeting& meeting, Memory& memory) {
  const int size = static_cast<int>(meeting.seats.size());
  std::vector<Bytes> inputs;
  for (const Seat& seat : meeting.seats) {
    const Range range = reads(seat.part, seat.rank, size);
    const char* data = reinterpret_cast<const char*>(range.address);
    inputs.push_back(range.bytes ? Bytes(data, data + range.bytes) : Bytes());
  }
  for (const Seat& seat : meeting.seats) {
    const Range range = writes(seat.part, seat.rank, size);
    if (!range.bytes) continue;
    const Bytes result = result_of(seat, inputs);
    memory.write(range.address, result.data(), range.bytes);
  }
}

}  // namespace mock
