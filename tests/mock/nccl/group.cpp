#include "group.h"

using namespace mock;

namespace {

constexpr double kLaunchNs = 10000, kBytesPerNs = 400;

struct Request {
  ncclComm_t comm;
  Part part;
  CUstream stream;
};

struct Group {
  int depth = 0;
  ncclResult_t error = ncclSuccess;
  std::vector<Request> requests;
  std::vector<std::pair<ncclComm_t, Pending>> initialisations;
};

thread_local Group group;

bool overlap(const Range& a, const Range& b) {
  return a.bytes && b.bytes && a.address < b.address + b.bytes && b.address < a.address + a.bytes;
}

// Operations of one group run in no order: none may write what another touches.
void check_ranges(NcclCall& call, ncclComm_t comm, const std::vector<Part>& parts) {
  const int rank = comm->rank, size = comm->clique->size;
  for (size_t i = 0; i < parts.size(); i++) {
    if (!placed_well(parts[i], rank, size)) {
      call.misuse(text_of(parts[i]) + " with ranges that overlap", ncclSuccess);
    }
    const Range written = writes(parts[i], rank, size);
    for (size_t j = 0; j < parts.size(); j++) {
      if (j == i) continue;
      if (!overlap(written, reads(parts[j], rank, size)) && !(j < i && overlap(written, writes(parts[j], rank, size)))) {
        continue;
      }
      const std::string at = call.engine.memory.name_of(written.address, written.bytes);
      call.engine.reports.add("group" + at, "RACE (in a group) on " + at + " of rank " + std::to_string(rank) + ": " +
                                                text_of(parts[i]) + " writes what " + text_of(parts[j]) +
                                                " of the same group touches");
    }
  }
}

std::string label_of(ncclComm_t comm, const std::vector<Part>& parts) {
  bool pairs = true;
  for (const Part& part : parts) pairs &= is_pair(part.kind);
  const std::string name = parts.size() == 1 ? name_of(parts[0].kind) : pairs ? "ncclSendRecv" : "ncclGroup";
  return name + "@" + std::to_string(comm->life->rank);
}

// All parts of a group on one communicator as one operation of its stream.
ncclResult_t launch(NcclCall& call, ncclComm_t comm, const std::vector<Part>& parts, CUstream stream) {
  check_ranges(call, comm, parts);
  if (!alive(stream)) return call.misuse("a stream that does not exist", ncclUnhandledCudaError);
  uint64_t bytes = 0;
  bool reachable = true;
  const OperationPtr op = operation(label_of(comm, parts), 0);
  for (const Part& part : parts) {
    const Range read = reads(part, comm->rank, comm->clique->size), write = writes(part, comm->rank, comm->clique->size);
    if (read.bytes) op->accesses.push_back({read.address, read.bytes, AccessKind::kRead});
    if (write.bytes) op->accesses.push_back({write.address, write.bytes, AccessKind::kWrite});
    bytes += read.bytes + write.bytes;
    for (const Range& range : {read, write}) {
      uint64_t first = 0;
      const Allocation* found = range.bytes ? call.engine.memory.find(range.address, &first) : nullptr;
      reachable &= !range.bytes || (found && found->live && range.address + range.bytes <= first + found->bytes);
    }
  }
  op->cost_ns = kLaunchNs + static_cast<double>(bytes) / kBytesPerNs;
  // One that would touch what is not there dies by itself, before it meets anyone.
  if (reachable) op->arrive = [comm, parts](Operation& self) { attend(comm, parts, self); };
  const CUresult result = enqueue(call, stream, op);
  if (result == CUDA_SUCCESS) return ncclSuccess;
  return call.error(ncclUnhandledCudaError, "Cuda failure " + std::to_string(result));
}

ncclResult_t worse(ncclResult_t a, ncclResult_t b) {
  if (a == ncclSuccess || (a == ncclInProgress && b != ncclSuccess)) return b;
  return a;
}

ncclResult_t launch_all(NcclCall& call, std::vector<Request> requests) {
  ncclResult_t result = ncclSuccess;
  while (!requests.empty()) {
    const ncclComm_t comm = requests.front().comm;
    const CUstream stream = requests.front().stream;
    std::vector<Part> parts;
    std::vector<Request> rest;
    for (const Request& request : requests) {
      if (request.comm != comm) {
        rest.push_back(request);
        continue;
      }
      if (request.stream != stream) return call.misuse("two streams in one group", ncclInvalidUsage);
      parts.push_back(request.part);
    }
    Pending pending;
    pending.what = "a launch of " + comm->clique->name;
    pending.done = [] { return true; };
    pending.finish = [=](NcclCall& call) { return launch(call, comm, parts, stream); };
    result = worse(result, begin(call, comm, std::move(pending)));
    requests.swap(rest);
  }
  return result;
}

ncclResult_t initialise_all(NcclCall& call, std::vector<std::pair<ncclComm_t, Pending>> all) {
  ncclResult_t result = ncclSuccess;
  for (auto& [comm, pending] : all) {
    const ncclResult_t own = begin(call, comm, std::move(pending));
    if (own != ncclInProgress) comm->error = own;
    result = worse(result, own);
  }
  return result;
}

}  // namespace

bool mock::in_group() { return group.depth > 0; }

void mock::add(ncclComm_t comm, Pending pending) { group.initialisations.push_back({comm, std::move(pending)}); }

ncclResult_t mock::add(NcclCall& call, ncclComm_t comm, const Part& part, cudaStream_t handle) {
  ncclResult_t result = ensure_ready(call, comm);
  const CUstream stream = stream_of(reinterpret_cast<CUstream>(handle));
  if (result == ncclSuccess) {
    if (!stream || !stream->context) {
      result = call.misuse("a stream that does not exist", ncclUnhandledCudaError);
    } else if (stream->context->device != comm->device) {
      result = call.misuse("a stream of another device", ncclInvalidUsage);
    } else if (static_cast<unsigned>(part.type) >= ncclNumTypes || static_cast<unsigned>(part.op) >= ncclNumOps ||
               part.peer < 0 || part.peer >= comm->clique->size) {
      result = call.error(ncclInvalidArgument, "a type, an operation or a rank that does not exist");
    }
  }
  if (result != ncclSuccess) {
    if (in_group() && group.error == ncclSuccess) group.error = result;
    return result;
  }
  // NCCL drops collectives of nothing, and keeps sends of nothing.
  if (!part.count && !is_pair(part.kind)) return ncclSuccess;
  if (!in_group()) return launch_all(call, {{comm, part, stream}});
  group.requests.push_back({comm, part, stream});
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  NCCL_CALL(nullptr);
  group.depth++;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  mock::NcclCall call(__func__, nullptr);
  if (!group.depth) return call.error(ncclInvalidUsage, "ncclGroupEnd: not in a group call");
  if (--group.depth) return call.refusal();
  Group whole;
  std::swap(whole, group);
  if (call.refused()) return call.refusal();
  if (whole.error != ncclSuccess) return whole.error;
  const ncclResult_t made = initialise_all(call, std::move(whole.initialisations));
  return worse(made, launch_all(call, std::move(whole.requests)));
}
