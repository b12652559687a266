//! Dumps are stable: a golden text, JSON that a parser reads, a hash that tells plans apart.
//!
//! After a wanted change: `UPDATE_GOLDEN=1 cargo test --test plan_dump`, and read the diff.

use seqpar::dtype::Dtype::F32;
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel, Pack};
use seqpar::plan::*;

/// Rank 0 of 2: its rows travel to the other rank, and one gated projection reads both.
fn gathered() -> Checked<Plan> {
    let mut b = Builder::new(0, 2);
    let (main, comm) = (b.stream("main"), b.stream("comm"));
    let rows = [1, 4, 1, 8];
    let x = b.buffer("x", Role::Input, F32, rows, None);
    let w = b.buffer("w", Role::Input, F32, [1, 8, 1, 8], None);
    let y = b.buffer("y", Role::Output, F32, [2, 4, 1, 8], None);
    let slots = b.temp("slots", F32, [2, 4, 1, 8]);
    let slot = |r: usize| slots.samples(r..r + 1);
    let pack = Kernel::Pack(Pack { src_dtype: F32, dst_dtype: F32, copies: vec![rows] });
    b.kernel(main, "norm", pack, &[vec![x], vec![slot(0)]]);
    let tag = b.tag();
    let transfers = [(Direction::Send, 1, slot(0)), (Direction::Recv, 1, slot(1))];
    let gather = b.comm(comm, "gather \"x\"", CommKind::AllGather, tag, &[0, 1], F32, &transfers);
    let out = |r: usize| vec![y.samples(r..r + 1)];
    let project = Gemm { chunks: vec![4, 4], ..Gemm::linear(F32, 1, 4, 8, 8, false, Epilogue::None) };
    let operands = [vec![w], vec![slot(0)], out(0), vec![slot(1).gated(gather)], out(1)];
    b.kernel(main, "project", Kernel::Gemm(project), &operands);
    b.mark(comm, "end");
    check(b.finish()).unwrap()
}

#[test]
fn the_text_is_stable() {
    golden("gathered.txt", &dump::text(&gathered()));
}

#[test]
fn the_json_is_stable_and_parses() {
    let text = dump::json(&gathered());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["ops"][1]["label"], "gather \"x\"");
    assert_eq!(json["ops"][1]["kind"], "all-gather");
    assert_eq!(json["ops"][1]["bytes_sent"], 128);
    assert_eq!(json["ops"][2]["kernel"], "gemm_f32");
    assert_eq!(json["ops"][2]["reads"][1], "slots[0:1, :, :, :]");
    assert_eq!(json["edges"][2], serde_json::json!([1, 2, "gate"]));
    assert_eq!((&json["waits"], &json["records"]), (&2.into(), &2.into()));
    assert_eq!(json["peak_bytes"], 4 * (32 + 64 + 64 + 64));
    golden("gathered.json", &text);
}

#[test]
fn the_hash_tells_plans_apart() {
    let plan = gathered().into_inner();
    assert_eq!(dump::hash(&plan), dump::hash(&plan.clone()));
    let mut other = plan.clone();
    other.accesses[1].region.end[1] -= 1;
    assert_ne!(dump::hash(&plan), dump::hash(&other));
}

#[test]
fn json_escapes_what_it_must() {
    let mut out = seqpar::json::Writer::new();
    let nasty = "a\"b\\c\nd\te\r\u{1}é";
    out.begin_object().key(nasty).string(nasty).key("n").number(f64::NAN).key("x").number(1e-300);
    out.key("list").begin_array().integer(-3).begin_object().end_object().boolean(true).end_array().end_object();
    let json: serde_json::Value = serde_json::from_str(&out.finish()).unwrap();
    assert_eq!(json, serde_json::json!({ nasty: nasty, "n": null, "x": 1e-300, "list": [-3, {}, true] }));
}

fn golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "{name} has changed");
}
