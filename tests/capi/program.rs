//! `program.c`, compiled as C99 and linked with the library.

use std::fs;
use std::process::Command;

use crate::layouts::{c99, compile, root};
use crate::library::library;

#[test]
fn a_c_program_gets_attention_and_the_same_bits_by_plans() {
    let folder = library().parent().unwrap().display().to_string();
    let mut compiler = c99();
    compiler.extend([format!("-L{folder}"), "-lseqpar".into(), format!("-Wl,-rpath,{folder}"), "-lm".into()]);
    let source = fs::read_to_string(root().join("tests/capi/program.c")).unwrap();
    let run = Command::new(compile("capi", "program.c", &source, &compiler)).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(
        String::from_utf8(run.stdout).unwrap(),
        "error small\nplan of one rank: same bits\nplans of three ranks: same bits\n"
    );
}
