//! Attention for sm_80, and what it shares with sm_90a: the softmax, rows, key tiles.

use crate::mutant::{Family, Mutant, Narrow, everywhere, launch, text};

pub const SM80: Family = Family {
    name: "attention_sm80",
    sources: &["attention_sm80.cu"],
    arch: Some("sm80"),
    narrow: Some(Narrow { set: ("SEQPAR_HEAD_DIM", "72"), lines: &["ATTENTION_SM80_DIM("], kept: "(72", tests: None }),
    tests: &[(
        "emulated",
        &[
            "attention::samples_are_alone",
            "attention::uniform_weights_and_empty_rows",
            "attention::growing_scores_rescale_every_tile",
            "attention::nan_and_infinity_stay_in_their_rows",
            "attention::launches_that_carry_their_state_equal_one_launch",
            "attention::row_tiles_and_query_segments_change_no_bit",
            "attention::twenty_schedules_are_clean_and_equal",
            "attention::ragged_sizes_masks_segments_and_groups_equal_float64",
            "attention::flash_attentions_rule_and_a_real_head",
        ],
    )],
};

const fn k(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM80, "kernels/attention_sm80.cuh", what, find, put)
}
const fn s(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM80, "tile/online_softmax.cuh", what, find, put)
}
const fn r(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM80, "tile/attention_rows.cuh", what, find, put)
}
const fn q(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM80, "tile/quad.cuh", what, find, put)
}
const fn t(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM80, "sched/key_tiles.cuh", what, find, put)
}

const KEYS_THERE: &str = "    ptx::cp_async_wait<0>();\n    __syncthreads();  // keys";
const VALUES_THERE: &str = "    ptx::cp_async_wait<0>();\n    __syncthreads();  // values";

/// One on a line.
#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    k("the keys are not waited for", KEYS_THERE, "    __syncthreads();  // keys"),
    k("the wait for the keys leaves a group", KEYS_THERE, "    ptx::cp_async_wait<1>();\n    __syncthreads();  // keys"),
    k("no barrier behind the keys", KEYS_THERE, "    ptx::cp_async_wait<0>();  // keys"),
    k("the barrier before the wait for the keys", KEYS_THERE, "    __syncthreads();\n    ptx::cp_async_wait<0>();  // keys"),
    k("the values are not waited for", VALUES_THERE, "    __syncthreads();  // values"),
    k("the wait for the values leaves a group", VALUES_THERE, "    ptx::cp_async_wait<1>();\n    __syncthreads();  // values"),
    k("no barrier behind the values", VALUES_THERE, "    ptx::cp_async_wait<0>();  // values"),
    k("keys are not committed", "[&](int row) { return row < left; });\n  ptx::cp_async_commit();", "[&](int row) { return row < left; });").equivalent("every wait is for all groups, and the values' commit takes the keys' copies before the next one"),
    k("keys past the end are read", "return row < left; }", "return true; }"),
    k("a key past the end is read", "return row < left; }", "return row <= left; }"),
    k("queries past the end are read", "tile.first_row + row < queries.rows", "true"),
    k("columns past head_dim are read", "8 * unit < p.head_dim && counts(row)", "counts(row)"),
    k("what does not count is not zero", "there ? 16 : 0", "16"),
    k("copies skip the last row", "i < kCount * kUnits;", "i < kCount * kUnits - kUnits;"),
    k("units of a row reversed", "+ unit * 16, there", "+ (kUnits - 1 - unit) * 16, there"),
    k("values of masked keys stay", "if (s.mask == 0) return true;", "return true;"),
    k("the mask of the tile before", "mask[(keys.tile * Variant::kKeys + row)", "mask[((keys.tile > 0 ? keys.tile - 1 : 0) * Variant::kKeys + row)"),
    k("the mask of the first sample", "reinterpret_cast<const uint8_t*>(s.mask) + b * s.mask_batch", "reinterpret_cast<const uint8_t*>(s.mask)"),
    k("the mask word of another lane order", "32 * word + lane));", "32 * word + (lane ^ 1)));"),
    k("ragged tiles are not masked", "now.left() < Variant::kKeys || ", ""),
    k("masked whole tiles are not masked", " || p.keys[now.segment].mask != 0;", ";"),
    k("the keys' buffer is the values'", "kValueOffset = kKeyOffset + kKeys * kRowBytes", "kValueOffset = kKeyOffset"),
    k("mask words overlap the values", "kKeepOffset = kValueOffset + kKeys * kRowBytes", "kKeepOffset = kValueOffset + kKeys * kRowBytes - 4"),
    k("queries: halves of a step exchanged", "step * 32 + lane / 16 * 16);", "step * 32 + (1 - lane / 16) * 16);"),
    k("keys: the second eight rows are the first", "(8 * j + lane % 8 + lane / 16 * 8) * kPitch", "(8 * j + lane % 8) * kPitch"),
    k("keys: fragments interleaved", "const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};\n#pragma unroll\n      for (int t = 0; t < Variant::kTiles; ++t) {\n        mma_16816(type, quad_tile(scores", "const uint32_t left[2] = {b[0], b[2]}, right[2] = {b[1], b[3]};\n#pragma unroll\n      for (int t = 0; t < Variant::kTiles; ++t) {\n        mma_16816(type, quad_tile(scores"),
    k("d 72: no last eight columns", "if constexpr (Variant::kDim % 16 == 8) {", "if constexpr (false) {"),
    k("d 72: the last columns from one step before", "kColumn = Variant::kDim / 16 * 32;", "kColumn = Variant::kDim / 16 * 32 - 32;"),
    k("d 72: no last eight outputs", "if constexpr (N / 4 % 2 == 1) {", "if constexpr (false) {"),
    k("values not transposed", "ldmatrix_x4_trans(b, rows", "ldmatrix_x4(b, rows"),
    k("values: rows of the first step", "v + (16 * step + lane % 16)", "v + (lane % 16)"),
    k("the second row tile has the first's queries", "a[t], q + (16 * t + lane % 16) * kPitch + step", "a[t], q + (lane % 16) * kPitch + step"),
    k("warps share their queries", "shared + warp * 16 * Variant::kTiles * Variant::kRowBytes", "shared"),
    k("the group of heads is one too many", "/ p.group - p.first_kv_head", "/ p.group - p.first_kv_head + (p.group > 1 && tile.head == p.group - 1)"),
    k("first_head is forgotten", "(p.first_head + tile.head) / p.group", "tile.head / p.group + p.first_kv_head"),
    k("a query segment too early", "first_tile <= row_tile) ++", "first_tile <= row_tile + 1) ++"),
    k("row tiles count from the launch", "(row_tile - p.queries[tile.segment].first_tile) * Variant::kRows", "row_tile * Variant::kRows"),
    k("sums are never folded at a segment", "if (now.enters_segment()) fold_sums(state[t], q);", ""),
    k("the carried sums are not folded", "      fold_sums(state[t], q);\n      store_state", "      store_state"),
    k("the next segment's first tile is skipped", "more = keys.next(p, tile.b);\n    if (more) {\n      if (keys", "more = keys.next(p, tile.b) && (keys.tile > 0 || keys.next(p, tile.b));\n    if (more) {\n      if (keys"),
    k("outputs are not rescaled", "      rescale_rows(o[t], factor);\n", ""),
    s("a lane's sum is a pair short", "even_sum + odd_sum", "even_sum"),
    s("sums are not rescaled", "ptx::fma(state.l[h], factor[h], even_sum + odd_sum)", "state.l[h] + even_sum + odd_sum"),
    s("the maximum begins anew each tile", "ptx::max(before, quad_max(ptx::max(even, odd)) * scale_log2)", "quad_max(ptx::max(even, odd)) * scale_log2"),
    s("the maximum of the even columns only", "ptx::max(even, odd)) * scale", "even) * scale"),
    s("rows without keys have a shift of -inf", "after == negative_infinity() ? 0.0f : after", "after"),
    s("the factor in the other direction", "ptx::ex2(before - shift)", "ptx::ex2(shift - before)"),
    s("the factor is of the next row", "factor[h] = before == after ? 1.0f", "factor[1 - h] = before == after ? 1.0f"),
    s("the rows' factors exchanged", "o[4 * j + 2 * h] = o[4 * j + 2 * h] * factor[h];", "o[4 * j + 2 * h] = o[4 * j + 2 * h] * factor[1 - h];"),
    s("a warp rescales by its first row alone", "factor[0] != 1.0f || factor[1] != 1.0f", "factor[0] != 1.0f"),
    s("the mask's bits are inverted", "mine & 1 ? scores[4 * j + 2 * h] : negative_infinity()", "mine & 1 ? negative_infinity() : scores[4 * j + 2 * h]"),
    s("the mask of one block for all", "keep[j / 4] >> (8 * (j % 4) + 2 * q)", "keep[j / 4] >> (2 * q)"),
    s("masked scores are added to", "mine & 2 ? scores[4 * j + 2 * h + 1] : negative_infinity()", "scores[4 * j + 2 * h + 1] + (mine & 2 ? 0.0f : negative_infinity())"),
    s("weights packed in the accumulator's order", "weights[8 * kk + 2 * e], weights[8 * kk + 2 * e + 1]", "weights[8 * kk + e], weights[8 * kk + e + 4]"),
    s("the folded sum stays in every lane", "q == 0 ? sum : 0.0f", "sum"),
    s("scores scaled after the shift", "ptx::fma(a, scale_log2, -shift)", "(a - shift) * scale_log2"),
    r("lse in base 2", "* 0.693147180559945309f", ""),
    r("lse without the maximum", "(state.m[h] + ptx::lg2(l))", "(ptx::lg2(l))"),
    r("rows without keys give NaN", "empty ? 0.0f : ptx::rcp(l)", "ptx::rcp(l)"),
    r("rows without keys have a log-sum-exp", "empty ? negative_infinity() : log", "log").equivalent("m and log2(0) are -inf, and so is their sum"),
    r("the second row is nine below", "const int row = rows.first + lane / 4 + 8 * h;\n    const float l", "const int row = rows.first + lane / 4 + 9 * h;\n    const float l"),
    r("columns past head_dim are stored", "row < s.rows && column < p.head_dim", "row < s.rows"),
    r("columns of the next lane", "32 * group + 8 * q;", "32 * group + 8 * (q ^ 1);"),
    r("outputs of row and head strides mixed", "at<uint16_t>(s.out, rows.b, row, rows.head)", "at<uint16_t>(s.out, rows.b, rows.head, row)"),
    r("the log-sum-exp of a row past the end", "q == 0 && row < s.rows", "q == 0"),
    r("carried outputs of the first head", "at<float>(s.o, rows.b, row, rows.head);\n#pragma unroll\n    for (int j = 0; j < N / 4; ++j) {\n      if (8 * j >= p.head_dim)", "at<float>(s.o, rows.b, row, 0);\n#pragma unroll\n    for (int j = 0; j < N / 4; ++j) {\n      if (8 * j >= p.head_dim)"),
    r("the carried sum in every lane", "    if (q == 0) {\n      state.m[h] =", "    {\n      state.m[h] ="),
    r("the carried maximum in one lane", "state.m[h] = quad_max(state.m[h]);", "{}"),
    everywhere(&SM80, "tile/attention_rows.cuh", "carried maxima and sums exchanged", "row_scalar(s.m, s.m_batch, s.m_head, rows, row)", "row_scalar(s.l, s.l_batch, s.l_head, rows, row)", 2),
    q("the maximum of two lanes", "return ptx::max(x, ptx::shfl_xor(x, 2));", "return x;"),
    q("the sum of two lanes", "return x + ptx::shfl_xor(x, 2);", "return x;"),
    q("the transposition gives the wrong word", "upper ? words[low] : words[high];", "upper ? words[high] : words[low];"),
    t("a tile past the segment's end", "tile * kKeys < keys) return", "tile * kKeys <= keys) return").equivalent("a tile without keys changes no bit"),
    t("the last tile is left out", "tile * kKeys < keys) return", "(tile + 1) * kKeys <= keys) return"),
    t("key lengths are not cut by the base", " - s.base;", ";"),
    t("key lengths of the other stream", "s.stream * p.key_len_row", "(1 - s.stream) * p.key_len_row"),
    t("key lengths of the first sample", "lengths[b * p.key_len_batch", "lengths[0 * p.key_len_batch"),
    t("key lengths lengthen", "left < keys ? left : keys", "left"),
    t("segments without keys are a tile", "} while (keys == 0);", "} while (false);").equivalent("a tile without keys changes no bit"),
    t("the tile goes on over segments", "    tile = 0;\n    do {", "    do {"),
    launch(&SM80, "16 bytes of shared memory too few"),
    launch(&SM80, "a warp too few"),
    launch(&SM80, "a warp too many"),
    launch(&SM80, "the last block missing"),
    launch(&SM80, "grid y and z exchanged"),
    launch(&SM80, "no grid y"),
];
