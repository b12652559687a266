// Copies and fills. Pageable host memory is read at the call, pinned memory when the copy runs, so
// that a host which writes too early or too late shows in the result. A copy to pageable memory
// ends before the call returns.
#include <cstring>

#include "call.h"

using namespace mock;

namespace {

constexpr double kCopyNs = 2000, kBytesPerNs = 50;

double cost_ns(size_t bytes) { return kCopyNs + static_cast<double>(bytes) / kBytesPerNs; }

enum class Side { kHost, kDevice };

CUresult copy(Call& call, const char* label, uint64_t to, Side to_side, uint64_t from, Side from_side, size_t bytes,
              CUstream handle) {
  MOCK_STREAM(stream, handle);
  if (!bytes) return CUDA_SUCCESS;
  const bool reaches_to = call.engine.memory.find(to), reaches_from = call.engine.memory.find(from);
  if ((to_side == Side::kDevice && !reaches_to) || (from_side == Side::kDevice && !reaches_from)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const OperationPtr op = operation(label, cost_ns(bytes));
  if (reaches_from) op->accesses.push_back({from, bytes, AccessKind::kRead});
  if (reaches_to) op->accesses.push_back({to, bytes, AccessKind::kWrite});
  std::shared_ptr<std::vector<char>> staged;
  if (!reaches_from && !stream->capture) {
    const char* data = reinterpret_cast<const char*>(from);
    staged = std::make_shared<std::vector<char>>(data, data + bytes);
  }
  op->effect = [=](Operation&) {
    const void* source = staged ? staged->data() : reinterpret_cast<const void*>(from);
    if (reaches_to) {
      Engine::shared().memory.write(to, source, bytes);
    } else {
      memcpy(reinterpret_cast<void*>(to), source, bytes);
    }
    return Outcome{};
  };
  OperationPtr submitted;
  const CUresult result = submit(call, stream, op, &submitted);
  if (result != CUDA_SUCCESS || reaches_to || !submitted) return result;
  call.engine.wait(call.lock, submitted);
  return static_cast<CUresult>(stream->context->domain.error);
}

CUresult fill(Call& call, uint64_t to, uint32_t value, size_t word, size_t count, CUstream handle) {
  MOCK_STREAM(stream, handle);
  if (!count) return CUDA_SUCCESS;
  if (!call.engine.memory.find(to) || to % word) return CUDA_ERROR_INVALID_VALUE;
  const size_t bytes = word * count;
  const OperationPtr op = operation("fill", cost_ns(bytes));
  op->accesses = {{to, bytes, AccessKind::kWrite}};
  op->effect = [=](Operation&) {
    std::vector<char> pattern(bytes);
    for (size_t i = 0; i < bytes; i += word) memcpy(&pattern[i], &value, word);
    Engine::shared().memory.write(to, pattern.data(), bytes);
    return Outcome{};
  };
  return submit(call, stream, op);
}

}  // namespace

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  MOCK_CALL(kContext);
  return copy(call, "copy_HtoD", to, Side::kDevice, reinterpret_cast<uint64_t>(from), Side::kHost, bytes, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  MOCK_CALL(kContext);
  return copy(call, "copy_DtoH", reinterpret_cast<uint64_t>(to), Side::kHost, from, Side::kDevice, bytes, stream);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  MOCK_CALL(kContext);
  return copy(call, "copy_DtoD", to, Side::kDevice, from, Side::kDevice, bytes, stream);
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  MOCK_CALL(kContext);
  return copy(call, "copy", to, Side::kDevice, from, Side::kDevice, bytes, stream);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes,
                           CUstream stream) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(to_context);
  MOCK_ALIVE(from_context);
  return copy(call, "copy_peer", to, Side::kDevice, from, Side::kDevice, bytes, stream);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  MOCK_CALL(kContext);
  return fill(call, to, value, 1, count, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream) {
  MOCK_CALL(kContext);
  return fill(call, to, value, 4, count, stream);
}
