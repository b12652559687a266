#include <algorithm>

#include "call.h"

using namespace mock;

namespace {

constexpr int kGreatestPriority = -5;

CUresult create(Call& call, CUstream* stream, unsigned flags, int priority) {
  static int count = 0;
  if (flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  CUcontext context = current_context();
  auto* made = make<CUstream_st>(context);
  made->queue = &call.engine.new_queue("stream " + std::to_string(++count), context->domain);
  made->flags = flags;
  made->priority = std::clamp(priority, kGreatestPriority, 0);
  *stream = made;
  return CUDA_SUCCESS;
}

// A wait in a capture is an edge, and brings its stream into the capture.
CUresult join_capture(Call& call, CUstream stream, CUevent event) {
  const auto& capture = event->capture;
  if (stream->capture && stream->capture != capture) {
    return call.misuse("an event of another capture", CUDA_ERROR_STREAM_CAPTURE_MERGE);
  }
  if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!stream->capture) {
    stream->capture = capture;
    stream->frontier.clear();
    stream->branch = static_cast<int>(capture->graph->branches.size());
    capture->graph->branches.push_back(stream->queue->name);
    capture->members.push_back(stream);
  }
  for (int node : event->frontier) {
    auto& frontier = stream->frontier;
    if (std::find(frontier.begin(), frontier.end(), node) == frontier.end()) frontier.push_back(node);
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult cuStreamCreate(CUstream* stream, unsigned int flags) {
  MOCK_CALL(kContext);
  return create(call, stream, flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned int flags, int priority) {
  MOCK_CALL(kContext);
  return create(call, stream, flags, priority);
}

// Work that is queued still runs.
CUresult cuStreamDestroy_v2(CUstream stream) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(stream);
  stream->alive = false;
  stream->queue->retired = true;
  if (stream->capture) stream->capture->invalid = true;
  if (stream->queue->last) stream->context->leaving.push_back(stream->queue->last);
  return call.end(CUDA_SUCCESS);
}

CUresult cuStreamSynchronize(CUstream handle) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  if (stream->capture) {
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  call.engine.wait(call.lock, stream->queue->last);
  return static_cast<CUresult>(stream->context->domain.error);
}

CUresult cuStreamQuery(CUstream handle) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  if (stream->capture) {
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  if (!call.engine.poll(call.lock, stream->queue->last)) return CUDA_ERROR_NOT_READY;
  return static_cast<CUresult>(stream->context->domain.error);
}

// Stands for the record made last before this call; an event never recorded orders nothing.
CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned int) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(event);
  MOCK_STREAM(stream, handle);
  if (event->capture) return join_capture(call, stream, event);
  if (!event->recorded) return CUDA_SUCCESS;
  if (stream->capture) {
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  const OperationPtr op = operation("wait_event", 0);
  op->after.push_back(event->recorded);
  return submit(call, stream, op);
}

CUresult cuStreamGetPriority(CUstream handle, int* priority) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  *priority = stream->priority;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned int* flags) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  *flags = stream->flags;
  return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext* context) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  *context = stream->context;
  return CUDA_SUCCESS;
}

// On a thread of its own, as in the driver: it may block on its caller.
CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* argument) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  const OperationPtr op = operation("host_function", 0);
  op->own_thread = true;
  op->effect = [function, argument](Operation&) {
    in_host_function = true;
    function(argument);
    return Outcome{};
  };
  return submit(call, stream, op);
}
