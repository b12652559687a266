// Gates: bounded waits for data that another agent writes while the kernel runs.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../ptx/ptx.cuh"

// A status that is being written; the host sees 1 once all of it is there.
constexpr uint32_t kStatusClaimed = 0xffffffffu;

PTX_FN void report_closed_gate(uint64_t status, int wait, uint32_t expected, uint32_t seen) {
  auto* report = reinterpret_cast<SeqparStatus*>(status);
  if (report == nullptr || ptx::atom_claim_sys(&report->code, kStatusClaimed) != 0) return;
  report->wait = wait;
  report->expected = expected;
  report->seen = seen;
  ptx::st_release_sys(&report->code, 1);
}

// False if the gate is still closed after timeout_ns; then the status says so. By one thread; before
// it reads the data by TMA it needs a proxy fence besides.
PTX_FN bool wait_for_gate(const SeqparGate& gate, int index, uint64_t status, uint64_t timeout_ns) {
  if (gate.flag == 0) return true;
  const auto* flag = reinterpret_cast<const uint32_t*>(gate.flag);
  const uint64_t start = ptx::global_timer_ns();
  uint32_t seen = ptx::ld_acquire_sys(flag);
  // Epochs wrap around: their distance decides, not their size.
  while (static_cast<int32_t>(seen - gate.epoch) < 0) {
    if (ptx::global_timer_ns() - start > timeout_ns) {
      report_closed_gate(status, index, gate.epoch, seen);
      return false;
    }
    ptx::sleep_ns(64);
    seen = ptx::ld_acquire_sys(flag);
  }
  return true;
}
