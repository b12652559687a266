//! QK norm with rotary embedding, copies and casts, the merge of two results, the link.

use crate::mutant::{Family, Mutant, launch, text};

pub const HEADS: Family = Family {
    name: "qk_norm_rope",
    sources: &["qk_norm_rope.cu"],
    arch: None,
    narrow: None,
    tests: &[(
        "emulated",
        &[
            "small::a_row_and_a_head_are_alone",
            "small::heads_equal_float64_in_every_schedule",
            "small::blocks_go_round",
            "small::a_dependent_launch_waits_for_the_one_before",
        ],
    )],
};
pub const PACK: Family = Family {
    name: "pack",
    sources: &["pack.cu"],
    arch: None,
    narrow: None,
    tests: &[(
        "emulated",
        &["small::copies_and_casts_equal_the_oracle", "small::a_dependent_launch_waits_for_the_one_before"],
    )],
};
pub const MERGE: Family = Family {
    name: "lse_merge",
    sources: &["lse_merge.cu", "attention_sm80.cu"],
    arch: Some("sm80"),
    narrow: None,
    tests: &[("emulated", &["small::merged_results_equal_one_result"])],
};

pub const LINK: Family = Family {
    name: "link",
    sources: &["link.cu"],
    arch: None,
    narrow: None,
    tests: &[(
        "emulated_link",
        &["a_message_lasts_as_long_as_the_link_says", "messages_share_ports_and_nothing_else", "every_wait_is_bounded"],
    )],
};

const fn h(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&HEADS, "kernels/qk_norm_rope.cuh", what, find, put)
}
const fn t(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&HEADS, "tile/qk_norm_rope.cuh", what, find, put)
}
const fn c(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&PACK, "kernels/pack.cuh", what, find, put)
}
const fn f(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&PACK, "common/storage.cuh", what, find, put)
}
const fn m(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&MERGE, "kernels/lse_merge.cuh", what, find, put)
}
const fn l(what: &'static str, find: &'static str, put: &'static str) -> Mutant {
    text(&LINK, "kernels/link.cuh", what, find, put)
}

const STAGE: &str = "staged[v] = item.active ? channels[v] : uint4{0, 0, 0, 0};\n    __syncwarp();\n";
const TURN: &str = "p.halves != 0);\n      __syncwarp();\n";

/// One on a line.
#[rustfmt::skip]
pub const MUTANTS: &[Mutant] = &[
    h("no order between staging and norm", STAGE, "staged[v] = item.active ? channels[v] : uint4{0, 0, 0, 0};\n"),
    h("no order between norm and rotation", "p.eps);\n      __syncwarp();\n", "p.eps);\n"),
    h("no order between rotation and store", TURN, "p.halves != 0);\n"),
    h("no order before the next heads", "    // The next heads overwrite these.\n    __syncwarp();\n", "").equivalent("a lane stages the vectors that it has stored itself"),
    h("the launch before is not waited for", "  ptx::grid_dependency_wait();\n", ""),
    h("lanes without a head store", "    if (item.active) {\n", "    {\n"),
    h("lanes without a head load their own", "item.active ? channels[v]", "true ? channels[v]"),
    h("a head too many", "index < head_count(p);\n  const", "index <= head_count(p);\n  const"),
    h("blocks of a warp's heads overlap", "index += gridDim.x * kHeadsOfBlock", "index += gridDim.x * kHeadsOfBlock - 1"),
    h("keys begin a head early", "const bool is_q = head < p.heads", "const bool is_q = head + 1 < p.heads"),
    h("keys count their heads with q's", "batch, row, head - p.heads)", "batch, row, head)"),
    h("keys have the weight of q", "is_q ? p.q_weight : p.k_weight", "p.q_weight"),
    h("sines follow the rows of cosines of the row before", "row * p.sin_row", "(row - (row > 0)) * p.sin_row"),
    h("the sine is the cosine", "reinterpret_cast<const float*>(p.sin) + (p.sin ? row * p.sin_row : 0)", "reinterpret_cast<const float*>(p.cos) + (p.cos ? row * p.cos_row : 0)"),
    h("the tables follow the samples", "(p.cos ? row * p.cos_row : 0)", "(p.cos ? batch * p.cos_row : 0)"),
    h("heads of a warp overlap by 16 bytes", "head_dim / 2 + 4; }", "head_dim / 2 - 4; }"),
    h("a lane takes the pairs of its neighbour's row", "quad = lane / 4, c = lane % 4", "quad = lane % 8, c = lane / 8"),
    h("halves turn the even channels only", "    turn(x, y, item.cos", "    if (false) turn(x, y, item.cos"),
    h("halves turn with the angle of the even channel", "item.cos[2 * i + 1], item.sin[2 * i + 1]", "item.cos[2 * i], item.sin[2 * i]"),
    h("halves are a word apart", "words[head_dim / 4 + i]", "words[(head_dim / 4 + i + 1) % (head_dim / 2)]"),
    h("the last quarter of the pairs is not turned", "i < head_dim / 4; i += 4", "i < head_dim / 4 - 1; i += 4"),
    h("the last pair is not turned", "word < head_dim / 2; word += 4", "word < head_dim / 2 - 1; word += 4"),
    h("the two layouts of pairs exchanged", "if (!halves) {", "if (halves) {"),
    h("the last vector is not stored", "if (item.active) {\n      for (int v = c; v < p.head_dim / 8; v += 4)", "if (item.active) {\n      for (int v = c; v < p.head_dim / 8 - 1; v += 4)"),
    h("the norm leaves the last eight channels out", "float sum = 0.0f;\n  for (int j = 0; j < head_dim / 8;", "float sum = 0.0f;\n  for (int j = 0; j < head_dim / 8 - 1;"),
    h("no turn without a norm", "if (p.cos != 0) {", "if (p.cos != 0 && item.weight != nullptr) {"),
    t("a second step of the butterfly with the first's lane", "shfl_xor(sum, 2)", "shfl_xor(sum, 1)"),
    t("no second step of the butterfly", "  sum = sum + ptx::shfl_xor(sum, 2);\n", ""),
    t("eps outside the mean", "sum / head_dim + eps", "(sum + eps) / head_dim"),
    t("the rotation goes the other way", "a * cos - b * sin, right = a * sin + b * cos", "a * cos + b * sin, right = b * cos - a * sin"),
    t("only the first of a pair is squared", "ptx::fma(y, y, ptx::fma(x, x, sum))", "ptx::fma(x, x, ptx::fma(x, x, sum))"),
    launch(&HEADS, "half the shared memory"),
    launch(&HEADS, "16 bytes of shared memory too few").equivalent("they are the padding after the last head"),
    launch(&HEADS, "a warp too few"),
    c("a unit too many", "i < count; i +=", "i <= count; i +="),
    c("the last unit is not copied", "i < count; i +=", "i + 1 < count; i +="),
    c("blocks overlap", "i += gridDim.x * kPackThreads", "i += kPackThreads"),
    c("rows and heads exchanged", "head = run % heads, row = run / heads % rows", "row = run % heads, head = run / heads % rows"),
    c("the head is not wrapped", "row = run / heads % rows,", "row = run / heads,"),
    c("the source's head is always the first", "copy.src, batch, row, head)", "copy.src, batch, row)"),
    c("every copy is the first", "p.copies[blockIdx.y]", "p.copies[0]"),
    c("the launch before is not waited for", "  ptx::grid_dependency_wait();\n", ""),
    f("a cast stores the other half of a word", "store_element(Bf16Type t, uint16_t* p, float x) { *p = static_cast<uint16_t>(pack(t, x, 0.0f))", "store_element(Bf16Type t, uint16_t* p, float x) { *p = static_cast<uint16_t>(pack(t, x, 0.0f) >> 16)"),
    f("a cast cuts instead of rounding", "store_element(Bf16Type t, uint16_t* p, float x) { *p = static_cast<uint16_t>(pack(t, x, 0.0f))", "store_element(Bf16Type, uint16_t* p, float x) { *p = static_cast<uint16_t>(ptx::float_bits(x) >> 16)"),
    f("a cast reads the other half type", "load_element(F16Type t, const uint16_t* p) { return low(t, *p)", "load_element(F16Type, const uint16_t* p) { return low(Bf16Type{}, *p)"),
    launch(&PACK, "no grid y"),
    launch(&PACK, "a warp too few"),
    m("no order between the sums and their store", "    __syncwarp();\n", ""),
    m("every lane stores the sum", "if (lane == 0) rein", "rein"),
    m("the second side's weight is the first's", "ptx::fma(wb * inverse, y[e]", "ptx::fma(wa * inverse, y[e]"),
    m("weights are not normed", "ptx::rcp(sum)", "1.0f"),
    m("the sum in base 2", "ptx::lg2(sum) * 0.693147180559945309f", "ptx::lg2(sum)"),
    m("the difference in base e", "(lse - top) * 1.44269504088896341f", "lse - top"),
    m("the larger sum is the smaller", "ptx::max_nan(a, b)", "-ptx::max_nan(-a, -b)"),
    m("a side without keys is read", "if (wb != 0.0f) widen", "widen"),
    m("empty rows are not told", "top == ptx::bits_float(0xff800000u)", "false"),
    m("the last vector is left out", "v < vectors; v += 32", "v < vectors - 1; v += 32"),
    m("the warps' next turns overlap", "i += gridDim.x * (kMergeThreads / 32)", "i += gridDim.x * (kMergeThreads / 32) + 1"),
    m("a warp too many works", "i < runs;", "i <= runs;"),
    m("sums of the sample's first head", " + head * p.lse_head + row", " + row"),
    m("sums of samples as far apart as heads", "batch * p.lse_batch", "batch * p.lse_head"),
    m("the second result is the first", "at<uint16_t>(p.out_b,", "at<uint16_t>(p.out_a,"),
    launch(&MERGE, "a warp too few"),
    l("a transfer takes no time", "later(*egress, *ingress)) + p.transfer_ns", "later(*egress, *ingress))"),
    l("the sender's port is always free", "later(*egress, *ingress)", "*ingress"),
    l("the receiver's port is always free", "later(*egress, *ingress)", "*egress"),
    l("ports that are free since long count from then", "later(ptx::global_timer_ns(), later(*egress, *ingress))", "later(*egress, *ingress)"),
    l("the sender's port is not taken", "  *egress = left;\n", ""),
    l("the receiver's port is not taken", "  *ingress = left;\n", ""),
    l("the latency takes the ports too", "later(*egress, *ingress)) + p.transfer_ns", "later(*egress, *ingress)) + p.transfer_ns + p.latency_ns"),
    l("no latency", "left + p.latency_ns", "left"),
    l("the earlier of two times", "a > b ? a : b", "a > b ? b : a"),
    l("the lock is kept", "  if (locked) ptx::st_release_sys(lock, 0);\n", ""),
    l("a lock of another is given back", "if (locked) ptx::st", "ptx::st"),
    l("the lock is waited for without end", "if (ptx::global_timer_ns() - start > timeout_ns) return false;", ""),
    l("nothing is held", "while (now < arrival && now - start < p.timeout_ns)", "if (false)"),
    l("held without end", "now < arrival && now - start < p.timeout_ns", "now < arrival"),
    l("held until the timeout", "now < arrival && now - start", "now - start"),
];
