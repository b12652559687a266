#include "call.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mock {

bool driver_initialised = false;
thread_local bool in_host_function = false;

namespace {

CUstream default_stream(CUcontext context) {
  if (!context->default_stream) {
    context->default_stream = make<CUstream_st>(context);
    context->default_stream->queue = &Engine::shared().new_queue("the default stream", context->domain);
  }
  return context->default_stream;
}

// The default stream and the streams that are not "non-blocking" wait for each other.
CUresult order_with_default_stream(CUstream stream, Operation& op) {
  const CUcontext context = stream->context;
  if (stream->flags & CU_STREAM_NON_BLOCKING) return CUDA_SUCCESS;
  const bool is_default = stream == context->default_stream;
  for (CUstream other : streams_of(context)) {
    if (other == stream || (other->flags & CU_STREAM_NON_BLOCKING)) continue;
    if (!is_default && other != context->default_stream) continue;
    if (is_default && other->capture) {
      other->capture->invalid = true;
      return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    if (other->queue->last) op.after.push_back(other->queue->last);
  }
  return CUDA_SUCCESS;
}

}  // namespace

bool gives_up(const char* name) {
  for (const char* word : {"Destroy", "Free", "Unload", "Release", "EndCapture", "Close", "Abort", "Deregister"}) {
    if (strstr(name, word)) return true;
  }
  return false;
}

Call::Call(const char* name, Needs needs) : engine(Engine::shared()), lock(engine.mutex), name_(name), needs_(needs) {
  static const bool trace = getenv("SEQPAR_MOCK_TRACE") != nullptr;
  if (trace) fprintf(stderr, "mock driver: %s\n", name);
  engine.seen_host();
  const auto injected = static_cast<CUresult>(engine.options.occurs(name));
  engine.hang(lock, name);
  if (gives_up(name)) {
    late_ = injected;
  } else if (injected != CUDA_SUCCESS) {
    refusal_ = injected;
    return;
  }
  const CUcontext context = current_context();
  if (in_host_function) {
    refusal_ = misuse("called in a host function", CUDA_ERROR_NOT_PERMITTED);
  } else if (needs != Needs::kNothing && !driver_initialised) {
    refusal_ = CUDA_ERROR_NOT_INITIALIZED;
  } else if (needs == Needs::kContext && !context) {
    refusal_ = misuse("no context is current", CUDA_ERROR_INVALID_CONTEXT);
  } else if (needs == Needs::kContext && !context->alive) {
    refusal_ = misuse("the current context was destroyed", CUDA_ERROR_CONTEXT_IS_DESTROYED);
  } else if (needs == Needs::kContext && context->domain.error && late_ == CUDA_SUCCESS) {
    // A failed context stays failed; giving things up still works, and says so.
    (gives_up(name) ? late_ : refusal_) = static_cast<CUresult>(context->domain.error);
  }
}

Call::~Call() {
  if (needs_ == Needs::kContext && !refused()) engine.pump(lock);
}

CUresult Call::misuse(const std::string& what, CUresult result) const {
  engine.reports.add(name_ + what, std::string("MISUSE: ") + name_ + ": " + what);
  return result;
}

CUstream stream_of(CUstream handle) {
  const CUcontext context = current_context();
  if (reinterpret_cast<uintptr_t>(handle) <= 1) return default_stream(context);
  return alive(handle) ? handle : nullptr;
}

OperationPtr operation(const std::string& label, double cost_ns) {
  auto op = std::make_shared<Operation>();
  op->label = label;
  op->cost_ns = cost_ns;
  return op;
}

CUresult submit(Call& call, CUstream stream, const OperationPtr& op, OperationPtr* submitted) {
  if (stream->context != current_context()) {
    return call.misuse("a stream of another context", CUDA_ERROR_INVALID_HANDLE);
  }
  return enqueue(call, stream, op, submitted);
}

CUresult enqueue(Call& call, CUstream stream, const OperationPtr& op, OperationPtr* submitted) {
  if (const auto& capture = stream->capture) {
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    auto& nodes = capture->graph->nodes;
    nodes.push_back({*op, stream->frontier, stream->branch});
    stream->frontier = {static_cast<int>(nodes.size()) - 1};
    return CUDA_SUCCESS;
  }
  const CUresult ordered = order_with_default_stream(stream, *op);
  if (ordered != CUDA_SUCCESS) return ordered;
  call.engine.submit(call.lock, *stream->queue, op);
  if (submitted) *submitted = op;
  return CUDA_SUCCESS;
}

}  // namespace mock
