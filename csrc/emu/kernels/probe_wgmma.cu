// One warpgroup multiplies 64 x 32 by 32 x N. `in` is the image of both operands in shared memory,
// `bytes` long, followed by A's fragments for two steps of k (4 words a thread each). arg: element
// type, form (bit 0: A MN-major, bit 1: B MN-major, bit 2: A in registers), offset of B, distance
// of the second step in A and in B; flag: descriptors without start address.
#include "probe.cuh"

#include "../../tile/descriptor.cuh"

template <int D>
struct Accumulators {
  float d[D];
};

template <class T, int Form, int D>
PTX_FN void step(Accumulators<D>& acc, uint64_t a, uint64_t b, const uint32_t (&registers)[4], int accumulate) {
  constexpr int kA = Form & 1, kB = Form >> 1 & 1;
  if constexpr ((Form & 4) != 0) {
    ptx::wgmma_rs<kB>(T{}, acc.d, registers, b, accumulate);
  } else {
    ptx::wgmma_ss<kA, kB>(T{}, acc.d, a, b, accumulate);
  }
}

template <class T, int Form, int D>
PTX_FN void multiply(const Probe& p, unsigned char* image, Accumulators<D>& acc) {
  const int warp = threadIdx.x / 32;
  uint32_t start = ptx::smem_u32(image);
  if (p.fault == 6) start += 128;
  const uint64_t* descriptors = reinterpret_cast<const uint64_t*>(p.flag);
  uint64_t a = descriptors[0] | (start & 0x3ffff) >> 4, b = descriptors[1] | ((start + p.arg[2]) & 0x3ffff) >> 4;
  if (p.fault == 5 && warp == 2) b = descriptor_at(b, 1024);
  if (p.fault == 7) b |= 1ull << 46;
  uint32_t first[4], second[4];
  for (int i = 0; i < 4; i++) {
    first[i] = p.in[p.bytes / 4 + threadIdx.x * 4 + i];
    second[i] = p.in[p.bytes / 4 + 512 + threadIdx.x * 4 + i];
  }
  for (int i = 0; i < D; i++) acc.d[i] = 0.0f;
  if (p.fault != 2) ptx::wgmma_fence();
  step<T, Form>(acc, a, b, first, 0);
  step<T, Form>(acc, descriptor_at(a, p.arg[3]), descriptor_at(b, p.arg[4]), second, 1);
  if (p.fault != 10) ptx::wgmma_commit();
  if (p.fault == 3) acc.d[0] = 1.0f;
  if (p.fault == 13) first[0] = 1;
  if (p.fault == 4) *reinterpret_cast<volatile uint32_t*>(image) = 0;
  if (p.fault == 9) {
    ptx::wgmma_wait<1>();
  } else if (p.fault != 8) {
    ptx::wgmma_wait<0>();
  }
  if (p.fault == 11) step<T, Form>(acc, a, b, first, 1), ptx::wgmma_commit(), ptx::wgmma_wait<0>();
}

template <class T, int D>
PTX_FN void multiply_form(const Probe& p, unsigned char* image, Accumulators<D>& acc) {
  switch (p.arg[1]) {
    case 0: multiply<T, 0>(p, image, acc); break;
    case 1: multiply<T, 1>(p, image, acc); break;
    case 2: multiply<T, 2>(p, image, acc); break;
    case 3: multiply<T, 3>(p, image, acc); break;
    case 4: multiply<T, 4>(p, image, acc); break;
    default: multiply<T, 6>(p, image, acc); break;
  }
}

template <int D>
PTX_FN void wgmma(const Probe& p, unsigned char* window) {
  unsigned char* image = align_1024(window);
  copy_words(reinterpret_cast<uint32_t*>(image), p.in, p.bytes);
  if (p.fault != 1) ptx::fence_proxy_async();
  if (p.fault != 12) __syncthreads();
  Accumulators<D> acc;
  if (p.arg[0] == 0) {
    multiply_form<ptx::Bf16Type>(p, image, acc);
  } else {
    multiply_form<ptx::F16Type>(p, image, acc);
  }
  for (int i = 0; i < D; i++) p.out[threadIdx.x * D + i] = ptx::float_bits(acc.d[i]);
}

#define WGMMA_PROBE(n)     \
  PROBE(wgmma_n##n, 128) { \
    SMEM_EXTERN(window);   \
    wgmma<n / 2>(p, window); \
  }
WGMMA_PROBE(64)
WGMMA_PROBE(72)
WGMMA_PROBE(128)
WGMMA_PROBE(192)
WGMMA_PROBE(256)
