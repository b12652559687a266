//! The mock's functions, types and numbers are those of the real nccl.h: of the wheel that
//! `scripts/nccl_wheel.sh` unpacks under `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::emulation::compile::compiler;

fn mock() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock/nccl")
}

/// All that nccl.h takes from CUDA: names of headers, one type.
fn stubs(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in ["cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h"] {
        fs::write(folder.join(name), "").unwrap();
    }
    let runtime = "#include <stddef.h>\n#define CUDART_VERSION 13000\ntypedef struct CUstream_st* cudaStream_t;\n";
    fs::write(folder.join("cuda_runtime.h"), runtime).unwrap();
}

#[test]
fn nccl_declares_every_function_as_the_mock_does() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nccl_wheel.sh");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let include = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("include");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nccl_signatures");
    stubs(&folder);
    // A function that nccl.h lacks cannot be named; one that it declares otherwise conflicts.
    let text = fs::read_to_string(mock().join("functions.h")).unwrap();
    let declarations = text.lines().filter_map(|line| line.strip_suffix(");")?.split_once('('));
    let names: Vec<&str> = declarations.map(|(head, _)| head.rsplit([' ', '*']).next().unwrap()).collect();
    assert!(names.len() >= 30, "only {} declarations", names.len());
    let named: String = names.iter().map(|name| format!("static auto* of_{name} = &{name};\n")).collect();
    let source = folder.join("signatures.cpp");
    fs::write(&source, format!("#include <nccl.h>\n{named}#include \"functions.h\"\n")).unwrap();
    let mut sources = vec![source];
    let cpp = |path: &PathBuf| path.extension().is_some_and(|e| e == "cpp");
    sources.extend(fs::read_dir(mock()).unwrap().map(|entry| entry.unwrap().path()).filter(cpp));
    for source in sources {
        let output = Command::new(compiler())
            .args(["-std=c++17", "-fsyntax-only", "-DMOCK_NCCL_H", "-I"])
            .arg(&folder)
            .arg("-I")
            .arg(&include)
            .arg("-I")
            .arg(mock())
            .arg(&source)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
}
