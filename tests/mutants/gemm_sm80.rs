//! Linear layers on sm_80, and what they share with sm_90a: tiles, epilogues, the fused projection.

use crate::mutant::{Family, Mutant, Narrow, launch, text};

pub const GEMM80: Family = Family {
    name: "gemm_sm80",
    sources: &["gemm_sm80.cu"],
    arch: Some("sm80"),
    narrow: Some(Narrow {
        set: ("SEQPAR_TILE", "64x64"),
        lines: &["  GEMM_SM80(dtype, Type,", "  GEMM_QKV_SM80(dtype, Type,"],
        kept: "GEMM_SM80(dtype, Type, 64, 64)",
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
            "gemm::nan_and_infinity_stay_in_their_rows_and_columns",
            "gemm::a_row_and_a_column_are_alone",
            "gemm::the_output_may_be_the_residual",
            "gemm::every_epilogue_equals_float64",
            "gemm::a_flag_that_is_never_set_ends_in_a_report",
            "gemm::rows_may_arrive_in_any_order",
            "gemm::twenty_schedules_are_clean_and_equal",
            "gemm::every_tile_gives_the_bits_of_float64_rounded_and_of_the_others",
        ],
    )],
};

/// The epilogues of the layers.
pub const EPILOGUE: Family = Family {
    name: "gemm_epilogue",
    narrow: None,
    tests: &[(
        "emulated",
        &[
            "gemm::one_ragged_operand_changes_no_bit",
            "gemm::every_epilogue_equals_float64",
            "gemm::the_output_may_be_the_residual",
            "gemm::heads_of_any_width_equal_plain_columns",
            "gemm::rows_may_arrive_in_any_order",
        ],
    )],
    ..GEMM80
};

/// The projection with the transform of heads.
pub const QKV: Family = Family {
    name: "gemm_qkv",
    sources: &["gemm_sm80.cu", "qk_norm_rope.cu"],
    narrow: None,
    tests: &[("emulated", &["gemm::the_fused_projection_equals_the_chain"])],
    ..GEMM80
};

const fn k(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&GEMM80, "kernels/gemm_sm80.cuh", what, find, put)
}
const fn t(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&GEMM80, "sched/gemm_tiles.cuh", what, find, put)
}
const fn e(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&EPILOGUE, "tile/gemm_epilogue.cuh", what, find, put)
}
const fn a(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&EPILOGUE, "tile/activation.cuh", what, find, put)
}
const fn q(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&QKV, "tile/qkv_epilogue.cuh", what, find, put)
}

const LOADED: &str = "      ptx::cp_async_wait<kStages - 2>();\n      // The stage is there for all; all are done with the one that is loaded next.\n      __syncthreads();\n";

/// One on a line.
#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    k("the wait for a stage leaves one more", "cp_async_wait<kStages - 2>()", "cp_async_wait<kStages - 1>()"),
    k("a stage is not waited for", "      ptx::cp_async_wait<kStages - 2>();\n", ""),
    k("no barrier behind a stage", LOADED, "      ptx::cp_async_wait<kStages - 2>();\n"),
    k("the barrier before the wait", LOADED, "      __syncthreads();\n      ptx::cp_async_wait<kStages - 2>();\n"),
    k("the load goes into the stage that is read", "if (block + kStages - 1 < k_blocks) load_stage(block + kStages - 1);", "if (block + kStages < k_blocks) load_stage(block + kStages);"),
    k("nothing is committed past the end", "if (block + kStages - 1 < k_blocks) load_stage(block + kStages - 1);\n      ptx::cp_async_commit();", "if (block + kStages - 1 < k_blocks) {\n        load_stage(block + kStages - 1);\n        ptx::cp_async_commit();\n      }"),
    k("no barrier before sums are staged", "    ptx::cp_async_wait<0>();\n    __syncthreads();\n", "    ptx::cp_async_wait<0>();\n"),
    k("one prologue stage too few", "block < kStages - 1; block++) {\n      if", "block < kStages - 2; block++) {\n      if"),
    k("the last k block is left out", "(p.k + kK - 1) / kK", "p.k / kK"),
    k("k is not bounded", "row < rows && k < p.k", "row < rows"),
    k("rows are not bounded", "row < rows && k < p.k", "k < p.k"),
    k("what is outside is not zero", "inside ? 16 : 0", "16"),
    k("rows of the chunk, not of the tile", "chunk.rows - tile.row,", "chunk.rows,"),
    k("columns of the part, not of the tile", "part.cols - tile.col, k_block", "part.cols, k_block"),
    k("w has the stride of a", "tile.col * part.w_row, part.w_row,", "tile.col * part.w_row, chunk.a.row,"),
    k("a of the first sample", "at<const uint16_t>(chunk.a, tile.sample, tile.row)", "at<const uint16_t>(chunk.a, 0, tile.row)"),
    k("w from the part's first column", "reinterpret_cast<const uint16_t*>(part.w) + tile.col * part.w_row", "reinterpret_cast<const uint16_t*>(part.w)"),
    k("rows of a stage collide", "((block ^ row / 2 % 4) << 4)", "((block ^ row % 4) << 4)"),
    k("a: halves of a step exchanged", "offset(first_row + i * 16 + lane % 16, step * 2 + lane / 16)", "offset(first_row + i * 16 + lane % 16, step * 2 + 1 - lane / 16)"),
    k("a: the second eight rows are the first", "first_row + i * 16 + lane % 16", "first_row + i * 16 + lane % 8"),
    k("w: fragments of two columns mixed", "w[j][1] = two[1];\n        w[j + 1][0] = two[2];", "w[j][1] = two[2];\n        w[j + 1][0] = two[1];"),
    k("w: the first half of k twice", "k_half = step * 2 + lane / 8 % 2", "k_half = step * 2"),
    k("the second step is the first", "step * 2 + lane / 16));", "lane / 16));"),
    k("warps exchange rows and columns", "first_row = warp / 2 * kWarpRows, first_col = warp % 2 * kWarpCols;", "first_row = warp % 2 * kWarpRows, first_col = warp / 2 * kWarpCols;"),
    k("sums of the row below in the row", "s[2 * below] + b.x", "s[2 * (1 - below)] + b.x"),
    k("the bias of the next column", "const float x = s[2 * below] + b.x, y = s[2 * below + 1] + b.y;", "const float x = s[2 * below] + b.y, y = s[2 * below + 1] + b.x;"),
    k("the bias overlaps the stages", "kBias = kTileBytes;", "kBias = kTileBytes - 16;"),
    k("the second pass has the first's columns", "col / (Cols / 2) == pass)", "col / (Cols / 2) == 0)"),
    k("the second pass is stored over the first", "tile.col + pass * (Cols / 2)", "tile.col"),
    k("no barrier before the second pass", "      if (pass > 0) __syncthreads();\n", ""),
    k("no barrier between staging and store", "      block.stage_sums(sums, pass);\n      __syncthreads();\n", "      block.stage_sums(sums, pass);\n"),
    k("the gate is not waited for", "*verdict = wait_for_gate(gate, tile.chunk, p.status, p.timeout_ns)", "*verdict = 1"),
    k("the verdict is read before it is there", "tile.chunk, p.status, p.timeout_ns);\n    __syncthreads();\n", "tile.chunk, p.status, p.timeout_ns);\n"),
    k("a shut gate is no reason to stop", "if (!block.is_open()) return;", "block.is_open();"),
    k("the gate of the first chunk", "p.chunks[tile.chunk].arrival", "p.chunks[0].arrival"),
    k("the launch before is not waited for", "    ptx::grid_dependency_wait();\n", ""),
    t("the ring does not close", "  if (row_tile >= p.row_tiles) row_tile -= p.row_tiles;\n", ""),
    t("the ring closes a tile late", "row_tile >= p.row_tiles)", "row_tile > p.row_tiles)"),
    t("a chunk begins a tile late", "p.chunks[i].first_tile <= row_tile", "p.chunks[i].first_tile < row_tile"),
    t("a part begins a tile early", "p.parts[i].first_tile <= col_tile", "p.parts[i].first_tile <= col_tile + 1"),
    t("samples are cut by whole tiles only", "(p.chunks[tile.chunk].rows + TileRows - 1) / TileRows", "(p.chunks[tile.chunk].rows + TileRows) / TileRows"),
    t("rows of another sample", "(in_chunk - tile.sample * a_sample) * TileRows", "in_chunk * TileRows"),
    t("columns count over parts", "(col_tile - p.parts[tile.part].first_tile) * TileCols", "col_tile * TileCols"),
    launch(&GEMM80, "16 bytes of shared memory too few"),
    launch(&GEMM80, "a warp too few"),
    launch(&GEMM80, "the last block missing"),
    e("no bias is 0 instead of -0", ": -0.0f;", ": 0.0f;").equivalent("a sum that begins at +0 is never -0"),
    e("the bias of columns past the end is read", "from != nullptr && col + i < part.cols", "from != nullptr"),
    e("the bias of the part's first column", "load_half<T>(from + col + i)", "load_half<T>(from + i)"),
    e("the gate multiplies the residual", "ptx::fma(gate[i], x[i], residual[i])", "ptx::fma(gate[i], residual[i], x[i])"),
    e("silu where gelu is meant", "x[i] = gelu(x[i]);", "x[i] = silu(x[i]);"),
    e("the residual is left out", "x[i] = residual[i] + x[i];", "x[i] = x[i];"),
    e("every tensor is aligned", "    aligned = is_aligned_16(chunk.out[part], F32 ? 4 : 2) && head_cols % kGroup == 0;", "    aligned = true;"),
    e("the residual's alignment is not asked for", "aligned = aligned && is_aligned_16(chunk.residual, 2);", "aligned = aligned && true;"),
    e("the gate's alignment is not asked for", "aligned = aligned && is_aligned_16(chunk.gate, 2);", "aligned = aligned && true;"),
    e("heads may begin within a group", " && head_cols % kGroup == 0;", ";"),
    e("the frame mask is inverted", "*at<const uint8_t>(chunk.frame, sample, row) == 0)", "*at<const uint8_t>(chunk.frame, sample, row) != 0)"),
    e("per-token gates do not move", "sample * gate.batch + row * gate.row + col", "sample * gate.batch + col"),
    e("gates of the first sample", "sample * gate.batch + row * gate.row + col", "row * gate.row + col"),
    e("the head's stride is not taken", "at<E>(chunk.out[part], sample, row, head) +", "at<E>(chunk.out[part], sample, row) +"),
    e("columns count over heads", "(col - head * head_cols)", "col"),
    e("the second four floats are the first", "{x[4], x[5], x[6], x[7]};", "{x[0], x[1], x[2], x[3]};"),
    e("a group past the last column", "if (sink.aligned && c + kGroup <= cols) sink.store", "if (sink.aligned) sink.store"),
    e("a column of the tail is lost", "cols - c < kGroup ? cols - c : kGroup)", "cols - c < kGroup ? cols - c - 1 : kGroup)"),
    e("rows past the end are stored", "if (group >= Rows * kGroups || r >= rows || c >= cols) continue;", "if (group >= Rows * kGroups || c >= cols) continue;"),
    e("residuals of the group before", "sink.prefetch(row + r, col + c, residual[i], gate[i]);", "sink.prefetch(row + r, col + c, residual[0], gate[0]);"),
    e("staged rows lie closer", "r * Staging<Cols>::kPitch + c / kGroup", "r * (Staging<Cols>::kPitch - 16) + c / kGroup"),
    e("every fourth group is left out", "first += kBatch * lanes", "first += (kBatch + 1) * lanes"),
    e("the tail's gate is the first column's", "load_half<T>(gate(row, col + i))", "load_half<T>(gate(row, col))"),
    a("sigmoid in base e", "x * -1.44269504f", "-x"),
    a("gelu without its cube", "ptx::fma(x * x, 0.044715f * kTwoRoot, kTwoRoot)", "kTwoRoot"),
    a("gelu's cube has another factor", "0.044715f", "0.04715f"),
    a("silu is a sigmoid", "return x * sigmoid(x);", "return sigmoid(x);"),
    q("the norm of the first part for all", "qkv.norm_weight[tile.part]", "qkv.norm_weight[0]"),
    q("every part turns", "qkv.turned[tile.part] ?", "true ?"),
    q("tables of the first chunk", "qkv.cos[tile.chunk]", "qkv.cos[0]"),
    q("sines have the cosines' stride", "f.sin + table_row * f.sin_row", "f.sin + table_row * f.cos_row"),
    q("the sum is not rounded before the norm's square", "add_squares(sum, low(T{}, pair), high(T{}, pair))", "add_squares(sum, low(T{}, pair), low(T{}, pair))"),
    q("weights of the next channel", "load_half<T>(weight + channel)),", "load_half<T>(weight + channel + 1)),"),
    q("no order between norm and halves", "    __syncwarp();\n#pragma unroll 2", "#pragma unroll 2"),
    q("halves: angles of the even channel", "cos[2 * i + e], sin[2 * i + e]", "cos[2 * i], sin[2 * i]"),
    q("halves: partners a pair further", "pairs[HeadDim / 4 + i]", "pairs[(HeadDim / 4 + i + 1) % (HeadDim / 2)]"),
    q("neighbours turn as halves", "if (f.halves) at", "if (!f.halves) at"),
    q("tables from the tile's first row", "in_rows < rows ? row + in_rows : row", "in_rows < rows ? in_rows : row"),
    q("tables past the end are read", "in_rows < rows ? row + in_rows : row", "row + in_rows"),
    q("eight rows past the last are left out", "item / kHeads * 8 >= rows", "item / kHeads * 8 + 8 >= rows"),
    q("the last head is left out", "head * HeadDim >= cols", "head * HeadDim + HeadDim >= cols"),
    q("a head begins at the next one", "head * HeadDim * 2), lane % 4}", "(head ^ 1) % kHeads * HeadDim * 2), lane % 4}"),
    text(&QKV, "kernels/gemm_sm80.cuh", "no barrier behind the transform", "thread % 32);\n    __syncthreads();\n", "thread % 32);\n"),
    text(&QKV, "kernels/gemm_sm80.cuh", "the transform is left out", "      transform_heads();\n", ""),
];
