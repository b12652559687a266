#include "communicator.h"

using namespace mock;

namespace {

using Told = RankFaults::Told;

// What a communicator is told of a rank that died.
ncclResult_t death(const Options& options, const ncclComm& comm) {
  if (options.ranks.told == Told::kNobody || comm.life->dead || comm.released) return ncclSuccess;
  const Clique& clique = *comm.clique;
  for (int rank = 0; rank < clique.size; rank++) {
    if (!clique.members[rank] || !clique.members[rank]->life->dead) continue;
    const int distance = (rank - comm.rank + clique.size) % clique.size;
    const bool neighbour = distance == 1 || distance == clique.size - 1;
    if (options.ranks.told == Told::kAll || neighbour) return ncclRemoteError;
  }
  return ncclSuccess;
}

ncclResult_t state(NcclCall& call, ncclComm_t comm) {
  if (comm->error != ncclSuccess) return comm->error;
  if (comm->pending) {
    // What waits for the rank's work lets some of it run.
    if (comm->finalized || comm->revoked) call.engine.poll(call.lock, comm->last);
    if (!comm->pending->done() || comm->pending->polls-- > 0) {
      const ncclResult_t died = death(call.engine.options, *comm);
      return died == ncclSuccess ? ncclInProgress : died;
    }
    const Pending pending = *comm->pending;
    comm->pending.reset();
    const ncclResult_t result = pending.finish(call);
    if (comm->error == ncclSuccess) comm->error = result;
    if (comm->error != ncclSuccess) return comm->error;
  }
  return death(call.engine.options, *comm);
}

// A reset abandons operations: those that waited for each other start anew.
void forget() {
  for (Object* object : objects()) {
    if (object->kind != ncclComm::kKind) continue;
    auto& comm = *static_cast<ncclComm_t>(object);
    comm.clique->collectives.clear();
    comm.clique->sends.clear();
    comm.clique->receives.clear();
    comm.clique->splits.clear();
    comm.collectives = comm.splits = 0;
    comm.last = nullptr;
    comm.pending.reset();
    comm.error = ncclSuccess;
    comm.life->operations = 0;
    comm.life->dead = false;
  }
}

const bool registered = [] {
  Engine& engine = Engine::shared();
  Lock lock(engine.mutex);
  engine.at_reset.push_back(forget);
  return true;
}();

}  // namespace

ncclResult_t mock::ensure_ready(NcclCall& call, ncclComm_t comm, bool even_revoked) {
  NCCL_ALIVE(comm);
  if (comm->pending) {
    return call.error(ncclInvalidArgument, "Attempt to use communicator before the previous operation returned ncclSuccess");
  }
  const ncclResult_t failed = state(call, comm);
  if (failed != ncclSuccess) return call.error(failed, "the communicator has failed");
  if (comm->finalized) return call.error(ncclInvalidUsage, "the communicator was finalized");
  if (comm->revoked && !even_revoked) return call.error(ncclInvalidUsage, "the communicator was revoked");
  return ncclSuccess;
}

int mock::polls(NcclCall& call) {
  const int asked = call.engine.options.in_progress;
  return asked >= 0 ? asked : static_cast<int>(call.engine.below(3));
}

ncclResult_t mock::begin(NcclCall& call, ncclComm_t comm, Pending pending) {
  if (comm->blocking) {
    const bool done = call.engine.await(call.lock, pending.done, [&] { return pending.what; });
    return done ? pending.finish(call) : call.error(ncclSystemError, pending.what + " never ends");
  }
  pending.polls = polls(call);
  if (pending.polls == 0 && pending.done()) return pending.finish(call);
  comm->pending = std::move(pending);
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  NCCL_CALL(comm);
  NCCL_ALIVE(comm);
  *error = state(call, comm);
  return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  NCCL_CALL(comm);
  const ncclResult_t ready = ensure_ready(call, comm, true);
  if (ready == ncclSuccess) *count = comm->clique->size;
  return ready;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  NCCL_CALL(comm);
  const ncclResult_t ready = ensure_ready(call, comm, true);
  if (ready == ncclSuccess) *device = comm->device;
  return ready;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  NCCL_CALL(comm);
  const ncclResult_t ready = ensure_ready(call, comm, true);
  if (ready == ncclSuccess) *rank = comm->rank;
  return ready;
}
