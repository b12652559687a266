// The library itself: calls, errors, versions.
#include "call.h"

#include "communicator.h"

namespace mock {
namespace {

std::string last_error;
thread_local int own_rank = -1;  // of the communicator that this thread used last

}  // namespace

NcclCall::NcclCall(const char* name, ncclComm_t comm) : Call(name, Needs::kNothing) {
  const auto by_name = Call::refused() ? Call::refusal() : Call::end(CUDA_SUCCESS);
  refusal_ = static_cast<ncclResult_t>(Call::refused() ? by_name : 0);
  late_ = static_cast<ncclResult_t>(Call::refused() ? 0 : by_name);
  if (in_host_function) refusal_ = ncclInvalidUsage;
  if (comm && alive(comm)) own_rank = comm->life->rank;
  if (own_rank < 0) return;
  const auto by_rank = static_cast<ncclResult_t>(engine.options.occurs(std::string(name) + "@" + std::to_string(own_rank)));
  if (by_rank != ncclSuccess) (gives_up(name) ? late_ : refusal_) = by_rank;
}

NcclCall::~NcclCall() {
  if (!refused()) engine.pump(lock);
}

ncclResult_t NcclCall::error(ncclResult_t result, const std::string& what) const {
  last_error = what;
  return result;
}

ncclResult_t NcclCall::misuse(const std::string& what, ncclResult_t result) const {
  Call::misuse(what, CUDA_SUCCESS);
  return error(result, what);
}

}  // namespace mock

ncclResult_t ncclGetVersion(int* version) {
  NCCL_CALL(nullptr);
  *version = call.engine.options.nccl_version;
  return ncclSuccess;
}

// Not counted and never failed, like the driver's: an error path must be able to name its error.
const char* ncclGetErrorString(ncclResult_t result) {
  static const char* texts[] = {"no error",
                                "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
                                "unhandled system error (run with NCCL_DEBUG=INFO for details)",
                                "internal error - please report this issue to the NCCL developers",
                                "invalid argument (run with NCCL_DEBUG=WARN for details)",
                                "invalid usage (run with NCCL_DEBUG=WARN for details)",
                                "remote process exited or there was a network error",
                                "NCCL operation in progress"};
  const auto code = static_cast<unsigned>(result);
  return code < ncclNumResults ? texts[code] : "unknown result code";
}

// Of the process, and left as it is by later successes.
const char* ncclGetLastError(ncclComm_t) {
  static thread_local std::string text;
  mock::Lock lock(mock::Engine::shared().mutex);
  text = mock::last_error;
  return text.c_str();
}
