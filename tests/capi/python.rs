//! The PyTorch example: its structs and functions are those of the header, and it computes on plain
//! memory. No torch is needed; `examples/pytorch/compare.py` is for machines that have it.

use std::process::Command;

use crate::declarations::{c_name, in_header};
use crate::layouts::{Bindings, root};
use crate::library::library;

#[test]
fn the_example_declares_what_the_header_does_and_computes() {
    let run = Command::new("python3")
        .arg(root().join("tests/capi/memory.py"))
        .args([&root().join("examples/pytorch"), library()])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said = String::from_utf8(run.stdout).unwrap();
    let bindings = Bindings::read("src/capi/abi.rs");
    let layout = bindings.agree("capi-python", "seqpar.h", c_name, "run the header's own test");
    let (mut structs, mut functions, mut results) = (0, 0, Vec::new());
    let declared = in_header();
    for line in said.lines() {
        if line.starts_with("seqpar_") {
            let (name, types) = line.split_once('(').unwrap();
            let wanted: Vec<String> = arguments(&declared[name]).map(|t| word(&bindings, &t)).collect();
            assert_eq!(types.trim_end_matches(')'), wanted.join(", "), "{name}");
            functions += 1;
        } else if line.contains(": ") {
            results.push(line);
        } else {
            assert!(layout.lines().any(|of| of == line), "{line}: not so in the header");
            structs += usize::from(line.contains(" size "));
        }
    }
    assert!(structs > 12 && functions > 18, "{structs} structs, {functions} functions");
    assert_eq!(
        results,
        ["attention: right", "adaLN: same bits", "rope: right", "ranks: same bits", "refused: SEQPAR_INVALID_SHARD"]
    );
}

#[test]
fn the_comparison_with_torch_is_python() {
    let code = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
    let run = Command::new("python3").args(["-c", code]).arg(root().join("examples/pytorch/compare.py")).output();
    assert!(run.unwrap().status.success());
}

/// The types of `(type, type) -> type`.
fn arguments(signature: &str) -> impl Iterator<Item = String> + '_ {
    let inner = signature.split_once(") -> ").unwrap().0.trim_start_matches('(');
    inner.split(", ").filter(|t| !t.is_empty()).map(String::from)
}

/// As the Python program says it: pointers to structs by name, all others alike.
fn word(bindings: &Bindings, c_type: &str) -> String {
    let Some(of) = c_type.strip_suffix('*') else { return c_type.to_string() };
    let of = of.trim_start_matches("const ");
    let known = bindings.structs.iter().find(|(name, _)| c_name(name) == of);
    known.map_or("void*".into(), |(name, _)| format!("{name}*"))
}
