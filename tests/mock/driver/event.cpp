#include "call.h"

using namespace mock;

namespace {

constexpr double kNsPerMs = 1e6;

bool captured(CUevent event) {
  if (event->capture) event->capture->invalid = true;
  return event->capture != nullptr;
}

}  // namespace

CUresult cuEventCreate(CUevent* event, unsigned int flags) {
  MOCK_CALL(kContext);
  if (flags > 7) return CUDA_ERROR_INVALID_VALUE;
  *event = make<CUevent_st>(current_context());
  (*event)->flags = flags;
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(event);
  event->alive = false;
  event->recorded = nullptr;
  event->capture = nullptr;
  return call.end(CUDA_SUCCESS);
}

CUresult cuEventRecord(CUevent event, CUstream handle) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(event);
  MOCK_STREAM(stream, handle);
  if (event->context != stream->context) return call.misuse("an event of another context", CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) {
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    event->capture = stream->capture;
    event->frontier = stream->frontier;
    return CUDA_SUCCESS;
  }
  event->capture = nullptr;
  return submit(call, stream, operation("record_event", 0), &event->recorded);
}

// External: a node of the graph, which records at every launch.
CUresult cuEventRecordWithFlags(CUevent event, CUstream handle, unsigned int flags) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(event);
  MOCK_STREAM(stream, handle);
  if (flags != CU_EVENT_RECORD_EXTERNAL) return call.misuse("flags that the mock does not know", CUDA_ERROR_NOT_SUPPORTED);
  if (event->context != stream->context) return call.misuse("an event of another context", CUDA_ERROR_INVALID_HANDLE);
  if (!stream->capture) return CUDA_ERROR_INVALID_VALUE;
  event->capture = nullptr;
  const OperationPtr op = operation("record_event", 0);
  op->arrive = [event](Operation& launched) {
    if (event->alive) event->recorded = launched.shared_from_this();
  };
  return submit(call, stream, op);
}

CUresult cuEventQuery(CUevent event) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(event);
  if (captured(event)) return CUDA_ERROR_CAPTURED_EVENT;
  if (!call.engine.poll(call.lock, event->recorded)) return CUDA_ERROR_NOT_READY;
  return static_cast<CUresult>(event->context->domain.error);
}

CUresult cuEventSynchronize(CUevent event) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(event);
  if (captured(event)) return CUDA_ERROR_CAPTURED_EVENT;
  call.engine.wait(call.lock, event->recorded);
  return static_cast<CUresult>(event->context->domain.error);
}

// Virtual time: exact, and the same in every run.
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent begin, CUevent end) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(begin);
  MOCK_ALIVE(end);
  if ((begin->flags | end->flags) & CU_EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
  if (!begin->recorded || !end->recorded) return CUDA_ERROR_INVALID_HANDLE;
  for (CUevent event : {begin, end}) {
    if (event->recorded->state != State::kDone) return CUDA_ERROR_NOT_READY;
  }
  *milliseconds = static_cast<float>((end->recorded->end_ns - begin->recorded->end_ns) / kNsPerMs);
  return CUDA_SUCCESS;
}
