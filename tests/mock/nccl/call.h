// What every function of NCCL begins and ends with: as the driver's (counted by name, failed on
// request), and counted and failed by rank as well: "ncclSend@2".
#pragma once
#include "../driver/call.h"
#include "functions.h"

namespace mock {

class NcclCall : public Call {
 public:
  // `comm`: the communicator that the call is about, or null.
  NcclCall(const char* name, ncclComm_t comm);
  ~NcclCall();
  bool refused() const { return refusal_ != ncclSuccess; }
  ncclResult_t refusal() const { return refusal_; }
  // The call's result; a function that gives something up has done so before it fails.
  ncclResult_t end(ncclResult_t result) const { return result == ncclSuccess ? late_ : result; }
  // An error in NCCL's words.
  ncclResult_t error(ncclResult_t result, const std::string& what) const;
  // A misuse: reported as well.
  ncclResult_t misuse(const std::string& what, ncclResult_t result) const;

 private:
  ncclResult_t refusal_ = ncclSuccess, late_ = ncclSuccess;
};

}  // namespace mock

#define NCCL_CALL(comm)                 \
  mock::NcclCall call(__func__, comm);  \
  if (call.refused()) return call.refusal()

// The call is about a communicator that was not given up.
#define NCCL_ALIVE(comm)                                                                             \
  if (!(comm)) return call.error(ncclInvalidArgument, "a communicator that is null");                \
  if (!mock::alive(comm)) return call.misuse("a communicator that does not exist", ncclInvalidArgument)
