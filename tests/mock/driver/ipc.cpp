// Memory of other processes. A handle says where its allocation lies in the file that device memory
// is, once `processes_s` is set (without it nobody can open one); opening maps it. What the other process does with it is not seen:
// lent memory counts as written, and its flags order nothing in the detector.
#include <unistd.h>

#include <cstring>

#include "call.h"

using namespace mock;

namespace {

constexpr unsigned kLazyPeerAccess = 1;

}  // namespace

CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  MOCK_CALL(kContext);
  uint64_t first = 0;
  const Allocation* found = call.engine.memory.find(address, &first);
  if (!found || !found->live || found->pinned || found->mapped || first != address) return CUDA_ERROR_INVALID_VALUE;
  const Shared shared = call.engine.memory.lend(call.lock, address);
  call.engine.detector.lent(address, shared.bytes);
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &shared, sizeof shared);
  return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* address, CUipcMemHandle handle, unsigned int flags) {
  MOCK_CALL(kContext);
  if (flags != kLazyPeerAccess) return CUDA_ERROR_INVALID_VALUE;
  Shared shared{};
  memcpy(&shared, &handle, sizeof shared);
  if (shared.process == getpid()) return CUDA_ERROR_INVALID_CONTEXT;
  const uint64_t mapped = call.engine.memory.map(shared);
  if (!mapped) return CUDA_ERROR_INVALID_HANDLE;
  call.engine.detector.allocated(mapped, shared.bytes, true);
  *address = mapped;
  return CUDA_SUCCESS;
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
  MOCK_CALL(kContext);
  uint64_t first = 0;
  const Allocation* found = call.engine.memory.find(address, &first);
  if (!found || !found->mapped || first != address) {
    return call.misuse("an address that was not opened", CUDA_ERROR_INVALID_VALUE);
  }
  call.engine.drain(call.lock, current_context()->domain);
  call.engine.detector.freed(address, found->bytes);
  call.engine.memory.release(call.lock, address);
  return call.end(CUDA_SUCCESS);
}
