//! One text from C, C++ and Rust for the structs of a header and of its bindings: sizes, alignments,
//! offsets, constants. The list of fields is that of the bindings.
#![allow(dead_code, unreachable_pub)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a file of bindings declares.
pub struct Bindings {
    pub text: String,
    pub structs: Vec<(String, Vec<String>)>,
    pub constants: Vec<String>,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Bindings {
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap();
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
        Self { text, structs, constants }
    }

    /// One program for C and C++, where a struct is called `named(name)`.
    pub fn c_program(&self, header: &str, named: impl Fn(&str) -> String) -> String {
        let mut text = format!("#include \"{header}\"\n#include <stddef.h>\n#include <stdio.h>\n");
        for (name, _) in &self.structs {
            writeln!(text, "struct After{name} {{ char first; {} then; }};", named(name)).unwrap();
        }
        text += "int main(void) {\n";
        let mut print = |what: &str, value: String| {
            writeln!(text, "  printf(\"{what} %lld\\n\", (long long)({value}));").unwrap();
        };
        for (name, fields) in &self.structs {
            let c_name = named(name);
            print(&format!("{name} size"), format!("sizeof({c_name})"));
            print(&format!("{name} alignment"), format!("offsetof(struct After{name}, then)"));
            for field in fields {
                print(&format!("{name}.{field}"), format!("offsetof({c_name}, {field})"));
            }
        }
        for name in &self.constants {
            print(name, name.clone());
        }
        text + "  return 0;\n}\n"
    }

    pub fn rust_program(&self) -> String {
        // The derives of another crate change no layout.
        let bindings = self.text.replace(", bytemuck :: Pod, bytemuck :: Zeroable", "");
        let mut text =
            format!("use std::mem::{{align_of, offset_of, size_of}};\nmod params {{\n{bindings}\n}}\nfn main() {{\n");
        let mut print = |what: &str, value: String| {
            writeln!(text, "    println!(\"{what} {{}}\", {value} as i64);").unwrap();
        };
        for (name, fields) in &self.structs {
            print(&format!("{name} size"), format!("size_of::<params::{name}>()"));
            print(&format!("{name} alignment"), format!("align_of::<params::{name}>()"));
            for field in fields {
                print(&format!("{name}.{field}"), format!("offset_of!(params::{name}, {field})"));
            }
        }
        for name in &self.constants {
            print(name, format!("params::{name}"));
        }
        text + "}\n"
    }

    /// Compiles all three and compares what they print; returns it.
    pub fn agree(&self, folder: &str, header: &str, named: impl Fn(&str) -> String, hint: &str) -> String {
        let program = self.c_program(header, named);
        let c = output_of(folder, "layout.c", &program, &c99());
        let cpp = output_of(folder, "layout.cpp", &program, &cpp17());
        let rustc = program_named("RUSTC", "rustc");
        let rust = output_of(
            folder,
            "layout.rs",
            &self.rust_program(),
            &[rustc, "--edition=2024".into(), "-Adead_code".into()],
        );
        let fields: usize = self.structs.iter().map(|(_, fields)| fields.len()).sum();
        assert_eq!(rust.lines().count(), 2 * self.structs.len() + fields + self.constants.len());
        for (other, language) in [(&c, "C"), (&cpp, "C++")] {
            for (ours, theirs) in rust.lines().zip(other.lines()) {
                assert_eq!(ours, theirs, "Rust, {language}: {hint}");
            }
            assert_eq!(rust.lines().count(), other.lines().count());
        }
        rust
    }
}

fn strict() -> Vec<String> {
    let include = format!("-I{}", root().join("include").display());
    ["-Wall", "-Wextra", "-pedantic", "-Werror", &include].map(String::from).to_vec()
}

/// The strictest C.
pub fn c99() -> Vec<String> {
    [vec![program_named("CC", "cc"), "-std=c99".into()], strict()].concat()
}

/// The strictest C++.
pub fn cpp17() -> Vec<String> {
    [vec![program_named("CXX", "c++"), "-std=c++17".into()], strict()].concat()
}

pub fn program_named(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.into())
}

/// Compiles `program` as `name`, without a word of the compiler; `compiler` with its options.
pub fn compile(folder: &str, name: &str, program: &str, compiler: &[String]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&folder).unwrap();
    let source = folder.join(name);
    let binary = folder.join(format!("{name}.bin"));
    fs::write(&source, program).unwrap();
    let mut command = Command::new(&compiler[0]);
    command.arg("-o").arg(&binary).arg(&source).args(&compiler[1..]);
    let compiled = command.output().unwrap_or_else(|e| panic!("{}: {e}", compiler[0]));
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success() && said.is_empty(), "{command:?}\n{said}");
    binary
}

/// [`compile`], and what it prints.
pub fn output_of(folder: &str, name: &str, program: &str, compiler: &[String]) -> String {
    let binary = compile(folder, name, program, compiler);
    String::from_utf8(Command::new(binary).output().unwrap().stdout).unwrap()
}
