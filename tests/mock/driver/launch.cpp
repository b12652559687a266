// Launches and tensor maps.
#include <cstring>

#include "../../../csrc/emu/api.h"
#include "../kernels/kernel.h"
#include "call.h"

using namespace mock;

namespace {

constexpr double kKernelNs = 10000;  // nothing is known of a kernel's time
constexpr unsigned kPortableCluster = 8;

// A dependent launch runs in full order; the emulation checks that it could begin early.
CUresult check_attributes(Call& call, const CUlaunchConfig& config) {
  for (unsigned i = 0; i < config.numAttrs; i++) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    switch (static_cast<int>(attribute.id)) {
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: {
        const auto& cluster = attribute.value.clusterDim;
        if (!cluster.x || !cluster.y || !cluster.z) return CUDA_ERROR_INVALID_VALUE;
        if (config.gridDimX % cluster.x || config.gridDimY % cluster.y || config.gridDimZ % cluster.z ||
            cluster.x * cluster.y * cluster.z > kPortableCluster) {
          return CUDA_ERROR_INVALID_VALUE;
        }
        break;
      }
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
      case CU_LAUNCH_ATTRIBUTE_PRIORITY: break;
      default: return call.misuse("a launch attribute that the mock does not know", CUDA_ERROR_NOT_SUPPORTED);
    }
  }
  return CUDA_SUCCESS;
}

bool is_dependent(const CUlaunchConfig& config) {
  for (unsigned i = 0; i < config.numAttrs; i++) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
      return attribute.value.programmaticStreamSerializationAllowed;
    }
  }
  return false;
}

CUresult check_size(const CUlaunchConfig& config, CUfunction function, const KernelInfo& info) {
  const uint64_t blocks = uint64_t{config.gridDimX} * config.gridDimY * config.gridDimZ;
  const uint64_t threads = uint64_t{config.blockDimX} * config.blockDimY * config.blockDimZ;
  if (!blocks || !threads || threads > 1024 || config.gridDimY > 65535 || config.gridDimZ > 65535) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (config.sharedMemBytes > static_cast<unsigned>(function->shared_limit)) return CUDA_ERROR_INVALID_VALUE;
  return threads > info.threads ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

}  // namespace

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params, void** extra) {
  MOCK_CALL(kContext);
  MOCK_ALIVE(function);
  MOCK_STREAM(stream, config->hStream);
  const KernelInfo info = kernel(function->symbol);
  CUresult result = check_attributes(call, *config);
  if (result == CUDA_SUCCESS) result = check_size(*config, function, info);
  if (result != CUDA_SUCCESS) return result;
  if (!params || extra) return call.misuse("parameters only by kernelParams", CUDA_ERROR_INVALID_VALUE);
  auto launch = std::make_shared<KernelLaunch>(KernelLaunch{
      function->symbol,
      {config->gridDimX, config->gridDimY, config->gridDimZ},
      {config->blockDimX, config->blockDimY, config->blockDimZ},
      config->sharedMemBytes,
      {},
      is_dependent(*config),
  });
  const char* param = static_cast<const char*>(params[0]);
  launch->params.assign(param, param + info.param_bytes);
  const OperationPtr op = operation(function->symbol, kKernelNs);
  op->effect = [launch](Operation& running) { return run_kernel(launch, running); };
  return submit(call, stream, op);
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* dims, const cuuint64_t* strides_bytes, const cuuint32_t* box,
                                const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  MOCK_CALL(kDriver);
  // 16-bit elements, bfloat16 and half among them.
  static constexpr int kElemBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
  if (static_cast<size_t>(type) >= std::size(kElemBytes) || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (rank < 1 || rank > 5) return CUDA_ERROR_INVALID_VALUE;
  for (uint32_t i = 0; i < rank; i++) {
    if (element_strides[i] != 1) return call.misuse("strides within a box", CUDA_ERROR_NOT_SUPPORTED);
  }
  const int32_t code =
      emu_encode_tensor_map(map, static_cast<uint32_t>(kElemBytes[type]), rank, reinterpret_cast<uint64_t>(address),
                            reinterpret_cast<const uint64_t*>(dims), reinterpret_cast<const uint64_t*>(strides_bytes),
                            box, static_cast<uint32_t>(swizzle));
  return code ? call.misuse(emu_last_error(), CUDA_ERROR_INVALID_VALUE) : CUDA_SUCCESS;
}
