//! `include/seqpar_kernels.h` and its bindings `src/kernel/cuda/params.rs` say the same: a C, a C++
//! and a Rust program print the size, alignment and offsets of every struct and the value of every
//! constant, and print one text. The list of fields is taken from the bindings; a field that only
//! the header has would show in the sizes, since no struct has padding (`bytemuck::Pod`).

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the bindings declare.
struct Bindings {
    text: String,
    structs: Vec<(String, Vec<String>)>,
    constants: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn bindings() -> Bindings {
    let text = fs::read_to_string(root().join("src/kernel/cuda/params.rs")).unwrap();
    let (mut structs, mut constants) = (Vec::<(String, Vec<String>)>::new(), Vec::new());
    for line in text.lines() {
        let Some(item) = line.trim().strip_prefix("pub ") else { continue };
        let name = |rest: &str| rest.split([':', ' ']).next().unwrap_or("").to_string();
        if let Some(rest) = item.strip_prefix("struct ") {
            structs.push((name(rest), Vec::new()));
        } else if let Some(rest) = item.strip_prefix("const ") {
            constants.push(name(rest));
        } else {
            structs.last_mut().unwrap().1.push(name(item));
        }
    }
    Bindings { text, structs, constants }
}

/// One program for C and C++.
fn c_program(bindings: &Bindings) -> String {
    let mut text = String::from("#include \"seqpar_kernels.h\"\n#include <stddef.h>\n#include <stdio.h>\n");
    for (name, _) in &bindings.structs {
        writeln!(text, "struct After{name} {{ char first; {name} then; }};").unwrap();
    }
    text += "int main(void) {\n";
    let mut print = |what: &str, value: String| {
        writeln!(text, "  printf(\"{what} %lld\\n\", (long long)({value}));").unwrap();
    };
    for (name, fields) in &bindings.structs {
        print(&format!("{name} size"), format!("sizeof({name})"));
        print(&format!("{name} alignment"), format!("offsetof(struct After{name}, then)"));
        for field in fields {
            print(&format!("{name}.{field}"), format!("offsetof({name}, {field})"));
        }
    }
    for name in &bindings.constants {
        print(name, name.clone());
    }
    text + "  return 0;\n}\n"
}

fn rust_program(bindings: &Bindings) -> String {
    // The derives of another crate change no layout.
    let params = bindings.text.replace(", bytemuck :: Pod, bytemuck :: Zeroable", "");
    let mut text =
        format!("use std::mem::{{align_of, offset_of, size_of}};\nmod params {{\n{params}\n}}\nfn main() {{\n");
    let mut print = |what: &str, value: String| {
        writeln!(text, "    println!(\"{what} {{}}\", {value} as i64);").unwrap();
    };
    for (name, fields) in &bindings.structs {
        print(&format!("{name} size"), format!("size_of::<params::{name}>()"));
        print(&format!("{name} alignment"), format!("align_of::<params::{name}>()"));
        for field in fields {
            print(&format!("{name}.{field}"), format!("offset_of!(params::{name}, {field})"));
        }
    }
    for name in &bindings.constants {
        print(name, format!("params::{name}"));
    }
    text + "}\n"
}

/// Compiles `program` as `name` and returns what it prints.
fn output_of(name: &str, program: &str, compiler: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("params");
    fs::create_dir_all(&folder).unwrap();
    let source = folder.join(name);
    let binary: PathBuf = folder.join(format!("{name}.bin"));
    fs::write(&source, program).unwrap();
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).arg("-o").arg(&binary).arg(&source);
    let compiled = command.output().unwrap_or_else(|e| panic!("{}: {e}", compiler[0]));
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success() && said.is_empty(), "{command:?}\n{said}");
    String::from_utf8(Command::new(binary).output().unwrap().stdout).unwrap()
}

fn program_named(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.into())
}

#[test]
fn c_cpp_and_rust_lay_the_parameters_out_alike() {
    let bindings = bindings();
    let include = format!("-I{}", root().join("include").display());
    let strict = ["-Wall", "-Wextra", "-pedantic", "-Werror", include.as_str()];
    let (cc, cxx) = (program_named("CC", "cc"), program_named("CXX", "c++"));
    let program = c_program(&bindings);
    let c = output_of("layout.c", &program, &[[cc.as_str(), "-std=c99"].as_slice(), &strict].concat());
    let cpp = output_of("layout.cpp", &program, &[[cxx.as_str(), "-std=c++17"].as_slice(), &strict].concat());
    let rustc = program_named("RUSTC", "rustc");
    let rust = output_of("layout.rs", &rust_program(&bindings), &[&rustc, "--edition=2024", "-Adead_code"]);
    let fields: usize = bindings.structs.iter().map(|(_, fields)| fields.len()).sum();
    assert_eq!(rust.lines().count(), 2 * bindings.structs.len() + fields + bindings.constants.len());
    for (other, language) in [(&c, "C"), (&cpp, "C++")] {
        for (ours, theirs) in rust.lines().zip(other.lines()) {
            assert_eq!(ours, theirs, "Rust, {language}: run scripts/bindings.sh");
        }
        assert_eq!(rust.lines().count(), other.lines().count());
    }
}

#[test]
fn the_bindings_have_every_struct_and_constant_of_the_header() {
    let bindings = bindings();
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
