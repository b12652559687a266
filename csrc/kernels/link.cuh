// A link between ranks that share a device: before its copy a message is stamped with the time at
// which it is there, after the copy it is held until then. One thread each; the bytes are the
// copy's business. A message takes the sender's port and the receiver's for its transfer time, from
// the first instant at which both are free; messages take them in the order of their stamps.
#pragma once
#include "../../include/seqpar_kernels.h"
#include "../ptx/ptx.cuh"

constexpr int kLinkThreads = 1;

// False after timeout_ns: the stamp is then made without the lock, and may be too early.
PTX_FN bool take_lock(uint32_t* lock, uint64_t timeout_ns) {
  const uint64_t start = ptx::global_timer_ns();
  while (ptx::atom_claim_sys(lock, 1) != 0) {
    if (ptx::global_timer_ns() - start > timeout_ns) return false;
    ptx::sleep_ns(64);
  }
  return true;
}

PTX_FN uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }

PTX_FN void stamp_message(const SeqparLink& p) {
  ptx::grid_dependency_wait();
  auto* lock = reinterpret_cast<uint32_t*>(p.lock);
  auto* egress = reinterpret_cast<uint64_t*>(p.egress);
  auto* ingress = reinterpret_cast<uint64_t*>(p.ingress);
  const bool locked = take_lock(lock, p.timeout_ns);
  const uint64_t left = later(ptx::global_timer_ns(), later(*egress, *ingress)) + p.transfer_ns;
  *egress = left;
  *ingress = left;
  if (locked) ptx::st_release_sys(lock, 0);
  *reinterpret_cast<uint64_t*>(p.arrival) = left + p.latency_ns;
}

PTX_FN void hold_message(const SeqparLink& p) {
  ptx::grid_dependency_wait();
  const uint64_t arrival = *reinterpret_cast<const uint64_t*>(p.arrival);
  const uint64_t start = ptx::global_timer_ns();
  uint64_t now = start;
  // No sleep: it may last twice as long as asked, which a short message would feel.
  while (now < arrival && now - start < p.timeout_ns) now = ptx::global_timer_ns();
}
