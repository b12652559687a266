// Allocations. Freeing waits for all work of the context, as cuMemFree does.
#include "call.h"

using namespace mock;

namespace {

// A capture that forbids calls which could synchronise: this thread's, or one of all threads.
bool captured_here(CUcontext context) {
  for (CUstream stream : streams_of(context)) {
    const auto& capture = stream->capture;
    if (!capture || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
    if (capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL || capture->thread == std::this_thread::get_id()) {
      capture->invalid = true;
      return true;
    }
  }
  return false;
}

CUresult allocate(Call& call, uint64_t* address, size_t bytes, bool pinned) {
  Engine& engine = call.engine;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  if (captured_here(current_context())) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (!pinned && engine.memory.used() + bytes > engine.options.memory_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = engine.memory.allocate(call.lock, bytes, current_context()->device, pinned);
  if (!*address) return CUDA_ERROR_OUT_OF_MEMORY;
  engine.detector.allocated(*address, bytes, pinned);
  return CUDA_SUCCESS;
}

CUresult release(Call& call, uint64_t address, bool pinned) {
  uint64_t first = 0;
  const Allocation* found = call.engine.memory.find(address, &first);
  if (!found || first != address || found->pinned != pinned || found->mapped) {
    return call.misuse("an address that was not allocated", CUDA_ERROR_INVALID_VALUE);
  }
  if (!found->live) return call.misuse(found->name + " is freed twice", CUDA_ERROR_INVALID_VALUE);
  if (captured_here(current_context())) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  call.engine.drain(call.lock, current_context()->domain);
  call.engine.detector.freed(address, found->bytes);
  call.engine.memory.release(call.lock, address);
  return call.end(CUDA_SUCCESS);
}

}  // namespace

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  MOCK_CALL(kContext);
  uint64_t made = 0;
  const CUresult result = allocate(call, &made, bytes, false);
  *address = made;
  return result;
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  MOCK_CALL(kContext);
  return address ? release(call, address, false) : CUDA_SUCCESS;
}

// The device has it at the same address.
CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned int) {
  MOCK_CALL(kContext);
  uint64_t made = 0;
  const CUresult result = allocate(call, &made, bytes, true);
  *address = reinterpret_cast<void*>(made);
  return result;
}

CUresult cuMemFreeHost(void* address) {
  MOCK_CALL(kContext);
  return release(call, reinterpret_cast<uint64_t>(address), true);
}

CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
  MOCK_CALL(kContext);
  *total_bytes = call.engine.options.memory_bytes;
  *free_bytes = *total_bytes - call.engine.memory.used();
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  MOCK_CALL(kContext);
  uint64_t first = 0;
  const Allocation* found = call.engine.memory.find(address, &first);
  if (!found || !found->live) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = first;
  if (bytes) *bytes = found->bytes;
  return CUDA_SUCCESS;
}
