// Waits on transaction barriers.
#pragma once
#include "../ptx/ptx.cuh"

// Until the phase of this parity has completed. What it waits for is bounded by its own kernel: a
// warp that gives up completes the barriers of the others first.
PTX_FN void mbar_wait(uint32_t bar, uint32_t parity) {
  while (!ptx::mbar_try_wait(bar, parity)) {
  }
}

// A position in a ring of barriers; the parity turns when the ring is round.
struct RingSlot {
  int slot = 0;
  uint32_t parity = 0;
};

template <int Slots>
PTX_FN void advance(RingSlot& ring) {
  if (++ring.slot == Slots) {
    ring.slot = 0;
    ring.parity ^= 1;
  }
}
