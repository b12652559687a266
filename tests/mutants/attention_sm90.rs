//! Attention for sm_90a: TMA, wgmma, roles, gates.

use crate::mutant::{Family, Mutant, Narrow, everywhere, launch, text};

pub const SM90: Family = Family {
    name: "attention_sm90",
    sources: &["attention_sm90.cu"],
    arch: Some("sm90"),
    narrow: Some(Narrow { set: ("SEQPAR_HEAD_DIM", "72"), lines: &["ATTENTION_SM90_"], kept: "(72", tests: None }),
    tests: &[
        ("emulated", &["attention::samples_are_alone", "attention::uniform_weights_and_empty_rows"]),
        (
            "emulated",
            &[
                "attention_sm90::many_tiles_without_keys",
                "attention_sm90::many_masked_tiles",
                "attention_sm90::masks_and_shorter_segments_are_the_same",
            ],
        ),
        (
            "emulated",
            &[
                "attention::growing_scores_rescale_every_tile",
                "attention::nan_and_infinity_stay_in_their_rows",
                "attention::launches_that_carry_their_state_equal_one_launch",
            ],
        ),
        (
            "emulated",
            &[
                "attention_sm90::segments_that_arrive_in_any_order_give_the_same_bits",
                "attention_sm90::a_flag_that_is_never_set_ends_in_the_report_and_in_no_result",
                "attention_sm90::row_tiles_are_bit_equal",
                "attention_sm90::sizes_around_every_tile_edge",
            ],
        ),
        (
            "emulated",
            &[
                "attention::row_tiles_and_query_segments_change_no_bit",
                "attention::twenty_schedules_are_clean_and_equal",
                "attention::ragged_sizes_masks_segments_and_groups_equal_float64",
            ],
        ),
        ("emulated", &["attention_sm90::a_real_head_and_the_bytes_of_shared_memory"]),
    ],
};

const fn k(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM90, "kernels/attention_sm90.cuh", what, find, put)
}
const fn h(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM90, "tile/head_sm90.cuh", what, find, put)
}
const fn d(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM90, "tile/descriptor.cuh", what, find, put)
}
const fn g(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&SM90, "sched/gate.cuh", what, find, put)
}

const FIRST: &str =
    "      if (gave_up<Variant>(p.base, shared, keys, ring, lane)) return;\n      ptx::wgmma_fence();\n";
const SECOND_VALUES: &str = "        ptx::wgmma_fence();\n        issue_values";
const LAST_VALUES: &str = "      ptx::wgmma_fence();\n      issue_values";

/// One on a line.
#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    k("barriers are not fenced for TMA", "    ptx::fence_mbar_init();\n", ""),
    k("the keys' barrier expects the values' bytes", "mbar_arrive_expect_tx(full, K::kBytes)", "mbar_arrive_expect_tx(full, K::kBytes + 16)"),
    k("the values' barrier expects a block less", "mbar_arrive_expect_tx(full, V::kBytes)", "mbar_arrive_expect_tx(full, V::kBytes - V::kBlockBytes)"),
    k("the queries' barrier expects a row less", "expect_tx(shared.q_full(), Q::kBytes)", "expect_tx(shared.q_full(), Q::kBytes - 128)"),
    k("query blocks overlap", "shared.q() + block * Q::kBlockBytes", "shared.q() + block * (Q::kBlockBytes - 1024)"),
    k("the tail of the queries from the first columns", "64 * Q::kBlocks, at.first_row", "0, at.first_row"),
    k("the tail of the keys from another head", "64 * K::kBlocks, first_key, at.kv_head", "64 * K::kBlocks, first_key, at.head"),
    k("values of the query's head", "V::kRowBytes / 2 * block,\n                     first_key, at.kv_head", "V::kRowBytes / 2 * block,\n                     first_key, at.head"),
    k("keys of the first sample", "64 * block, first_key, at.kv_head,\n                     at.b);", "64 * block, first_key, at.kv_head,\n                     0);"),
    k("values of the segment before", "&p.v[segment]", "&p.v[segment > 0 ? segment - 1 : 0]"),
    k("values arrive at their full barrier when masked", "p.masked ? shared.v_landed(stage) : shared.v_full(stage)", "shared.v_full(stage)"),
    k("the loader does not wait for the keys' stage", "      mbar_wait(shared.k_empty(ring.slot), ring.parity ^ 1);\n", ""),
    k("the loader does not wait for the values' stage", "      mbar_wait(shared.v_empty(ring.slot), ring.parity ^ 1);\n", ""),
    k("the loader does not wait for the queries' room", "    mbar_wait(shared.q_empty(), q_parity ^ 1);\n", ""),
    k("the loader begins with the other parity", "mbar_wait(shared.k_empty(ring.slot), ring.parity ^ 1)", "mbar_wait(shared.k_empty(ring.slot), ring.parity)"),
    k("the queries' parity does not turn", "    mbar_wait(shared.q_empty(), q_parity ^ 1);\n    q_parity ^= 1;", "    mbar_wait(shared.q_empty(), q_parity ^ 1);"),
    k("values wait for the keys' room", "mbar_wait(shared.v_empty(ring.slot), ring.parity ^ 1)", "mbar_wait(shared.k_empty(ring.slot), ring.parity ^ 1)"),
    k("no proxy fence behind a gate", "    ptx::fence_proxy_async_global();\n", ""),
    k("one gate opens all", "(open >> segment & 1) ||", "open != 0 ||"),
    k("gates are not waited for", "|| wait_for_gate(gate, segment, p.base.status, p.base.timeout_ns)", "|| true"),
    k("the gate of the first segment", "p.base.keys[segment].gate;\n  const bool opened", "p.base.keys[0].gate;\n  const bool opened"),
    k("a shut gate is not passed on", "  *shared.failed(ring.slot) = !opened;\n", "  *shared.failed(ring.slot) = 0;\n"),
    k("a shut gate leaves the others waiting", "    ptx::mbar_arrive(shared.k_full(ring.slot));\n", ""),
    k("the masking warp does not wait for the values", "      mbar_wait(shared.v_landed(ring.slot), ring.parity);\n", ""),
    k("masked values stay", "if (!keep && row < Variant::kKeys) zero", "if (false) zero"),
    k("rows past the tile are zeroed", "if (!keep && row < Variant::kKeys) zero", "if (!keep) zero"),
    k("no proxy fence behind the zeroes", "      ptx::fence_proxy_async();\n", ""),
    k("the fence after the arrival", "      ptx::fence_proxy_async();\n      __syncwarp();\n      if (lane == 0) ptx::mbar_arrive(shared.v_full(ring.slot));\n", "      __syncwarp();\n      if (lane == 0) ptx::mbar_arrive(shared.v_full(ring.slot));\n      ptx::fence_proxy_async();\n"),
    k("no order before the masking warp's arrival", "      ptx::fence_proxy_async();\n      __syncwarp();\n", "      ptx::fence_proxy_async();\n"),
    k("every lane of the masking warp arrives", "if (lane == 0) ptx::mbar_arrive(shared.v_full(ring.slot))", "ptx::mbar_arrive(shared.v_full(ring.slot))"),
    k("the mask word is of the stage before", "shared.keep(ring.slot)[word] = bits", "shared.keep(ring.slot ^ 1)[word] = bits"),
    k("the mask of the tile's first key", "mask[(first_key + row) * s.mask_row]", "mask[row * s.mask_row]"),
    k("the masking warp keeps its share of the keys' stage", "      if (lane == 0) ptx::mbar_arrive(shared.k_empty(ring.slot));\n", ""),
    k("a key past the segment's end counts", "bool keep = row < keys.left();", "bool keep = row <= keys.left();"),
    k("the mask is read before it is there", "    mbar_wait(shared.v_full(ring.slot), ring.parity);\n#pragma unroll\n    for (int word", "#pragma unroll\n    for (int word"),
    k("the mask may be overwritten while it is read", "    // Before lane 0 gives the stage back.\n    __syncwarp();\n", ""),
    k("ragged tiles are not masked", "if (!p.masked && keys.left() >= Variant::kKeys) return;", "if (!p.masked) return;"),
    k("a tile of a key less is not masked", "keys.left() >= Variant::kKeys) return", "keys.left() >= Variant::kKeys - 1) return"),
    k("nobody waits for the queries", "    mbar_wait(shared.q_full(), q_parity);\n", ""),
    k("the first keys are not waited for", "      mbar_wait(shared.k_full(ring.slot), ring.parity);\n      if (gave_up<Variant>(p.base, shared, keys, ring, lane)) return;\n      ptx", "      if (gave_up<Variant>(p.base, shared, keys, ring, lane)) return;\n      ptx"),
    k("no fence before the first scores", FIRST, "      if (gave_up<Variant>(p.base, shared, keys, ring, lane)) return;\n"),
    k("the first scores are not committed", "      ptx::wgmma_commit();\n      ptx::wgmma_wait<0>();\n      release(shared.k_empty", "      ptx::wgmma_wait<0>();\n      release(shared.k_empty"),
    k("the first scores are not waited for", "      ptx::wgmma_wait<0>();\n      release(shared.k_empty(ring.slot));\n      mask", "      release(shared.k_empty(ring.slot));\n      mask"),
    k("keys are given back before their scores", "      ptx::wgmma_wait<0>();\n      release(shared.k_empty(ring.slot));\n      mask", "      release(shared.k_empty(ring.slot));\n      ptx::wgmma_wait<0>();\n      mask"),
    k("the scores beside the values are not waited for", "        ptx::wgmma_wait<1>();\n", ""),
    k("the scores' wait leaves two groups", "ptx::wgmma_wait<1>()", "ptx::wgmma_wait<2>()"),
    k("the values' wait leaves a group", "        ptx::wgmma_wait<0>();\n        release(shared.v_empty(done.slot));", "        ptx::wgmma_wait<1>();\n        release(shared.v_empty(done.slot));"),
    k("no fence before the values", SECOND_VALUES, "        issue_values").equivalent("the fence before the scores comes after the last change of outputs and weights"),
    k("no fence before the last values", LAST_VALUES, "      issue_values"),
    k("the values are not waited for", "        mbar_wait(shared.v_full(before.slot), before.parity);\n        ptx::wgmma_fence();", "        ptx::wgmma_fence();"),
    k("the last values are not waited for", "      release(shared.q_empty());\n      mbar_wait(shared.v_full(before.slot), before.parity);\n", "      release(shared.q_empty());\n"),
    k("values of the current tile", "shared.v(before.slot));\n        ptx::wgmma_commit();\n        turns", "shared.v(ring.slot));\n        ptx::wgmma_commit();\n        turns"),
    k("the wrong values are given back", "release(shared.v_empty(done.slot))", "release(shared.v_empty(before.slot))"),
    k("values are given back before the wait", "        ptx::wgmma_wait<0>();\n        release(shared.v_empty(done.slot));", "        release(shared.v_empty(done.slot));\n        ptx::wgmma_wait<0>();"),
    k("keys are never given back in the loop", "        release(shared.k_empty(ring.slot));\n", ""),
    k("queries are given back by all lanes", "if (lane == 0) ptx::mbar_arrive(barrier);", "ptx::mbar_arrive(barrier);"),
    k("queries are never given back", "      release(shared.q_empty());\n      mbar_wait", "      mbar_wait"),
    k("empty tiles keep their queries", "      __syncwarp();\n      release(shared.q_empty());\n", "      __syncwarp();\n"),
    k("queries are given back before all lanes have seen them", "      __syncwarp();\n      release(shared.q_empty());\n", "      release(shared.q_empty());\n"),
    k("the masking warp gives keys back before all lanes have seen them", "      __syncwarp();\n      if (lane == 0) ptx::mbar_arrive(shared.k_empty", "      if (lane == 0) ptx::mbar_arrive(shared.k_empty"),
    k("outputs are rescaled before their multiplication is done", "        ptx::wgmma_wait<0>();\n        release(shared.v_empty(done.slot));\n        rescale_rows(o, factor);", "        rescale_rows(o, factor);\n        ptx::wgmma_wait<0>();\n        release(shared.v_empty(done.slot));"),
    k("outputs are not rescaled", "        rescale_rows(o, factor);\n", ""),
    k("weights are packed while they multiply", "        ptx::wgmma_wait<0>();\n        release(shared.v_empty(done.slot));\n        rescale_rows(o, factor);\n        pack_weights(type, scores, weights);", "        pack_weights(type, scores, weights);\n        ptx::wgmma_wait<0>();\n        release(shared.v_empty(done.slot));\n        rescale_rows(o, factor);"),
    k("warpgroups share their queries", "issue_scores<kDim, kRows>(type, scores, shared.q(), 64 * group, shared.k(ring.slot));\n        ptx", "issue_scores<kDim, kRows>(type, scores, shared.q(), 0, shared.k(ring.slot));\n        ptx"),
    k("warpgroups share their rows", "tile.first_row + 64 * group + 16 * warp", "tile.first_row + 16 * warp"),
    k("nobody begins the turns", "if (kOn && group == Variant::kWarpgroups - 1) ptx::bar_arrive", "if (false) ptx::bar_arrive"),
    k("the last turn is not taken", "    if (kOn && group == 0) ptx::bar_sync(barrier(0), 256);", "").survives("the block ends with an arrival that nobody waits for: barriers end with their block, and a launch that gives up leaves one too"),
    k("turns are for one warpgroup", "ptx::bar_sync(barrier(group), 256)", "ptx::bar_sync(barrier(group), 128)"),
    k("the turns' barrier is the block's", "return 1 + group;", "return group;").equivalent("the one __syncthreads is over before the first turn"),
    k("values begin before the keys' end", "kValueOffset = K::kBytes", "kValueOffset = K::kBytes - 1024"),
    k("masks of two stages overlap", "+ stage * Variant::kKeepWords", "+ stage"),
    k("barriers of two rings overlap", "barrier(2 + 4 * Variant::kStages + stage)", "barrier(2 + 3 * Variant::kStages + stage)"),
    k("k_empty wants one warp less", "kComputeWarps + (p.masked ? 1 : 0)", "kComputeWarps - 1 + (p.masked ? 1 : 0)"),
    k("k_empty does not count the masking warp", "kComputeWarps + (p.masked ? 1 : 0)", "kComputeWarps"),
    k("shared memory begins where it is given", "(start + 1023) & ~1023u", "start"),
    everywhere(&SM90, "kernels/attention_sm90.cuh", "the last tile is left out", "index < attention_sm90_tiles(p.base)", "index < attention_sm90_tiles(p.base) - 1", 3),
    k("registers beyond the pool", "kWarpgroups == 2 ? 232", "kWarpgroups == 2 ? 240"),
    h("scores: the first step adds", "step != 0);", "1);"),
    h("scores: the k step of a whole block", "column_bytes = 32 * (step % 4)", "column_bytes = 16 * (step % 4)"),
    h("scores: swizzle of 64 bytes", "const uint64_t k = matrix_descriptor(k_tile, 16, 1024, Swizzle::k128)", "const uint64_t k = matrix_descriptor(k_tile, 16, 1024, Swizzle::k64)"),
    h("scores: stride of 512 bytes", "const uint64_t q = matrix_descriptor(q_tile + first_row * 128, 16, 1024,", "const uint64_t q = matrix_descriptor(q_tile + first_row * 128, 16, 512,"),
    h("scores: the second block of keys where the queries' is", "descriptor_at(k, block * K::kBlockBytes + column_bytes)", "descriptor_at(k, block * Q::kBlockBytes + column_bytes)"),
    h("scores: the tail begins a sum", "descriptor_at(kt, 32 * step), 1)", "descriptor_at(kt, 32 * step), 0)"),
    h("scores: the tail's second step is its first", "descriptor_at(qt, 32 * step)", "descriptor_at(qt, 0)"),
    h("scores: the tail's stride", "8 * K::kTailRowBytes, kSwizzle", "16 * K::kTailRowBytes, kSwizzle"),
    h("values: strides exchanged", "V::kBlockBytes, 8 * V::kRowBytes", "8 * V::kRowBytes, V::kBlockBytes"),
    h("values: the wrong operand transposed", "wgmma_rs<1>", "wgmma_rs<0>"),
    h("values: eight keys a step", "step * 16 * V::kRowBytes", "step * 8 * V::kRowBytes"),
    h("values: each step begins a sum", "step * 16 * V::kRowBytes), 1)", "step * 16 * V::kRowBytes), 0)"),
    h("values: swizzle of the next width", "kSwizzleOf<HeadSm90<kDim>::kValueBlock>", "kSwizzleOf<HeadSm90<kDim>::kValueBlock * 2>"),
    d("the leading offset in the stride's place", "(leading_bytes & 0x3ffff) >> 4) << 16", "(leading_bytes & 0x3ffff) >> 4) << 32"),
    d("the stride cut to 13 bits", "(stride_bytes & 0x3ffff) >> 4) << 32", "(stride_bytes & 0x3ff) >> 4) << 32"),
    d("the swizzle a bit lower", "swizzle) << 62", "swizzle) << 61"),
    d("a step counts bytes", "(bytes >> 4)", "bytes"),
    g("epochs are compared as numbers", "static_cast<int32_t>(seen - gate.epoch) < 0", "seen < gate.epoch"),
    g("only the epoch itself opens", "static_cast<int32_t>(seen - gate.epoch) < 0", "seen != gate.epoch"),
    g("an epoch early", "static_cast<int32_t>(seen - gate.epoch) < 0", "static_cast<int32_t>(seen + 1 - gate.epoch) < 0"),
    g("the flag is read once", "    seen = ptx::ld_acquire_sys(flag);\n", ""),
    g("no end of waiting", "> timeout_ns) {", "> timeout_ns && false) {"),
    g("time runs out at once", "> timeout_ns) {", "> 0) {"),
    g("nothing is reported", "      report_closed_gate(status, index, gate.epoch, seen);\n", ""),
    g("the report is given before it is written", "  report->wait = wait;\n", "  ptx::st_release_sys(&report->code, 1);\n  report->wait = wait;\n").survives("the tests read the status when the launch has ended; nobody looks between the two stores"),
    g("expected and seen exchanged", "report->expected = expected;\n  report->seen = seen;", "report->expected = seen;\n  report->seen = expected;"),
    g("the report stays claimed", "  ptx::st_release_sys(&report->code, 1);\n", ""),
    g("a later report overwrites the first", " || ptx::atom_claim_sys(&report->code, kStatusClaimed) != 0) return;", ") return;"),
    g("a gate that ran out is open", "      return false;\n", "      return true;\n"),
    launch(&SM90, "16 bytes of shared memory too few"),
    launch(&SM90, "half the shared memory"),
    launch(&SM90, "a warp too few"),
    launch(&SM90, "maps: next swizzle"),
    launch(&SM90, "maps: boxes of half the columns"),
    launch(&SM90, "maps: boxes of a row less"),
    launch(&SM90, "maps: a column less"),
    launch(&SM90, "maps: columns up to the whole block"),
    launch(&SM90, "maps: a row less"),
    launch(&SM90, "maps: a row more"),
    launch(&SM90, "maps: rows 16 bytes closer"),
    launch(&SM90, "maps: row and head strides exchanged"),
    launch(&SM90, "maps: head and sample strides exchanged"),
    launch(&SM90, "maps: 16 bytes further on"),
];
