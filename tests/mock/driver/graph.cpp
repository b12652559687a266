// Graphs: each branch of an instance is a queue, each launch a copy of the nodes.
#include "call.h"

using namespace mock;

namespace {

constexpr double kLaunchNs = 2000;

}  // namespace

CUresult cuGraphInstantiateWithFlags(CUgraphExec* instance, CUgraph graph, unsigned long long flags) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(graph);
  if (flags) return call.misuse("flags that the mock does not know", CUDA_ERROR_NOT_SUPPORTED);
  auto* made = make<CUgraphExec_st>(current_context());
  made->nodes = graph->nodes;
  for (const std::string& branch : graph->branches) {
    made->queues.push_back(&call.engine.new_queue("the graph's branch of " + branch, current_context()->domain));
  }
  *instance = made;
  return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec instance, CUstream handle) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(instance);
  MOCK_STREAM(stream, handle);
  (void)stream;
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec instance, CUstream handle) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(instance);
  MOCK_STREAM(stream, handle);
  if (stream->capture) return call.misuse("a graph within a capture", CUDA_ERROR_NOT_SUPPORTED);
  const OperationPtr begin = operation("graph_begin", kLaunchNs), end = operation("graph_end", 0);
  // An instance never overlaps itself.
  if (instance->last) begin->after.push_back(instance->last);
  const CUresult result = submit(call, stream, begin);
  if (result != CUDA_SUCCESS) return result;
  std::vector<OperationPtr> copies;
  std::vector<bool> last(instance->nodes.size(), true);
  for (const Node& node : instance->nodes) {
    const auto copy = std::make_shared<Operation>(node.pattern);
    if (node.after.empty()) copy->after.push_back(begin);
    for (int earlier : node.after) {
      copy->after.push_back(copies[earlier]);
      last[earlier] = false;
    }
    call.engine.submit(call.lock, *instance->queues[node.branch], copy);
    copies.push_back(copy);
  }
  for (size_t i = 0; i < copies.size(); i++) {
    if (last[i]) end->after.push_back(copies[i]);
  }
  if (copies.empty()) end->after.push_back(begin);
  instance->last = end;
  return submit(call, stream, end);
}

// Work in flight goes on.
CUresult cuGraphExecDestroy(CUgraphExec instance) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(instance);
  instance->alive = false;
  for (Queue* queue : instance->queues) queue->retired = true;
  return call.end(CUDA_SUCCESS);
}

CUresult cuGraphDestroy(CUgraph graph) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(graph);
  graph->alive = false;
  return call.end(CUDA_SUCCESS);
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(graph);
  if (nodes) return call.misuse("handles of nodes", CUDA_ERROR_NOT_SUPPORTED);
  *count = graph->nodes.size();
  return CUDA_SUCCESS;
}
