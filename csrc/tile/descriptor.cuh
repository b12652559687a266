// Shared-memory matrix descriptors of wgmma (PTX ISA, "Matrix descriptor format").
#pragma once
#include "../ptx/ptx.cuh"

enum class Swizzle : uint32_t { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// start[13:0], leading byte offset[29:16], stride byte offset[45:32], swizzle[63:62]; all >> 4.
PTX_FN uint64_t matrix_descriptor(uint32_t start, uint32_t leading_bytes, uint32_t stride_bytes, Swizzle swizzle) {
  return static_cast<uint64_t>((start & 0x3ffff) >> 4) | static_cast<uint64_t>((leading_bytes & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((stride_bytes & 0x3ffff) >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

// The descriptor of the same layout `bytes` further on: the address does not carry out of its field.
PTX_FN uint64_t descriptor_at(uint64_t descriptor, uint32_t bytes) {
  const uint32_t start = static_cast<uint32_t>(descriptor) + (bytes >> 4);
  return (descriptor & 0xffffffff00000000ull) | start;
}
