// Flags written and waited for in stream order.
#include "call.h"

using namespace mock;

namespace {

template <class Word>
Word load(uint64_t address) {
  return __atomic_load_n(reinterpret_cast<const Word*>(address), __ATOMIC_ACQUIRE);
}

template <class Word>
bool satisfied(Word seen, Word value, unsigned condition) {
  switch (condition) {
    case CU_STREAM_WAIT_VALUE_GEQ: return static_cast<std::make_signed_t<Word>>(seen - value) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ: return seen == value;
    case CU_STREAM_WAIT_VALUE_AND: return (seen & value) != 0;
    default: return static_cast<Word>(~(seen | value)) != 0;
  }
}

bool is_word(Call& call, CUdeviceptr address, unsigned bytes) {
  const Allocation* found = call.engine.memory.find(address);
  return found && found->live && address % bytes == 0;
}

template <class Word>
CUresult write_value(Call& call, CUstream handle, CUdeviceptr address, Word value, unsigned flags) {
  MOCK_STREAM(stream, handle);
  if (!is_word(call, address, sizeof(Word)) || flags > 1) return CUDA_ERROR_INVALID_VALUE;
  const OperationPtr op = operation("write_value(" + std::to_string(value) + ")", 1000);
  op->accesses = {{address, sizeof(Word), AccessKind::kRelease}};
  op->effect = [address, value](Operation&) {
    Engine::shared().memory.release_flag(address, value, sizeof(Word));
    return Outcome{};
  };
  return submit(call, stream, op);
}

template <class Word>
CUresult wait_value(Call& call, CUstream handle, CUdeviceptr address, Word value, unsigned flags) {
  MOCK_STREAM(stream, handle);
  if (!is_word(call, address, sizeof(Word)) || flags > CU_STREAM_WAIT_VALUE_NOR) return CUDA_ERROR_INVALID_VALUE;
  const OperationPtr op = operation("wait_value(" + std::to_string(value) + ")", 0);
  op->accesses = {{address, sizeof(Word), AccessKind::kAcquire}};
  op->gate = [=] { return satisfied(load<Word>(address), value, flags); };
  op->waits_for = [=] {
    return Engine::shared().memory.name_of(address, sizeof(Word)) + ", which holds " +
           std::to_string(load<Word>(address));
  };
  return submit(call, stream, op);
}

}  // namespace

CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags) {
  MOCK_CALL(kContext);
  return write_value(call, stream, address, value, flags);
}

CUresult cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned int flags) {
  MOCK_CALL(kContext);
  return wait_value(call, stream, address, value, flags);
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags) {
  MOCK_CALL(kContext);
  return write_value(call, stream, address, value, flags);
}

CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned int flags) {
  MOCK_CALL(kContext);
  return wait_value(call, stream, address, value, flags);
}
