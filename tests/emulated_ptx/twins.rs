//! `csrc/ptx` (inline assembly) and `csrc/emu/ptx.h` (emulation) as texts: the same functions, memory
//! clobbers where they belong, generated files up to date.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn csrc() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("csrc")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn assembly() -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(csrc().join("ptx"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "cuh" || e == "inl"))
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// `name(parameters)` of every PTX_FN, with its template line if it has one.
fn functions(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = BTreeSet::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(rest) = line.strip_prefix("PTX_FN ") else { continue };
        let mut declaration = rest.to_string();
        let mut next = i;
        while !declaration.contains('{') {
            next += 1;
            declaration.push(' ');
            declaration.push_str(lines[next].trim());
        }
        let declaration = declaration.split('{').next().unwrap().trim();
        let template = lines[..i].last().filter(|l| l.starts_with("template")).copied().unwrap_or("");
        found.insert(format!("{template} {declaration}").trim().to_string());
    }
    found
}

#[test]
fn both_twins_declare_the_same_functions() {
    let is_wgmma = |f: &String| f.contains("wgmma_ss(") || f.contains("wgmma_rs(");
    let mut ours = BTreeSet::new();
    let mut shapes = 0;
    for (_, text) in assembly() {
        for function in functions(&text) {
            if is_wgmma(&function) {
                shapes += 1;
            } else {
                ours.insert(function);
            }
        }
    }
    // The emulation has one template for all shapes, and a function that names an element type.
    let emulated: BTreeSet<String> = functions(&read(&csrc().join("emu/ptx.h")));
    let (of_wgmma, theirs): (BTreeSet<_>, BTreeSet<_>) =
        emulated.into_iter().filter(|f| !f.contains("half_of(")).partition(is_wgmma);
    assert!(ours.len() > 60, "{} functions", ours.len());
    assert_eq!(ours, theirs);
    assert_eq!(
        of_wgmma.into_iter().collect::<Vec<_>>(),
        [
            "template <int TA, int TB, class T, int D> void wgmma_ss(T type, float (&d)[D], uint64_t a, uint64_t b, int accumulate)",
            "template <int TB, class T, int D> void wgmma_rs(T type, float (&d)[D], const uint32_t (&a)[4], uint64_t b, int accumulate)",
        ]
    );
    assert_eq!(shapes, 2 * 2 * 13, "two forms, two types, the widths of wgmma_ops.py");
}

/// Instructions that read or write no memory that others see, or only what never changes.
const WITHOUT_MEMORY: [&str; 5] = ["mma.sync", "setmaxnreg", "%globaltimer", "ld.global.L1::no_allocate", "nanosleep"];

#[test]
fn memory_effects_have_a_memory_clobber() {
    let mut statements = 0;
    for (path, text) in assembly() {
        for statement in text.split("asm volatile(").skip(1) {
            let statement = &statement[..statement.find(");").unwrap()];
            statements += 1;
            let harmless = WITHOUT_MEMORY.iter().any(|name| statement.contains(name));
            assert!(harmless || statement.contains("\"memory\""), "{}: no memory clobber:{statement}", path.display());
        }
        // What is not volatile must be a function of its operands.
        for statement in text.split("asm(").skip(1) {
            let statement = &statement[..statement.find(");").unwrap()];
            let pure =
                ["cvt.", "ex2.", "lg2.", "rcp.", "sqrt.", "fma.", "max."].iter().any(|name| statement.contains(name));
            assert!(pure, "{}: neither volatile nor arithmetic:{statement}", path.display());
        }
    }
    assert!(statements > 60, "{statements} statements");
}

#[test]
fn generated_files_are_what_their_generators_write() {
    for name in ["ptx/wgmma_ops", "kernels/adaln"] {
        let generator = csrc().join(name).with_extension("py");
        let program = "import runpy, sys; sys.stdout.write(runpy.run_path(sys.argv[1])['text']())";
        let output = Command::new("python3").args(["-B", "-c", program]).arg(&generator).output().expect("python3");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let written = read(&csrc().join(name).with_extension("inl"));
        assert!(output.stdout == written.as_bytes(), "run {}", generator.display());
    }
}
