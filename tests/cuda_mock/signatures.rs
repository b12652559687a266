//! The mock's functions have the signatures of the real driver's: those by which cudarc calls
//! them and, where `SEQPAR_CUDA_INCLUDE` names a folder with cuda.h (the PyPI package
//! nvidia-cuda-runtime has one), those of CUDA itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::emulation::compile::compiler;

fn driver() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock/driver")
}

/// Name and parameter types of each declaration in functions.h, as Rust writes them.
fn declared() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(driver().join("functions.h")).unwrap();
    let declarations = text.lines().filter_map(|line| line.strip_prefix("CUresult ")?.strip_suffix(");"));
    let parsed = declarations.map(|declaration| {
        let (name, params) = declaration.split_once('(').unwrap();
        let params = params.split(", ").filter(|param| *param != "void").map(rust_type).collect();
        (name.to_string(), params)
    });
    parsed.collect()
}

/// `const char** text` is `*mut *const c_char`.
fn rust_type(param: &str) -> String {
    let end = param.rfind([' ', '*']).unwrap() + 1;
    let (base, constant) = match param[..end].trim().strip_prefix("const ") {
        Some(rest) => (rest, true),
        None => (param[..end].trim(), false),
    };
    let pointers = base.matches('*').count();
    let name = match base.trim_end_matches('*') {
        "int" => "c_int",
        "unsigned int" => "c_uint",
        "unsigned char" => "c_uchar",
        "unsigned long long" => "c_ulonglong",
        "char" => "c_char",
        "void" => "c_void",
        "float" => "f32",
        "size_t" => "usize",
        other => other,
    };
    let inner = if constant { "*const " } else { "*mut " };
    match pointers {
        0 => name.to_string(),
        n => format!("{}{inner}{name}", "*mut ".repeat(n - 1)),
    }
}

/// The sources of cudarc that this crate is built with.
fn cudarc() -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let arguments = ["metadata", "--format-version=1", "--offline", "--features=cuda"];
    let output = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = metadata["packages"].as_array().unwrap().iter().find(|p| p["name"] == "cudarc").unwrap();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    fs::read_to_string(manifest.with_file_name("src/driver/sys/mod.rs")).unwrap()
}

#[test]
fn cudarc_calls_every_function_as_the_mock_declares_it() {
    let cudarc = cudarc();
    let declared = declared();
    assert!(declared.len() >= 60, "only {} declarations", declared.len());
    for (name, params) in declared {
        // One definition for each range of CUDA versions.
        let head = format!("pub unsafe fn {name}(");
        let definitions: Vec<Vec<String>> = cudarc
            .match_indices(&head)
            .map(|(at, _)| {
                let rest = &cudarc[at + head.len()..];
                let params = rest[..rest.find(") -> CUresult").unwrap()].replace("::core::ffi::", "");
                params.split(", ").filter_map(|param| Some(param.split_once(": ")?.1.to_string())).collect()
            })
            .collect();
        assert!(definitions.contains(&params), "{name}: the mock has {params:?}, cudarc {definitions:?}");
    }
}

#[test]
fn cuda_declares_every_function_as_the_mock_does() {
    let Some(include) = std::env::var_os("SEQPAR_CUDA_INCLUDE") else {
        eprintln!("skipped: SEQPAR_CUDA_INCLUDE names no folder with cuda.h");
        return;
    };
    // A function that cuda.h lacks cannot be named; one that it declares otherwise conflicts.
    let named: String = declared().iter().map(|(name, _)| format!("static auto* of_{name} = &{name};\n")).collect();
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_signatures.cpp");
    fs::write(&source, format!("#include <cuda.h>\n{named}#include \"functions.h\"\n")).unwrap();
    let mut sources = vec![source];
    let cpp = |path: &PathBuf| path.extension().is_some_and(|e| e == "cpp");
    sources.extend(fs::read_dir(driver()).unwrap().map(|entry| entry.unwrap().path()).filter(cpp));
    for source in sources {
        let output = Command::new(compiler())
            .args(["-std=c++17", "-fsyntax-only", "-DMOCK_CUDA_H", "-I"])
            .arg(&include)
            .arg("-I")
            .arg(driver())
            .arg(&source)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
}
