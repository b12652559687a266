// Where communicators go.
#include <algorithm>

#include "communicator.h"

using namespace mock;

namespace {

void give_up(NcclCall& call, ncclComm_t comm) {
  comm->alive = false;
  comm->pending.reset();
  call.engine.changed();
}

// What a communicator frees waits for the kernels of its device, its proxy for those of other ranks.
bool let_go(ncclComm_t comm) {
  for (ncclComm_t member : comm->clique->members) {
    if (member && member->alive && !member->life->dead) return false;
  }
  return std::none_of(objects().begin(), objects().end(), [comm](Object* object) {
    if (object->kind != ncclComm::kKind || !object->alive) return false;
    const auto& other = *static_cast<ncclComm_t>(object);
    return other.device == comm->device && other.last && other.last->state != State::kDone;
  });
}

}  // namespace

// Done once this rank's work has ended and every other rank has called it or is gone; one that
// died does neither.
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  NCCL_CALL(comm);
  const ncclResult_t refused = ensure_ready(call, comm);
  if (refused != ncclSuccess) return refused;
  comm->finalized = true;
  call.engine.changed();
  Pending pending;
  pending.what = "the finalisation of " + comm->clique->name + " on all ranks";
  pending.done = [comm] {
    if (comm->last && comm->last->state != State::kDone) return false;
    for (ncclComm_t member : comm->clique->members) {
      if (member->alive && (!member->finalized || member->life->dead)) return false;
    }
    return true;
  };
  pending.finish = [comm](NcclCall& call) {
    if (comm->last) call.engine.learn(*comm->last);
    return ncclSuccess;
  };
  return begin(call, comm, std::move(pending));
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  NCCL_CALL(comm);
  if (!comm) return ncclSuccess;
  NCCL_ALIVE(comm);
  call.engine.wait(call.lock, comm->last);
  give_up(call, comm);
  return call.end(ncclSuccess);
}

// What the rank has enqueued ends without its peers; they wait on.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  NCCL_CALL(comm);
  if (!comm) return ncclSuccess;
  NCCL_ALIVE(comm);
  comm->released = true;
  give_up(call, comm);
  if (call.engine.options.abort_waits) {
    call.engine.await(call.lock, [comm] { return let_go(comm); }, [] { return "the aborts of other communicators"; });
  }
  return call.end(ncclSuccess);
}

ncclResult_t ncclCommRevoke(ncclComm_t comm, int flags) {
  NCCL_CALL(comm);
  NCCL_ALIVE(comm);
  if (flags) return call.error(ncclInvalidArgument, "flags of a revocation");
  comm->released = comm->revoked = true;
  comm->pending.reset();
  call.engine.changed();
  Pending pending;
  pending.what = "the revocation of " + comm->clique->name;
  pending.done = [comm] { return !comm->last || comm->last->state == State::kDone; };
  pending.finish = [](NcclCall&) { return ncclSuccess; };
  return begin(call, comm, std::move(pending));
}
