//! The header alone, and against what is behind it.

use std::process::Command;

use seqpar::capi::status::{seqpar_features, seqpar_version};

use crate::declarations::{c_name, code, header, in_header, in_rust};
use crate::layouts::{Bindings, c99, compile, cpp17};
use crate::library::{feature_sets, library_of};
use crate::name_of;

#[test]
fn it_compiles_as_the_strictest_c_and_cpp() {
    let program = "#include \"seqpar.h\"\n#include \"seqpar.h\"\nint main(void) { return seqpar_version == 0; }\n";
    // Only compiled: nothing is linked.
    for (name, mut compiler) in [("alone.c", c99()), ("alone.cpp", cpp17())] {
        compiler.push("-c".into());
        compile("capi", name, &program.replace("seqpar_version == 0", "SEQPAR_VERSION == 0"), &compiler);
    }
}

#[test]
fn it_includes_nothing_but_two_headers_of_the_language_and_defines_no_function() {
    let text = header();
    let included: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with("#include")).collect();
    assert_eq!(included, ["#include <stddef.h>", "#include <stdint.h>"]);
    let code = code();
    assert!(!code.contains("inline") && !code.contains("static"), "a function body");
    // A brace behind a parenthesis opens a function.
    let dense: String = code.split_whitespace().collect();
    assert!(!dense.contains("){"), "a function body");
}

#[test]
fn every_declared_function_is_behind_it_with_the_same_types() {
    let (declared, behind) = (in_header(), in_rust());
    assert!(declared.len() > 25, "{} functions", declared.len());
    assert_eq!(declared, behind);
}

#[test]
#[cfg(target_os = "linux")]
fn the_library_exports_what_is_declared_and_nothing_else() {
    let declared = in_header();
    for features in feature_sets() {
        let listed = Command::new("nm").args(["-D", "--defined-only"]).arg(library_of(features)).output().unwrap();
        assert!(listed.status.success());
        let text = String::from_utf8(listed.stdout).unwrap();
        let mut exported: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        exported.sort_unstable();
        assert_eq!(exported, declared.keys().map(String::as_str).collect::<Vec<_>>(), "features {features:?}");
    }
}

#[test]
fn c_cpp_and_rust_lay_the_structs_out_alike() {
    let bindings = Bindings::read("src/capi/abi.rs");
    bindings.agree("capi", "seqpar.h", c_name, "change src/capi/abi.rs and include/seqpar.h together");
    let code = code();
    let declared: Vec<&str> = code.match_indices("typedef struct ").map(|(at, _)| &code[at..]).collect();
    let with_fields = declared.iter().filter(|text| text[..text.find(';').unwrap()].contains('{'));
    let mut in_header: Vec<String> =
        with_fields.map(|text| text.split_whitespace().nth(2).unwrap().to_string()).collect();
    let mut bound: Vec<String> = bindings.structs.iter().map(|(name, _)| c_name(name)).collect();
    in_header.sort();
    bound.sort();
    assert_eq!(in_header, bound);
    // Structs have as many fields here as there: none is hidden in padding.
    for (name, fields) in &bindings.structs {
        let at = code.find(&format!("typedef struct {} {{", c_name(name))).unwrap();
        let body = &code[at..at + code[at..].find('}').unwrap()];
        assert_eq!(body.matches(';').count(), fields.len(), "{name}");
    }
}

#[test]
fn constants_versions_and_names_agree() {
    let text = header();
    let number = |name: &str| -> i32 {
        let line = text.lines().find(|line| line.starts_with(&format!("#define {name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let [major, minor, patch] = ["MAJOR", "MINOR", "PATCH"].map(|part| number(&format!("SEQPAR_VERSION_{part}")));
    assert_eq!(format!("{major}.{minor}.{patch}"), env!("CARGO_PKG_VERSION"));
    assert_eq!(seqpar_version(), major * 10000 + minor * 100 + patch);
    let code = code();
    let statuses = code.split("enum {").find(|part| part.contains("SEQPAR_OK")).unwrap().split('}').next().unwrap();
    let mut count = 0;
    for pair in statuses.split(',') {
        let (name, value) = pair.split_once('=').unwrap();
        assert_eq!(name_of(value.trim().parse().unwrap()), name.trim());
        count += 1;
    }
    assert_eq!((name_of(count), name_of(-1)), ("unknown", "unknown"));
    let features = [cfg!(feature = "cuda"), cfg!(feature = "kernels"), cfg!(feature = "nccl")];
    assert_eq!(seqpar_features(), features.iter().enumerate().map(|(i, on)| i32::from(*on) << i).sum::<i32>());
}
