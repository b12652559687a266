// Primary contexts, one a device, and each thread's stack of current ones.
#include "call.h"

using namespace mock;

namespace {

std::map<CUdevice, CUcontext>& primary() {
  static std::map<CUdevice, CUcontext> all;
  return all;
}

thread_local std::vector<CUcontext> current;

// The last reference is gone: work ends, what was left behind is a leak.
void destroy(Call& call, CUcontext context) {
  std::vector<OperationPtr> ends = context->leaving;
  for (CUstream stream : streams_of(context)) ends.push_back(stream->queue->last);
  for (const OperationPtr& end : ends) call.engine.wait(call.lock, end);
  std::string left;
  for (Object* object : objects()) {
    if (object->context != context || !object->alive || object == context) continue;
    const bool implicit = object == context->default_stream || object->kind == CUfunc_st::kKind;
    if (!implicit) left += std::string(left.empty() ? "" : ", ") + std::string(object->kind);
    if (object->kind == CUstream_st::kKind) static_cast<CUstream>(object)->queue->retired = true;
    object->alive = false;
  }
  std::vector<uint64_t> memory;
  for (const auto& [address, allocation] : call.engine.memory.all()) {
    if (allocation.live && allocation.device == context->device) memory.push_back(address);
  }
  for (uint64_t address : memory) {
    const Allocation& allocation = call.engine.memory.all().at(address);
    left += (left.empty() ? "" : ", ") + allocation.name;
    call.engine.detector.freed(address, allocation.bytes);
    call.engine.memory.release(call.lock, address);
  }
  if (!left.empty()) call.engine.reports.add("leak" + left, "LEAK: a context was released before " + left);
  context->alive = false;
  primary().erase(context->device);
}

}  // namespace

CUcontext mock::current_context() { return current.empty() ? nullptr : current.back(); }

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  MOCK_CALL(kDriver);
  if (device < 0 || device >= call.engine.options.devices) return CUDA_ERROR_INVALID_DEVICE;
  CUcontext& own = primary()[device];
  if (!own) {
    own = make<CUctx_st>(nullptr);
    own->context = own;
    own->device = device;
  }
  own->references++;
  *context = own;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  MOCK_CALL(kDriver);
  const auto own = primary().find(device);
  if (own == primary().end()) return call.misuse("a context that nobody retained", CUDA_ERROR_INVALID_CONTEXT);
  if (--own->second->references == 0) destroy(call, own->second);
  return call.end(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  MOCK_CALL(kDriver);
  *context = current_context();
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  MOCK_CALL(kDriver);
  if (context) MOCK_ALIVE(context);
  if (current.empty()) current.push_back(nullptr);
  current.back() = context;
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  MOCK_CALL(kDriver);
  MOCK_ALIVE(context);
  current.push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  MOCK_CALL(kDriver);
  if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context) *context = current.back();
  current.pop_back();
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  MOCK_CALL(kContext);
  *device = current_context()->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void) {
  MOCK_CALL(kContext);
  const CUcontext context = current_context();
  std::vector<OperationPtr> ends;
  ends.swap(context->leaving);
  for (CUstream stream : streams_of(context)) {
    if (stream->capture) {
      stream->capture->invalid = true;
      return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    ends.push_back(stream->queue->last);
  }
  for (const OperationPtr& end : ends) call.engine.wait(call.lock, end);
  return static_cast<CUresult>(context->domain.error);
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  MOCK_CALL(kContext);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(peer);
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  if (peer == current_context()) return CUDA_ERROR_INVALID_CONTEXT;
  const bool fresh = current_context()->peers.insert(peer).second;
  return fresh ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
}
