// Code. The image is opaque: any admits all kernels that the emulation has for this device.
#include <algorithm>

#include "../kernels/kernel.h"
#include "call.h"

using namespace mock;

namespace {

constexpr int kRegistersOfSm = 65536, kThreadsOfSm = 2048, kBlocksOfSm = 32, kReservedShared = 1024;
constexpr int kRegisters = 64;  // a thread; the emulation does not know the compiler's figure

}  // namespace

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  MOCK_CALL(kContext);
  if (!image) return CUDA_ERROR_INVALID_VALUE;
  *module = make<CUmod_st>(current_context());
  return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(module);
  module->alive = false;
  for (Object* object : objects()) {
    if (object->kind != CUfunc_st::kKind) continue;
    if (static_cast<CUfunction>(object)->module == module) object->alive = false;
  }
  return call.end(CUDA_SUCCESS);
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(module);
  if (!kernel(name).exists) return CUDA_ERROR_NOT_FOUND;
  *function = make<CUfunc_st>(current_context());
  (*function)->symbol = name;
  (*function)->module = module;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(function);
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  if (value < 0 || value > shared_limit()) return CUDA_ERROR_INVALID_VALUE;
  function->shared_limit = value;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(function);
  switch (static_cast<int>(attribute)) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = static_cast<int>(kernel(function->symbol).threads); break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = kRegisters; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->shared_limit; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads, size_t shared_bytes) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(function);
  if (threads < 1 || threads > 1024) return CUDA_ERROR_INVALID_VALUE;
  const int of_an_sm = shared_limit() + kReservedShared;
  const int shared = of_an_sm / (static_cast<int>(shared_bytes) + kReservedShared);
  *blocks = std::min({shared, kThreadsOfSm / threads, kRegistersOfSm / (kRegisters * threads), kBlocksOfSm});
  return CUDA_SUCCESS;
}
