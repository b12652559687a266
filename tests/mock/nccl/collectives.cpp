// One function a call: what it asks for.
#include "group.h"

using namespace mock;

namespace {

uint64_t address(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

}  // namespace

ncclResult_t ncclReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kReduce, address(send), address(receive), count, type, op, root}, stream);
}

ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kBroadcast, address(send), address(receive), count, type, ncclSum, root}, stream);
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kAllReduce, address(send), address(receive), count, type, op}, stream);
}

ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kReduceScatter, address(send), address(receive), count, type, op}, stream);
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kAllGather, address(send), address(receive), count, type}, stream);
}

ncclResult_t ncclAlltoAll(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kAlltoAll, address(send), address(receive), count, type}, stream);
}

ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kSend, address(send), 0, count, type, ncclSum, peer}, stream);
}

ncclResult_t ncclRecv(void* receive, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  NCCL_CALL(comm);
  return add(call, comm, {Kind::kReceive, 0, address(receive), count, type, ncclSum, peer}, stream);
}
