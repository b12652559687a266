// A tensor map with its fields in the clear, in the 128 bytes of a CUtensorMap.
#pragma once
#include <cstdint>

namespace emu {

struct alignas(64) TensorMap {
  uint64_t address;
  uint64_t dims[5];
  uint64_t strides[5];  // bytes; strides[0] is the element
  uint32_t magic_rank;  // kTensorMapMagic + rank
  uint16_t box[5];
  uint8_t elem_bytes;
  uint8_t swizzle;      // 0 none, 1 32, 2 64, 3 128 bytes
  uint32_t rank() const { return magic_rank & 7; }
  bool valid() const { return (magic_rank & ~7u) == 0x5eed0000u && rank() >= 1 && rank() <= 5; }
  uint64_t box_bytes() const {
    uint64_t n = elem_bytes;
    for (uint32_t i = 0; i < rank(); i++) n *= box[i];
    return n;
  }
};
static_assert(sizeof(TensorMap) == 128, "the size of a CUtensorMap");
constexpr uint32_t kTensorMapMagic = 0x5eed0000u;

// Address bits 4-6 exchanged with bits 7-9, as many as the pattern has.
inline uint32_t swizzled(uint32_t address, uint32_t swizzle) {
  uint32_t mask = swizzle == 3 ? 7 : swizzle == 2 ? 3 : swizzle == 1 ? 1 : 0;
  return address ^ ((address >> 7 & mask) << 4);
}

}  // namespace emu
