// Compares address and fragment maps with CuTe's layouts (PyPI nvidia-cutlass 4.2.0.0, BSD-3):
// descriptors of wgmma and its accumulators as the emulation computes them, byte swizzles of
// tensor_map.h, and the fragment tables that tests/emulated_ptx states for mma, ldmatrix and
// stmatrix (the emulation is compared with those in every test run). Run by scripts/cute_maps.sh.
//
// Last result: 166848 maps checked, 0 different (nvidia-cutlass 4.2.0.0, headers of CUDA 13.0, g++ 12).
#include <cstddef>
static inline size_t __cvta_generic_to_shared(const void* p) { return reinterpret_cast<size_t>(p) & 0x3ffff; }
#define CUTE_CVTA_GENERIC_TO_SHARED_ACTIVATED 1
#include <cstdio>
#include <cute/atom/copy_traits_sm75.hpp>
#include <cute/atom/copy_traits_sm90.hpp>
#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>
#include <map>

#include "../tensor_map.h"

extern "C" uint32_t emu_wgmma_element_address(uint64_t descriptor, int32_t mn, int32_t k, int32_t mn_major);
extern "C" int32_t emu_wgmma_accumulator_index(int32_t lane_register, int32_t lane, int32_t n);

using namespace cute;
using Half = cute::bfloat16_t;
static long checked = 0, different = 0;
alignas(1024) static unsigned char shared[1 << 18];

static void compare(const char* what, long cute_says, long emulation_says) {
  checked++;
  if (cute_says == emulation_says) return;
  if (different++ < 20) printf("%s: CuTe %ld, emulation %ld\n", what, cute_says, emulation_says);
}

// Every element of every 64 x 16 operand tile of a larger tile.
template <SM90::GMMA::Major kMajor, class Atom, int kRows, int kColumns>
void descriptors(const char* what) {
  auto layout = tile_to_shape(Atom{}, Shape<Int<kRows>, Int<kColumns>>{});
  Tensor whole = make_tensor(make_smem_ptr(reinterpret_cast<Half*>(shared)), layout);
  for (int row = 0; row < kRows / 64; row++) {
    for (int column = 0; column < kColumns / 16; column++) {
      Tensor tile = local_tile(whole, Shape<_64, _16>{}, make_coord(row, column));
      const auto start = reinterpret_cast<unsigned char*>(raw_pointer_cast(tile.data())) - shared;
      const uint64_t made = SM90::GMMA::make_gmma_desc<kMajor>(tile).desc_;
      const uint64_t descriptor = (made & ~0x3fffull) | static_cast<uint64_t>(start) >> 4;
      for (int i = 0; i < 64; i++) {
        for (int k = 0; k < 16; k++) {
          compare(what, reinterpret_cast<unsigned char*>(&tile(i, k)) - shared,
                  emu_wgmma_element_address(descriptor, i, k, kMajor == SM90::GMMA::Major::MN));
        }
      }
    }
  }
}

// CuTe's (thread, value) to a column-major index of M rows.
template <class Layout, class F>
void fragment(const char* what, Layout layout, int threads, int values, int rows, F&& ours) {
  for (int t = 0; t < threads; t++) {
    for (int v = 0; v < values; v++) {
      const auto [i, j] = ours(t, v);
      compare(what, static_cast<int>(layout(t, v)), i + j * rows);
    }
  }
}

// Which 16 bits of which lane's row each destination element comes from.
template <class Source, class Destination, class F>
void moved(const char* what, Source source, Destination destination, F&& ours) {
  std::map<int, int> from;
  for (int t = 0; t < 32; t++) {
    for (int v = 0; v < static_cast<int>(size<1>(source)); v += 16) from[static_cast<int>(source(t, v))] = t * 8 + v / 16;
  }
  for (int t = 0; t < 32; t++) {
    for (int v = 0; v < static_cast<int>(size<1>(destination)); v += 16) {
      compare(what, from[static_cast<int>(destination(t, v))], ours(t, v / 16));
    }
  }
}

template <int N>
void accumulators() {
  fragment("wgmma accumulators", SM90::GMMA::CLayout_64xN<N>{}, 128, N / 2, 64, [](int t, int v) {
    const int at = emu_wgmma_accumulator_index(v, t % 32, N);
    return std::pair(t / 32 * 16 + at / N, at % N);
  });
}

int main() {
  using namespace SM90::GMMA;
  descriptors<Major::K, Layout_K_SW128_Atom<Half>, 128, 128>("K-major, 128 bytes");
  descriptors<Major::K, Layout_K_SW64_Atom<Half>, 128, 64>("K-major, 64 bytes");
  descriptors<Major::K, Layout_K_SW32_Atom<Half>, 128, 64>("K-major, 32 bytes");
  descriptors<Major::K, Layout_K_INTER_Atom<Half>, 128, 64>("K-major, no swizzle");
  descriptors<Major::MN, Layout_MN_SW128_Atom<Half>, 128, 128>("MN-major, 128 bytes");
  descriptors<Major::MN, Layout_MN_SW64_Atom<Half>, 128, 64>("MN-major, 64 bytes");
  descriptors<Major::MN, Layout_MN_SW32_Atom<Half>, 128, 64>("MN-major, 32 bytes");
  descriptors<Major::MN, Layout_MN_INTER_Atom<Half>, 128, 64>("MN-major, no swizzle");
  accumulators<64>(), accumulators<72>(), accumulators<128>(), accumulators<256>();
  const auto a_fragment = [](int t, int v) {
    return std::pair(t / 32 * 16 + t % 32 / 4 + 8 * (v / 2 % 2), t % 4 * 2 + v % 2 + 8 * (v / 4));
  };
  fragment("wgmma A in registers", ALayout_64x16{}, 128, 8, 64, a_fragment);
  using K16 = MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN>;
  using K8 = MMA_Traits<SM80_16x8x8_F32BF16BF16F32_TN>;
  const auto b_fragment = [](int t, int v) { return std::pair(t / 4, t % 4 * 2 + v % 2 + 8 * (v / 2)); };
  const auto c_fragment = [](int t, int v) { return std::pair(t / 4 + 8 * (v / 2), t % 4 * 2 + v % 2); };
  fragment("m16n8k16 A", K16::ALayout{}, 32, 8, 16, a_fragment);
  fragment("m16n8k16 B", K16::BLayout{}, 32, 4, 8, b_fragment);
  fragment("m16n8k16 C", K16::CLayout{}, 32, 4, 16, c_fragment);
  fragment("m16n8k8 A", K8::ALayout{}, 32, 4, 16, a_fragment);
  fragment("m16n8k8 B", K8::BLayout{}, 32, 2, 8, b_fragment);
  const auto plain = [](int t, int e) { return (e / 2 * 8 + t / 4) * 8 + t % 4 * 2 + e % 2; };
  const auto transposed = [](int t, int e) { return (e / 2 * 8 + t % 4 * 2 + e % 2) * 8 + t / 4; };
  using Load = Copy_Traits<SM75_U32x4_LDSM_N>;
  using LoadTransposed = Copy_Traits<SM75_U16x8_LDSM_T>;
  using Store = Copy_Traits<SM90_U32x4_STSM_N>;
  moved("ldmatrix.x4", Load::SrcLayout{}, Load::DstLayout{}, plain);
  moved("ldmatrix.x4.trans", LoadTransposed::SrcLayout{}, LoadTransposed::DstLayout{}, transposed);
  moved("stmatrix.x4", Store::DstLayout{}, Store::SrcLayout{}, plain);
  for (uint32_t a = 0; a < 1 << 14; a++) {
    compare("32-byte swizzle", Swizzle<1, 4, 3>{}(a), emu::swizzled(a, 1));
    compare("64-byte swizzle", Swizzle<2, 4, 3>{}(a), emu::swizzled(a, 2));
    compare("128-byte swizzle", Swizzle<3, 4, 3>{}(a), emu::swizzled(a, 3));
  }
  printf("%ld maps checked, %ld different\n", checked, different);
  return different != 0;
}
