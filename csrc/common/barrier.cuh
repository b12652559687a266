// Waiting for a transaction barrier.
#pragma once
#include "../ptx/ptx.cuh"

PTX_FN void mbar_wait(uint32_t bar, uint32_t parity) {
  while (!ptx::mbar_try_wait(bar, parity)) {
  }
}
