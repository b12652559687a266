// Strided copies of [B, rows, heads, D], several a launch: what stands before and after a packed
// AllToAll. Plain copies move units of 1 to 16 bytes, whatever the elements are; casts move elements.
#pragma once
#include "../common/storage.cuh"
#include "../common/view.cuh"

constexpr int kPackThreads = 256;

// Calls move(source, destination, unit index in the run of D) for each unit of copy blockIdx.y.
template <class Src, class Dst, class Move>
PTX_FN void each_unit(const SeqparPack& p, Move move) {
  const SeqparCopy& copy = p.copies[blockIdx.y];
  // Below 2^31: divisions of 32 bits.
  const uint32_t dim = copy.dim, heads = copy.heads, rows = copy.rows, count = copy.batch * rows * heads * dim;
  ptx::grid_launch_dependents();
  ptx::grid_dependency_wait();
  for (uint32_t i = blockIdx.x * kPackThreads + threadIdx.x; i < count; i += gridDim.x * kPackThreads) {
    const uint32_t unit = i % dim, run = i / dim, head = run % heads, row = run / heads % rows, batch = run / heads / rows;
    move(at<const Src>(copy.src, batch, row, head) + unit, at<Dst>(copy.dst, batch, row, head) + unit);
  }
}

// Strides and D in units.
template <class Unit>
PTX_FN void pack_units(const SeqparPack& p) {
  each_unit<Unit, Unit>(p, [](const Unit* src, Unit* dst) { *dst = *src; });
}

// Rounded to nearest even.
template <class From, class To>
PTX_FN void pack_cast(const SeqparPack& p) {
  using Src = typename Storage<From>::Type;
  using Dst = typename Storage<To>::Type;
  each_unit<Src, Dst>(p, [](const Src* src, Dst* dst) { store_element(To{}, dst, load_element(From{}, src)); });
}
