//! Norm, modulation, gate, residual.

use crate::mutant::{Family, Mutant, launch, text};

pub const ADALN: Family = Family {
    name: "adaln",
    sources: &["adaln.cu"],
    arch: None,
    narrow: None,
    tests: &[(
        "emulated",
        &[
            "adaln::nan_and_infinity_stay_in_their_rows",
            "adaln::a_row_does_not_depend_on_the_others",
            "adaln::a_dependent_launch_waits_for_the_one_before",
            "adaln::statistics_are_those_of_the_rows",
            "adaln::fused_equals_chained_bit_for_bit",
            "adaln::twenty_schedules_of_each_kernel_are_clean_and_equal",
            "adaln::in_place_residual_and_a_real_shape",
            "adaln::every_hidden_size_equals_float64",
        ],
    )],
};

const KERNEL: &str = "kernels/adaln.cuh";
const ROWS: &str = "common/rows.cuh";
const REDUCE: &str = "common/reduce.cuh";
const VIEW: &str = "common/view.cuh";

const fn k(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&ADALN, KERNEL, what, find, put)
}

/// One on a line.
#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    text(&ADALN, REDUCE, "no barrier between the warps' sums", "  ptx::bar_sync(barrier, LANES);\n", ""),
    text(&ADALN, REDUCE, "the barrier expects a warp less", "bar_sync(barrier, LANES)", "bar_sync(barrier, LANES - 32)"),
    text(&ADALN, REDUCE, "the butterfly begins a step late", "mask = LANES / 2;", "mask = LANES / 4;"),
    text(&ADALN, REDUCE, "the butterfly ends a step early", "mask; mask /= 2", "mask > 1; mask /= 2"),
    text(&ADALN, REDUCE, "every lane writes the warp's sum", "if (thread % 32 == 0) scratch", "scratch"),
    text(&ADALN, REDUCE, "the second lane writes the warp's sum too", "thread % 32 == 0", "thread % 32 <= 1"),
    text(&ADALN, REDUCE, "the last warp's sum is left out", "w < LANES / 32", "w < LANES / 32 - 1"),
    text(&ADALN, REDUCE, "the first warp's sum counts twice", "int w = 1;", "int w = 0;"),
    k("no barrier before the next row", "      if constexpr (LANES > 32) ptx::bar_sync(1 + group, LANES);\n", ""),
    k("all groups share a barrier", "scratch + which * kWarps, 1 + group, thread", "scratch + which * kWarps, 1, thread"),
    k("both sums share the scratch", "scratch + which * kWarps", "scratch"),
    k("all groups share the scratch", "reinterpret_cast<float*>(shared) + group * 2 * Kernel::kWarps", "reinterpret_cast<float*>(shared)"),
    k("the tail is one vector too long", "(i * LANES + thread) * 8 < p.hidden", "(i * LANES + thread) * 8 <= p.hidden"),
    k("the tail is one vector too short", "(i * LANES + thread) * 8 < p.hidden", "(i * LANES + thread) * 8 + 8 < p.hidden"),
    k("lanes without a row are active", "return active && (i", "return (i"),
    k("lanes without a row leave", "LANES >= 32 && row >= end", "row >= end"),
    k("channels past the end are in the deviation", "      if (!has(i)) continue;\n#pragma unroll\n      for (int j = 0; j < 8; j++) {\n        const float d", "#pragma unroll\n      for (int j = 0; j < 8; j++) {\n        const float d"),
    k("the vectors of a lane lie side by side", "return i * LANES + thread;", "return thread * VECTORS + i;"),
    k("the residual is not rounded before the norm", "      widen<T>(rounded, x[i]);\n", ""),
    k("the gate is applied to the residual", "ptx::fma(g[j], b[j], x[i][j])", "ptx::fma(g[j], x[i][j], b[j])"),
    k("RMS norm takes the mean off", "p.rms ? 0.0f : mean()", "mean()"),
    k("eps outside the root", "static_cast<float>(p.hidden) + p.eps)", "static_cast<float>(p.hidden)) + p.eps"),
    k("eps left out", "static_cast<float>(p.hidden) + p.eps)", "static_cast<float>(p.hidden))"),
    k("the sum of squares is of the whole shape", "1.0f / ptx::sqrt(sum(s, 1) / static_cast<float>(p.hidden)", "1.0f / ptx::sqrt(sum(s, 1) / static_cast<float>(VECTORS * LANES * 8)"),
    k("scale without its one", "1.0f + a[j], b[j]", "a[j], b[j]"),
    k("shift and scale exchanged", "1.0f + a[j], b[j]", "1.0f + b[j], a[j]"),
    k("the frame mask is inverted", "row) != 0;", "row) == 0;"),
    k("the frame of the row before", "*at<uint8_t>(p.frame, batch, row)", "*at<uint8_t>(p.frame, batch, row - (row > 0))"),
    k("the last row of a block is left out", "turn < end; turn", "turn < end - 1; turn"),
    k("blocks overlap by a row", "rows * (blockIdx.x + 1) / gridDim.x;", "rows * (blockIdx.x + 1) / gridDim.x + (blockIdx.x + 1 < gridDim.x);"),
    k("the row index is cut by the batch", "static_cast<int>(r / p.rows), static_cast<int>(r % p.rows)", "static_cast<int>(r % p.batch), static_cast<int>(r / p.batch)").equivalent("the same rows in another order"),
    k("half a warp reads the row past the end", "active ? row : end - 1", "row"),
    k("mean and deviation exchanged for the backward pass", "row) = mean;", "row) = inverse;"),
    k("every lane stores the statistics", "thread != 0 || !active", "!active"),
    k("y is stored to the branch", "at<uint16_t>(p.y, batch, row)", "at<uint16_t>(p.x, batch, row)"),
    k("the launch begins before the one it depends on", "  ptx::grid_dependency_wait();\n", ""),
    k("the mean of another row's group", "sum(s, 0)", "sum(s, 1)"),
    text(&ADALN, ROWS, "both frames have the first vector", "if (frame) return", "return"),
    text(&ADALN, ROWS, "per-token vectors do not move", " + row * vector.row;", ";"),
    text(&ADALN, ROWS, "the second vector has the first's stride", "batch * vector.second_batch", "batch * vector.batch"),
    text(&ADALN, ROWS, "words two and three exchanged on the way in", "{v.x, v.y, v.z, v.w}", "{v.x, v.z, v.y, v.w}"),
    text(&ADALN, ROWS, "a channel twice on the way out", "v.z = pack(T{}, x[4], x[5]);", "v.z = pack(T{}, x[4], x[4]);"),
    text(&ADALN, VIEW, "samples are as far apart as rows", "batch * view.batch + row", "batch * view.row + row"),
    launch(&ADALN, "half the shared memory"),
    launch(&ADALN, "a warp too few"),
    launch(&ADALN, "a warp too many"),
];
