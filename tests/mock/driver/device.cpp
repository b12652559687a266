// The driver itself and its devices.
#include <cstdio>
#include <cstring>

#include "call.h"

using namespace mock;

namespace {

constexpr int kVersion = 13000;

bool has_device(CUdevice device) { return device >= 0 && device < Engine::shared().options.devices; }

// The sizes are those of compute capability 8.0 and 9.0.
int attribute_of(CUdevice device, int which) {
  const Options& options = Engine::shared().options;
  const bool hopper = options.capability >= 90;
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 48 * 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return shared_limit();
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return (hopper ? 228 : 164) * 1024;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return options.sms;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return device + 1;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 3;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return options.capability / 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return options.capability % 10;
    case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED: return hopper;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: return 1;
    default: return 0;
  }
}

}  // namespace

int mock::shared_limit() { return (Engine::shared().options.capability >= 90 ? 227 : 163) * 1024; }

CUresult cuInit(unsigned int flags) {
  MOCK_CALL(kNothing);
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  driver_initialised = true;
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  MOCK_CALL(kNothing);
  *version = kVersion;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  MOCK_CALL(kDriver);
  *count = call.engine.options.devices;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  MOCK_CALL(kDriver);
  if (!has_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
  MOCK_CALL(kDriver);
  if (!has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  snprintf(name, static_cast<size_t>(bytes), "mock of compute capability %d", call.engine.options.capability);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  MOCK_CALL(kDriver);
  if (!has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  memset(uuid->bytes, device + 1, sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  MOCK_CALL(kDriver);
  if (!has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = call.engine.options.memory_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  MOCK_CALL(kDriver);
  if (!has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  *value = attribute_of(device, attribute);
  return CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  MOCK_CALL(kDriver);
  if (!has_device(device) || !has_device(peer)) return CUDA_ERROR_INVALID_DEVICE;
  *can = device != peer;
  return CUDA_SUCCESS;
}
