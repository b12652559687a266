// Memory of NCCL's own, and what is registered with a communicator.
#include "communicator.h"

using namespace mock;

struct ncclWindow_vidmem : Object {
  static constexpr const char* kKind = "window";
  ncclWindow_vidmem() : Object(kKind) {}
};

namespace {

struct Registration : Object {
  static constexpr const char* kKind = "registration";
  Registration() : Object(kKind) {}
};

bool is_live(NcclCall& call, const void* address, size_t bytes) {
  uint64_t first = 0;
  const auto from = reinterpret_cast<uint64_t>(address);
  const Allocation* found = call.engine.memory.find(from, &first);
  return bytes && found && found->live && from + bytes <= first + found->bytes;
}

}  // namespace

ncclResult_t ncclMemAlloc(void** address, size_t bytes) {
  {
    NCCL_CALL(nullptr);
    if (!address) return call.error(ncclInvalidArgument, "an address that is null");
    *address = nullptr;
  }
  CUdeviceptr made = 0;
  if (cuMemAlloc_v2(&made, bytes) != CUDA_SUCCESS) return ncclUnhandledCudaError;
  *address = reinterpret_cast<void*>(made);
  return ncclSuccess;
}

ncclResult_t ncclMemFree(void* address) {
  ncclResult_t result = ncclSuccess;
  {
    NCCL_CALL(nullptr);
    result = call.end(ncclSuccess);
  }
  const bool freed = cuMemFree_v2(reinterpret_cast<CUdeviceptr>(address)) == CUDA_SUCCESS;
  return freed ? result : ncclUnhandledCudaError;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void* address, size_t bytes, void** handle) {
  NCCL_CALL(comm);
  const ncclResult_t refused = ensure_ready(call, comm);
  if (refused != ncclSuccess) return refused;
  if (!handle || !is_live(call, address, bytes)) return call.misuse("memory that was not allocated", ncclInvalidArgument);
  *handle = make<Registration>(comm->context);
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t comm, void* handle) {
  NCCL_CALL(comm);
  NCCL_ALIVE(comm);
  auto* registration = static_cast<Registration*>(handle);
  if (!alive(registration)) return call.misuse("a handle that does not exist", ncclInvalidArgument);
  registration->alive = false;
  return call.end(ncclSuccess);
}

// Where windows are not supported NCCL succeeds and leaves the handle as it is.
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* address, size_t bytes, ncclWindow_t* window, int flags) {
  NCCL_CALL(comm);
  const ncclResult_t refused = ensure_ready(call, comm);
  if (refused != ncclSuccess) return refused;
  if (!window || flags < 0 || flags > 1) return call.error(ncclInvalidArgument, "flags of a window");
  if (!is_live(call, address, bytes)) return call.misuse("memory that was not allocated", ncclInvalidArgument);
  if (call.engine.options.windows) *window = make<ncclWindow_vidmem>(comm->context);
  return ncclSuccess;
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window) {
  NCCL_CALL(comm);
  NCCL_ALIVE(comm);
  if (!alive(window)) return call.misuse("a handle that does not exist", ncclInvalidArgument);
  window->alive = false;
  return call.end(ncclSuccess);
}
