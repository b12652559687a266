// Calls between GroupStart and GroupEnd, and each call outside as a group of its own.
#pragma once
#include "meeting.h"

namespace mock {

bool in_group();
// An operation of the group; at once where there is none.
ncclResult_t add(NcclCall& call, ncclComm_t comm, const Part& part, cudaStream_t stream);
// An initialisation: the group's end waits for all of it.
void add(ncclComm_t comm, Pending pending);

}  // namespace mock
