// Capture: operations become nodes of a graph. What must not be done meanwhile makes it invalid.
#include <algorithm>

#include "call.h"

using namespace mock;

namespace {

// Whether a path leads from every node to the end of the origin stream.
bool joined(const CUgraph_st& graph, const std::vector<int>& ends) {
  std::vector<bool> reached(graph.nodes.size());
  std::vector<int> open = ends;
  while (!open.empty()) {
    const int node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    open.insert(open.end(), graph.nodes[node].after.begin(), graph.nodes[node].after.end());
  }
  return std::find(reached.begin(), reached.end(), false) == reached.end();
}

}  // namespace

CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  if (stream == stream->context->default_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture) return CUDA_ERROR_INVALID_VALUE;
  auto capture = std::make_shared<Capture>();
  capture->graph = make<CUgraph_st>(stream->context);
  capture->graph->alive = false;  // until the capture has ended
  capture->graph->branches.push_back(stream->queue->name);
  capture->origin = stream;
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->members.push_back(stream);
  stream->capture = capture;
  stream->frontier.clear();
  stream->branch = 0;
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (!capture) return CUDA_ERROR_INVALID_VALUE;
  if (capture->origin != stream) {
    capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  const bool whole = joined(*capture->graph, stream->frontier);
  for (CUstream member : capture->members) member->capture = nullptr;
  if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!whole) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  capture->graph->alive = true;
  *graph = capture->graph;
  return call.end(CUDA_SUCCESS);
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  MOCK_CALL(kContext);
  MOCK_STREAM(stream, handle);
  *status = !stream->capture            ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}
