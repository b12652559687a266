#include "pack.cuh"

#include "../common/entry.cuh"

SEQPAR_KERNEL(pack_16_bytes, SeqparPack, kPackThreads, 1) { pack_units<uint4>(p); }
SEQPAR_KERNEL(pack_4_bytes, SeqparPack, kPackThreads, 1) { pack_units<uint32_t>(p); }
SEQPAR_KERNEL(pack_2_bytes, SeqparPack, kPackThreads, 1) { pack_units<uint16_t>(p); }
SEQPAR_KERNEL(pack_1_byte, SeqparPack, kPackThreads, 1) { pack_units<uint8_t>(p); }
SEQPAR_KERNEL(pack_f32_to_bf16, SeqparPack, kPackThreads, 1) { pack_cast<F32Type, Bf16Type>(p); }
SEQPAR_KERNEL(pack_f32_to_f16, SeqparPack, kPackThreads, 1) { pack_cast<F32Type, F16Type>(p); }
SEQPAR_KERNEL(pack_bf16_to_f32, SeqparPack, kPackThreads, 1) { pack_cast<Bf16Type, F32Type>(p); }
SEQPAR_KERNEL(pack_f16_to_f32, SeqparPack, kPackThreads, 1) { pack_cast<F16Type, F32Type>(p); }
SEQPAR_KERNEL(pack_bf16_to_f16, SeqparPack, kPackThreads, 1) { pack_cast<Bf16Type, F16Type>(p); }
SEQPAR_KERNEL(pack_f16_to_bf16, SeqparPack, kPackThreads, 1) { pack_cast<F16Type, Bf16Type>(p); }
