// Where communicators come from.
#include <algorithm>
#include <cstring>
#include <set>

#include "group.h"

using namespace mock;

namespace mock {

// One call of ncclCommSplit on all ranks, or of ncclCommShrink on those that stay.
struct Split {
  struct Share {
    int color, key;
  };
  std::map<int, Share> shares;  // by rank
  Clock host;
  std::map<int, std::shared_ptr<Clique>> made;  // by color
};

}  // namespace mock

namespace {

constexpr unsigned kMagic = 0xcafebeef;
constexpr int kOldestVersion = 21400;

std::map<std::string, std::shared_ptr<Clique>>& by_id() {
  static std::map<std::string, std::shared_ptr<Clique>> all;
  return all;
}

bool is_switch(int value) { return value == NCCL_CONFIG_UNDEF_INT || value == 0 || value == 1; }
bool is_positive(int value) { return value == NCCL_CONFIG_UNDEF_INT || value > 0; }

ncclResult_t read_config(NcclCall& call, const ncclConfig_t* config, bool* blocking) {
  if (!config) return ncclSuccess;
  ncclConfig_t given;
  memset(&given, 0, sizeof given);
  for (int* field : {&given.blocking, &given.cgaClusterSize, &given.minCTAs, &given.maxCTAs, &given.splitShare,
                     &given.trafficClass, &given.collnetEnable, &given.CTAPolicy, &given.shrinkShare, &given.nvlsCTAs,
                     &given.nChannelsPerNetPeer, &given.nvlinkCentricSched}) {
    *field = NCCL_CONFIG_UNDEF_INT;
  }
  memcpy(static_cast<void*>(&given), config, std::min(config->size, sizeof given));
  if (given.magic != kMagic || given.version < kOldestVersion) {
    return call.error(ncclInvalidArgument, "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
  }
  // A minimum without a maximum is refused too: it is compared with the unset one.
  const bool ordered = given.minCTAs <= given.maxCTAs;
  const bool policy = given.CTAPolicy == NCCL_CONFIG_UNDEF_INT || (given.CTAPolicy >= 0 && given.CTAPolicy <= 3);
  if (!is_switch(given.blocking) || !is_positive(given.minCTAs) || !is_positive(given.maxCTAs) || !ordered ||
      !is_switch(given.splitShare) || !is_switch(given.shrinkShare) || !policy) {
    return call.error(ncclInvalidArgument, "Invalid config attribute value");
  }
  if (given.blocking != NCCL_CONFIG_UNDEF_INT) *blocking = given.blocking != 0;
  return ncclSuccess;
}

// Each rank on a device of its own.
ncclResult_t check_devices(NcclCall& call, const ncclComm& comm) {
  if (call.engine.options.share_device) return ncclSuccess;
  for (ncclComm_t other : comm.clique->members) {
    if (other->rank == comm.rank || other->device != comm.device) continue;
    return call.error(ncclInvalidUsage, "Duplicate GPU detected : rank " + std::to_string(comm.rank) + " and rank " +
                                            std::to_string(other->rank) + " both on CUDA device");
  }
  return ncclSuccess;
}

void come(NcclCall& call, ncclComm_t comm) {
  Clique& clique = *comm->clique;
  if (clique.broken) return;
  if (clique.members[comm->rank]) {
    clique.broken = true;
    call.engine.reports.add(clique.name, "MISMATCH: two ranks " + std::to_string(comm->rank) + " of " + clique.name);
    return;
  }
  if (call.engine.options.ranks.absent == comm->rank) return;
  clique.members[comm->rank] = comm;
  clique.came++;
  join(clique.host, call.engine.host());
  call.engine.changed();
}

std::string missing(const Clique& clique) {
  std::string text = "the initialisation of " + clique.name + ", to which rank";
  for (int rank = 0; rank < clique.size; rank++) {
    if (!clique.members[rank]) text += " " + std::to_string(rank);
  }
  return text + " did not come";
}

ncclResult_t init(NcclCall& call, ncclComm_t* made, int size, const ncclUniqueId& id, int rank, const ncclConfig_t* config) {
  if (!made) return call.error(ncclInvalidArgument, "a communicator that is null");
  *made = nullptr;
  if (size < 1 || rank < 0 || rank >= size) return call.error(ncclInvalidArgument, "Invalid rank requested");
  if (!current_context()) return call.misuse("no context is current", ncclUnhandledCudaError);
  bool blocking = true;
  const ncclResult_t refused = read_config(call, config, &blocking);
  if (refused != ncclSuccess) return refused;

  auto* comm = make<ncclComm>(current_context());
  comm->rank = rank;
  comm->device = current_context()->device;
  comm->blocking = blocking;
  comm->life = std::make_shared<Life>(Life{rank});
  const auto found = by_id().find(std::string(id.internal, sizeof id.internal));
  const bool heard = found != by_id().end() && (!found->second || found->second->came < found->second->size);
  if (heard && !found->second) {
    static int count = 0;
    found->second = std::make_shared<Clique>("communicator " + std::to_string(++count), size);
  }
  comm->clique = heard ? found->second : std::make_shared<Clique>("a communicator without a root", size);
  if (heard && comm->clique->size != size) {
    comm->clique->broken = true;
    call.engine.reports.add(comm->clique->name, "MISMATCH: ranks of " + comm->clique->name + " believe in " +
                                                    std::to_string(comm->clique->size) + " and in " +
                                                    std::to_string(size) + " ranks");
  } else if (heard) {
    come(call, comm);
  }
  Pending pending;
  pending.what = missing(*comm->clique);
  pending.done = [comm, heard] {
    return !heard || (!comm->clique->broken && comm->clique->came == comm->clique->size &&
                      comm->clique->members[comm->rank] == comm);
  };
  pending.finish = [comm, heard](NcclCall& call) {
    if (!heard) return call.error(ncclRemoteError, "nobody listens at the address of the id");
    call.engine.learn(comm->clique->host);
    return check_devices(call, *comm);
  };
  *made = comm;
  if (in_group()) {
    add(comm, std::move(pending));
    return ncclSuccess;
  }
  const ncclResult_t result = begin(call, comm, std::move(pending));
  if (result != ncclSuccess && result != ncclInProgress && comm->blocking) {
    comm->alive = false;
    *made = nullptr;
  } else if (result != ncclInProgress) {
    comm->error = result;
  }
  return result;
}

// The clique of one color, in the order of keys, then of ranks.
void make_clique(const Clique& parent, const std::string& split_name, Split& split, int color) {
  std::vector<std::pair<int, int>> order;
  for (const auto& [rank, share] : split.shares) {
    if (share.color == color) order.push_back({share.key, rank});
  }
  std::sort(order.begin(), order.end());
  const std::string name = parent.name + ", " + split_name + ", color " + std::to_string(color);
  auto clique = std::make_shared<Clique>(name, static_cast<int>(order.size()));
  for (size_t i = 0; i < order.size(); i++) {
    const ncclComm_t member = parent.members[order[i].second];
    auto* child = make<ncclComm>(member->context);
    child->clique = clique;
    child->life = member->life;
    child->rank = static_cast<int>(i);
    child->device = member->device;
    child->alive = false;  // until its rank takes it
    clique->members[i] = child;
  }
  clique->came = clique->size;
  split.made[color] = clique;
}

// This rank's share of a split that `expected` ranks call under one name. The new handle is written
// when the split has ended on this rank, which is after the call of a non-blocking communicator has
// returned.
ncclResult_t part(NcclCall& call, ncclComm_t comm, const std::string& name, Split::Share share, int expected,
                  bool blocking, ncclComm_t* made) {
  std::shared_ptr<Split>& kept = comm->clique->splits[name];
  if (!kept) kept = std::make_shared<Split>();
  const std::shared_ptr<Split> split = kept;
  split->shares[comm->rank] = share;
  join(split->host, call.engine.host());
  call.engine.changed();
  Pending pending;
  pending.what = "a " + name + " of " + comm->clique->name;
  pending.done = [=] { return static_cast<int>(split->shares.size()) == expected; };
  pending.finish = [=](NcclCall& call) {
    call.engine.learn(split->host);
    if (share.color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
    if (!split->made.count(share.color)) make_clique(*comm->clique, name, *split, share.color);
    for (ncclComm_t member : split->made[share.color]->members) {
      if (member->life != comm->life) continue;
      member->alive = true;
      member->blocking = blocking;
      *made = member;
    }
    return ncclSuccess;
  };
  return begin(call, comm, std::move(pending));
}

}  // namespace

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  NCCL_CALL(nullptr);
  static uint64_t count = 0;
  if (!id) return call.error(ncclInvalidArgument, "an id that is null");
  // As in NCCL: a random magic and an address, then zeros.
  const uint64_t words[5] = {++count * 0x9e3779b97f4a7c15ull, 0x0100007f12340002ull, count, 0, 0};
  memset(id->internal, 0, sizeof id->internal);
  memcpy(id->internal, words, sizeof words);
  by_id()[std::string(id->internal, sizeof id->internal)] = nullptr;
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  NCCL_CALL(nullptr);
  return init(call, comm, size, id, rank, nullptr);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  NCCL_CALL(nullptr);
  return init(call, comm, size, id, rank, config);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* made, ncclConfig_t* config) {
  NCCL_CALL(comm);
  if (!made) return call.error(ncclInvalidArgument, "a communicator that is null");
  *made = nullptr;
  const ncclResult_t refused = ensure_ready(call, comm, true);
  if (refused != ncclSuccess) return refused;
  if (color < NCCL_SPLIT_NOCOLOR) return call.error(ncclInvalidArgument, "a color below NCCL_SPLIT_NOCOLOR");
  if (in_group()) return call.misuse("a split within a group, which the mock does not have", ncclInvalidUsage);
  bool blocking = comm->blocking;
  const ncclResult_t wrong = read_config(call, config, &blocking);
  if (wrong != ncclSuccess) return wrong;

  const std::string name = "split " + std::to_string(++comm->splits);
  return part(call, comm, name, {color, key}, comm->clique->size, blocking, made);
}

// The ranks that stay call it, all with one list. With abort, operations of the parent end first,
// and it is of no more use.
ncclResult_t ncclCommShrink(ncclComm_t comm, int* excluded, int count, ncclComm_t* made, ncclConfig_t* config, int flags) {
  NCCL_CALL(comm);
  NCCL_ALIVE(comm);
  if (!made || !excluded || count < 1 || flags < 0 || flags > 1) {
    return call.error(ncclInvalidArgument, "ranks to leave out");
  }
  *made = nullptr;
  std::string name = "shrink without";
  std::set<int> without(excluded, excluded + count);
  for (int rank : without) name += " " + std::to_string(rank);
  // NCCL takes the length of the list for the number of ranks that go, and walks it in order.
  if (static_cast<int>(without.size()) != count || !std::is_sorted(excluded, excluded + count)) {
    return call.misuse("ranks to leave out that are not in ascending order", ncclInvalidArgument);
  }
  if (without.count(comm->rank) || *without.begin() < 0 || *without.rbegin() >= comm->clique->size) {
    return call.error(ncclInvalidArgument, "a rank that cannot be left out");
  }
  if (flags) {
    comm->released = comm->revoked = true;
    comm->error = ncclSuccess;
    comm->pending.reset();
    call.engine.changed();
  }
  const ncclResult_t refused = ensure_ready(call, comm, true);
  if (refused != ncclSuccess) return refused;
  bool blocking = comm->blocking;
  const ncclResult_t wrong = read_config(call, config, &blocking);
  if (wrong != ncclSuccess) return wrong;
  const int staying = comm->clique->size - static_cast<int>(without.size());
  return part(call, comm, name, {0, 0}, staying, blocking, made);
}
