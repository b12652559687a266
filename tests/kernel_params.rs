//! `include/seqpar_kernels.h` and its bindings `src/kernel/cuda/params.rs` say the same: a C, a C++
//! and a Rust program print the size, alignment and offsets of every struct and the value of every
//! constant, and print one text. The list of fields is taken from the bindings; a field that only
//! the header has would show in the sizes, since no struct has padding (`bytemuck::Pod`).

mod layouts;

use std::fs;

use layouts::{Bindings, root};

const BINDINGS: &str = "src/kernel/cuda/params.rs";

#[test]
fn c_cpp_and_rust_lay_the_parameters_out_alike() {
    let bindings = Bindings::read(BINDINGS);
    bindings.agree("params", "seqpar_kernels.h", str::to_string, "run scripts/bindings.sh");
}

#[test]
fn the_bindings_have_every_struct_and_constant_of_the_header() {
    let bindings = Bindings::read(BINDINGS);
    let header = fs::read_to_string(root().join("include/seqpar_kernels.h")).unwrap();
    let mut structs: Vec<&str> =
        header.lines().filter_map(|line| line.strip_prefix("typedef struct ")?.split(' ').next()).collect();
    let mut bound: Vec<&str> = bindings.structs.iter().map(|(name, _)| name.as_str()).collect();
    structs.sort();
    bound.sort();
    assert_eq!(structs, bound);
    let number = |line: &str| line.split(' ').nth(2).is_some_and(|value| value.parse::<i64>().is_ok());
    let constants = header.lines().filter(|line| line.starts_with("#define SEQPAR_") && number(line));
    let mut constants: Vec<&str> = constants.filter_map(|line| line.split(' ').nth(1)).collect();
    let mut bound: Vec<&str> = bindings.constants.iter().map(String::as_str).collect();
    constants.sort();
    bound.sort();
    assert_eq!(constants, bound);
    assert!(structs.len() > 10 && constants.len() > 5);
}
