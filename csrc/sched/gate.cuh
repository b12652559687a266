// Bounded waits for data of another agent (a copy engine, a peer).
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../ptx/ptx.cuh"

// Says that gate `wait` did not open, once per status word. A host that reads while the kernel runs
// sees code 1 only after the other fields.
PTX_FN void report_timeout(uint64_t status, uint32_t wait, uint32_t expected, uint32_t seen) {
  if (status == 0) return;
  SeqparStatus* s = reinterpret_cast<SeqparStatus*>(status);
  if (ptx::atom_claim_sys(&s->code, SEQPAR_STATUS_CLAIMED) != 0) return;
  s->wait = wait;
  s->expected = expected;
  s->seen = seen;
  ptx::st_release_sys(&s->code, SEQPAR_STATUS_TIMEOUT);
}

// One thread waits for the gate; false if it stayed shut. What the gate guards may then be read by
// this thread, by its later TMA loads, and by whoever synchronises with it.
PTX_FN bool await_gate(const SeqparGate& gate, uint32_t wait, uint64_t status, uint64_t timeout_ns) {
  if (gate.flag == 0) return true;
  const uint32_t* flag = reinterpret_cast<const uint32_t*>(gate.flag);
  uint32_t seen = ptx::ld_acquire_sys(flag);
  if (static_cast<int32_t>(seen - gate.epoch) < 0) {
    const uint64_t start = ptx::global_timer_ns();
    do {
      if (ptx::global_timer_ns() - start > timeout_ns) {
        report_timeout(status, wait, gate.epoch, seen);
        return false;
      }
      ptx::sleep_ns(64);
      seen = ptx::ld_acquire_sys(flag);
    } while (static_cast<int32_t>(seen - gate.epoch) < 0);
  }
  ptx::fence_proxy_async_global();
  return true;
}
