// What every function of the driver begins and ends with: one call at a time, counted, failed on
// request; the driver initialised, a context current and in order; afterwards whatever the mode
// lets run.
#pragma once
#include <string>

#include "functions.h"
#include "objects.h"

namespace mock {

enum class Needs { kNothing, kDriver, kContext };

class Call {
 public:
  Call(const char* name, Needs needs);
  ~Call();
  bool refused() const { return refusal_ != CUDA_SUCCESS; }
  CUresult refusal() const { return refusal_; }
  // The call's result. A destructor that is to fail does its work first: what a driver reports
  // there is an earlier failure.
  CUresult end(CUresult result) const { return result == CUDA_SUCCESS ? late_ : result; }
  // A misuse: reported, and refused.
  CUresult misuse(const std::string& what, CUresult result) const;

  Engine& engine;
  Lock lock;

 private:
  const char* name_;
  Needs needs_;
  CUresult refusal_ = CUDA_SUCCESS, late_ = CUDA_SUCCESS;
};

// Whether a call of that name gives something up: it does so even where it fails.
bool gives_up(const char* name);

extern bool driver_initialised;
extern thread_local bool in_host_function;

// Most shared memory of a block.
int shared_limit();

// The current context of this thread, or null.
CUcontext current_context();
// A handle's stream: 0 and 1 are the context's default stream. Null: no such stream.
CUstream stream_of(CUstream handle);

// To the stream's queue, or as a node to its capture. `submitted` (may be null) becomes the
// operation, or null where it was captured.
CUresult submit(Call& call, CUstream stream, const OperationPtr& op, OperationPtr* submitted = nullptr);
// The same whatever context is current.
CUresult enqueue(Call& call, CUstream stream, const OperationPtr& op, OperationPtr* submitted = nullptr);
OperationPtr operation(const std::string& label, double cost_ns);

}  // namespace mock

#define MOCK_CALL(needs)                                 \
  mock::Call call(__func__, mock::Needs::needs);         \
  if (call.refused()) return call.refusal()

#define MOCK_STREAM(name, handle)                                                      \
  CUstream name = mock::stream_of(handle);                                             \
  if (!name) return call.misuse("a stream that does not exist", CUDA_ERROR_INVALID_HANDLE)

#define MOCK_ALIVE(handle)                                                             \
  if (!mock::alive(handle)) return call.misuse("a handle that does not exist", CUDA_ERROR_INVALID_HANDLE)
