#include "functions.h"

namespace {

const char* name_of(CUresult error) {
#define NAME(code) \
  case code: return #code
  switch (static_cast<int>(error)) {
    NAME(CUDA_SUCCESS);
    NAME(CUDA_ERROR_INVALID_VALUE);
    NAME(CUDA_ERROR_OUT_OF_MEMORY);
    NAME(CUDA_ERROR_NOT_INITIALIZED);
    NAME(CUDA_ERROR_NO_DEVICE);
    NAME(CUDA_ERROR_INVALID_DEVICE);
    NAME(CUDA_ERROR_INVALID_IMAGE);
    NAME(CUDA_ERROR_INVALID_CONTEXT);
    NAME(CUDA_ERROR_NO_BINARY_FOR_GPU);
    NAME(CUDA_ERROR_INVALID_HANDLE);
    NAME(CUDA_ERROR_NOT_FOUND);
    NAME(CUDA_ERROR_NOT_READY);
    NAME(CUDA_ERROR_ILLEGAL_ADDRESS);
    NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    NAME(CUDA_ERROR_LAUNCH_TIMEOUT);
    NAME(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    NAME(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    NAME(CUDA_ERROR_LAUNCH_FAILED);
    NAME(CUDA_ERROR_NOT_PERMITTED);
    NAME(CUDA_ERROR_NOT_SUPPORTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_MERGE);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    NAME(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    NAME(CUDA_ERROR_CAPTURED_EVENT);
    default: return nullptr;
  }
#undef NAME
}

}  // namespace

// Not counted as calls and never failed: an error path must be able to name its error.
CUresult cuGetErrorName(CUresult error, const char** text) {
  *text = name_of(error);
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = name_of(error) ? "as the mock says" : nullptr;
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
