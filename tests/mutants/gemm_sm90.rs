//! Linear layers on sm_90a: three roles, gates, staging.

use crate::mutant::{Family, Mutant, Narrow, launch, text};

pub const GEMM90: Family = Family {
    name: "gemm_sm90",
    sources: &["gemm_sm90.cu"],
    arch: Some("sm90"),
    narrow: Some(Narrow {
        set: ("SEQPAR_TILE", "128x128"),
        lines: &["  GEMM_SM90(dtype, Type,", "  GEMM_QKV_SM90(dtype, Type,"],
        kept: "GEMM_SM90(dtype, Type, 128, 5)",
        tests: Some(&[(
            "emulated",
            &[
                "gemm::a_flag_that_is_never_set_ends_in_a_report",
                "gemm::rows_may_arrive_in_any_order",
                "gemm::twenty_schedules_are_clean_and_equal",
                "gemm::every_tile_gives_the_bits_of_float64_rounded_and_of_the_others",
            ],
        )]),
    }),
    tests: &[(
        "emulated",
        &[
            "gemm::a_dependent_launch_waits_for_the_one_before",
            "gemm::every_epilogue_equals_float64",
            "gemm::a_row_and_a_column_are_alone",
            "gemm::a_flag_that_is_never_set_ends_in_a_report",
            "gemm::rows_may_arrive_in_any_order",
            "gemm::twenty_schedules_are_clean_and_equal",
            "gemm::every_tile_gives_the_bits_of_float64_rounded_and_of_the_others",
        ],
    )],
};

/// The projection with the transform of heads.
pub const QKV: Family = Family {
    name: "gemm_qkv_sm90",
    sources: &["gemm_sm90.cu", "qk_norm_rope.cu"],
    narrow: None,
    tests: &[("emulated", &["gemm::the_fused_projection_equals_the_chain"])],
    ..GEMM90
};

const fn k(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&GEMM90, "kernels/gemm_sm90.cuh", what, find, put)
}

const EMPTY: &str = "        mbar_wait(empty(ring.slot), ring.parity ^ 1);\n        ptx::mbar_arrive";
const BACK: &str = "      ptx::wgmma_wait<1>();\n      if (lane == 0) ptx::mbar_arrive(empty(last));\n";

/// One on a line.
#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    k("barriers are not fenced for TMA", "    ptx::fence_mbar_init();\n", ""),
    k("no barrier behind the barriers' start", "    ptx::grid_launch_dependents();\n    __syncthreads();\n", "    ptx::grid_launch_dependents();\n"),
    k("empty wants one warp less", "mbar_init(empty(s), kMultiplyWarps)", "mbar_init(empty(s), kMultiplyWarps - 1)"),
    k("staged wants a warp less", "mbar_init(staged(h), 4)", "mbar_init(staged(h), 3)"),
    k("ready wants a warp more", "mbar_init(ready(h), kStoreWarps)", "mbar_init(ready(h), kStoreWarps + 1)"),
    k("the loader does not wait for room", EMPTY, "        ptx::mbar_arrive"),
    k("the loader begins with the other parity", EMPTY, "        mbar_wait(empty(ring.slot), ring.parity);\n        ptx::mbar_arrive"),
    k("a stage expects a's bytes", "expect_tx(bar, kStageBytes)", "expect_tx(bar, kABytes)"),
    k("a stage expects too much", "expect_tx(bar, kStageBytes)", "expect_tx(bar, kStageBytes + 128)"),
    k("w lies over a", "tma_load_2d(a + kABytes", "tma_load_2d(a"),
    k("a of the first sample", "t.row, t.sample)", "t.row, 0)"),
    k("a of the first chunk", "&p.a_maps[chunk]", "&p.a_maps[0]"),
    k("w of the next part", "&p.w_maps[t.part]", "&p.w_maps[t.part > 0 ? t.part - 1 : 0]"),
    k("w: coordinates exchanged", "bar, block * kK, t.col);", "bar, t.col, block * kK);"),
    k("gates are passed by", "if (t.chunk != chunk) {", "if (t.chunk != chunk && chunk == -2) {"),
    k("only the first gate is waited for", "if (t.chunk != chunk) {\n        chunk = t.chunk;", "if (const bool first = chunk < 0; t.chunk != chunk) {\n        chunk = t.chunk;\n        if (first)"),
    k("no proxy fence behind a gate", "        ptx::fence_proxy_async_global();\n", ""),
    k("a shut gate is not told", "          *stage_verdict(ring.slot) = 1;\n", ""),
    k("a shut gate wakes nobody", "          ptx::mbar_arrive(full(ring.slot));\n", ""),
    k("the news overtake the products", "          mbar_wait(empty(ring.slot), ring.parity ^ 1);\n          *stage_verdict", "          *stage_verdict"),
    k("no wgmma.fence", "    ptx::wgmma_fence();\n", ""),
    k("products are not committed", "    ptx::wgmma_commit();\n", ""),
    k("k steps of 16 bytes", "a_desc + 2 * i, w_desc + 2 * i", "a_desc + 1 * i, w_desc + 1 * i"),
    k("w's step stays", "a_desc + 2 * i, w_desc + 2 * i", "a_desc + 2 * i, w_desc"),
    k("a sum is never fresh", "!fresh || i > 0", "1"),
    k("every stage is fresh", "!fresh || i > 0", "i > 0"),
    k("a's descriptor: 64-byte swizzle", "matrix_descriptor(a, 16, 1024, Swizzle::k128)", "matrix_descriptor(a, 16, 1024, Swizzle::k64)"),
    k("w's descriptor: stride of 512 bytes", "kABytes, 16, 1024, Swizzle::k128", "kABytes, 16, 512, Swizzle::k128"),
    k("both halves multiply the first rows", " + half * kHalfRows * 128;", ";"),
    k("full is not waited for", "      mbar_wait(full(ring.slot), ring.parity);\n      multiply_stage", "      multiply_stage"),
    k("the first full is not waited for", "    mbar_wait(full(ring.slot), ring.parity);\n    // Read", "    // Read"),
    k("the verdict is not read", "if (ptx::shfl_idx(verdict, 0) != 0) return false;", "ptx::shfl_idx(verdict, 0);"),
    k("the current stage is given back", "ptx::wgmma_wait<1>();\n      if (lane == 0) ptx::mbar_arrive(empty(last));", "ptx::wgmma_wait<1>();\n      if (lane == 0) ptx::mbar_arrive(empty(ring.slot));"),
    k("the products are not waited for", BACK, "      if (lane == 0) ptx::mbar_arrive(empty(last));\n"),
    k("a stage is given back before its products", BACK, "      if (lane == 0) ptx::mbar_arrive(empty(last));\n      ptx::wgmma_wait<1>();\n"),
    k("the wait leaves two groups", "ptx::wgmma_wait<1>()", "ptx::wgmma_wait<2>()"),
    k("the last products are not waited for", "    ptx::wgmma_wait<0>();\n", ""),
    k("the last stage is kept", "    ptx::wgmma_wait<0>();\n    if (lane == 0) ptx::mbar_arrive(empty(last));\n", "    ptx::wgmma_wait<0>();\n"),
    k("every lane gives a stage back", "    ptx::wgmma_wait<0>();\n    if (lane == 0) ptx", "    ptx::wgmma_wait<0>();\n    ptx"),
    k("staging does not wait for room", "        mbar_wait(ready(half), parity);\n        parity ^= 1;", "        parity ^= 1;"),
    k("staging's parity does not turn", "        mbar_wait(ready(half), parity);\n        parity ^= 1;", "        mbar_wait(ready(half), parity);"),
    k("halves: sums in another order", "sums[4 * j + 2] + b.x, sums[4 * j + 3] + b.y);\n      if", "sums[4 * j + 3] + b.x, sums[4 * j + 2] + b.y);\n      if"),
    k("halves: stored without the bias", "pack(T{}, sums[4 * j] + b.x, sums[4 * j + 1] + b.y)", "pack(T{}, sums[4 * j], sums[4 * j + 1])"),
    k("halves: matrices exchanged", "x[j % 2 * 2 + 1] =", "x[(j % 2 * 2 + 3) % 4] ="),
    k("halves: columns of the next pair", "(j - 1 + lane / 16) * 16", "(j + lane / 16) * 16"),
    k("halves: warps share their rows", "(warp * 16 + lane % 16) * Staging", "(lane % 16) * Staging"),
    k("floats: columns of the first pass", "j / (Cols / 16) != pass", "j / (Cols / 16) != 0"),
    k("floats: the second row is the first", "to + 8 * Staging<Cols>::kPitch", "to + 7 * Staging<Cols>::kPitch"),
    k("halves share their staging", "smem + kStaged + h * kStagedBytes", "smem + kStaged"),
    k("no order before staged is told", "PTX_METHOD void give_staged(int half, int lane) const {\n    __syncwarp();\n", "PTX_METHOD void give_staged(int half, int lane) const {\n"),
    k("no order before room is told", "PTX_METHOD void give_ready(int half, int lane) const {\n    __syncwarp();\n", "PTX_METHOD void give_ready(int half, int lane) const {\n"),
    k("stores do not wait for sums", "          mbar_wait(staged(half), parity);\n", ""),
    k("stores: the parity does not turn", "        parity ^= 1;\n      }\n      const int next", "      }\n      const int next"),
    k("the bias of this tile for the next", "load_tile_bias(tile(next), thread);", "load_tile_bias(t, thread);"),
    k("the bias comes after the room", "      load_tile_bias(tile(next), thread);\n      for (int half = 0; half < kWarpgroups; half++) give_ready(half, lane);", "      for (int half = 0; half < kWarpgroups; half++) give_ready(half, lane);\n      load_tile_bias(tile(next), thread);"),
    k("the second half stores the first's rows", "const int row = t.row + half * kHalfRows, col", "const int row = t.row, col"),
    k("the second pass is stored over the first", "t.col + pass * (Cols / 2)", "t.col"),
    k("room is not told between passes", "          if (pass + 1 < passes()) give_ready(half, lane);\n", ""),
    k("a half's verdict is not read", "          if (ptx::shfl_idx(verdict, 0) != 0) return;\n", ""),
    k("a half's verdict is not told", "        if (warp == 0 && lane == 0) *half_verdict(half) = 1;\n", ""),
    k("the last k block is left out", "(p.gemm.k + kK - 1) / kK};", "p.gemm.k / kK};"),
    k("shared memory begins where it is given", "base = (start + 1023) & ~1023u", "base = start"),
    k("registers beyond the pool", "kMultiplyRegs = 200", "kMultiplyRegs = 208"),
    k("the launch before is not waited for", "    ptx::grid_dependency_wait();\n", ""),
    k("barriers overlap the bias", "kBarriers = kBias + Cols * 4;", "kBarriers = kBias + Cols * 4 - 8;"),
    text(&GEMM90, "common/barrier.cuh", "a wait is a look", "while (!ptx::mbar_try_wait(bar, parity)) {\n  }", "ptx::mbar_try_wait(bar, parity);"),
    text(&GEMM90, "common/barrier.cuh", "the parity never turns", "    ring.parity ^= 1;\n", ""),
    text(&GEMM90, "tile/gemm_epilogue.cuh", "staging without padding", "(kGroups | 1) * 16", "kGroups * 16"),
    launch(&GEMM90, "16 bytes of shared memory too few"),
    launch(&GEMM90, "a warp too few"),
    launch(&GEMM90, "maps: next swizzle"),
    launch(&GEMM90, "maps: boxes of half the columns"),
    launch(&GEMM90, "maps: boxes of a row less"),
    launch(&GEMM90, "maps: a column less"),
    launch(&GEMM90, "maps: a row less"),
    launch(&GEMM90, "maps: rows 16 bytes closer"),
    text(&QKV, "kernels/gemm_sm90.cuh", "no barrier behind the transform", "    ptx::bar_sync(1, kStoreWarps * 32);\n", ""),
    text(&QKV, "kernels/gemm_sm90.cuh", "the transform's barrier is the block's", "ptx::bar_sync(1, kStoreWarps * 32);", "ptx::bar_sync(1, kThreads);"),
    text(&QKV, "kernels/gemm_sm90.cuh", "the second half turns by the first's rows", "f, t, t.row + half * kHalfRows, staging", "f, t, t.row, staging"),
];
