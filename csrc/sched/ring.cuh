// Position in a ring of shared-memory stages. Producer and consumers walk it in step, each with a
// position of its own: a full barrier is waited for with `phase`, an empty one with `phase ^ 1`
// (a fresh ring is empty).
#pragma once
#include "../ptx/ptx.cuh"

template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t phase = 0;

  PTX_FN void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};
