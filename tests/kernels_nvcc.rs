//! Every kernel assembled by the real compiler, under the gates of `build/ptxas.rs`: no spills, no
//! note or warning, the figures of `csrc/ptxas.txt`. The compiler is the one that `NVCC` names, else
//! the wheels of `scripts/cuda_wheels.sh`, installed under `target/`. Results are kept by content
//! under `target/tmp/nvcc`; the newest of each family is linked as `FAMILY.fatbin` for `scripts/sass.sh`.
#![cfg(target_os = "linux")]

#[allow(dead_code, unreachable_pub)]
#[path = "../build/nvcc.rs"]
mod nvcc;
#[allow(dead_code, unreachable_pub)]
#[path = "../build/ptxas.rs"]
mod ptxas;
#[allow(dead_code, unreachable_pub)]
#[path = "../src/kernel/cuda/resources.rs"]
mod resources;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nvcc::{Compiled, Nvcc};
use resources::Resources;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("nvcc")
}

fn compiler() -> Nvcc {
    if std::env::var_os("NVCC").is_some_and(|path| !path.is_empty()) {
        return nvcc::find(|name| std::env::var_os(name)).unwrap();
    }
    let output = Command::new(root().join("scripts/cuda_wheels.sh")).output().expect("scripts/cuda_wheels.sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    nvcc::of(Path::new(String::from_utf8(output.stdout).unwrap().trim())).unwrap()
}

fn compiled(nvcc: &Nvcc, sources: &str) -> Vec<Compiled> {
    nvcc::compile(nvcc, &nvcc::sources(&root().join(sources)).unwrap(), &folder()).unwrap_or_else(|e| panic!("{e}"))
}

fn read(compiled: &[Compiled]) -> Result<Vec<Resources>, String> {
    let read: Vec<_> = compiled.iter().map(|family| ptxas::read(&family.family, &family.log)).collect();
    let refused: Vec<String> = read.iter().filter_map(|rows| rows.clone().err()).collect();
    if refused.is_empty() { Ok(read.into_iter().flatten().flatten().collect()) } else { Err(refused.join("\n")) }
}

#[test]
fn every_kernel_passes_the_gates() {
    let nvcc = compiler();
    let compiled = compiled(&nvcc, "csrc/kernels");
    for family in &compiled {
        let link = folder().join(format!("{}.fatbin", family.family));
        let _ = fs::remove_file(&link);
        fs::hard_link(&family.fatbin, link).unwrap();
    }
    let rows = read(&compiled).unwrap_or_else(|e| panic!("\n{e}"));
    let table = root().join("csrc/ptxas.txt");
    if std::env::var_os("UPDATE_PTXAS").is_some_and(|set| set == "1") {
        fs::write(&table, ptxas::render(&nvcc.version, &rows)).unwrap();
    }
    let text = fs::read_to_string(&table).unwrap_or_default();
    ptxas::compare(&nvcc.version, &rows, &text).unwrap_or_else(|e| panic!("\n{e}"));
    assert_eq!(text, ptxas::render(ptxas::compiler_of(&text), &rows), "csrc/ptxas.txt is not in its own form");
}

/// The probes of the primitives, which a GPU is to run one day, need not be fast: a note is no fault.
#[test]
fn the_emulations_probes_assemble() {
    for probe in compiled(&compiler(), "csrc/emu/kernels") {
        assert!(probe.log.contains("Compiling entry function 'probe_"), "{}: {}", probe.family, probe.log);
        assert!(!probe.log.contains("warning"), "{}: {}", probe.family, probe.log);
    }
}

/// One of `tests/data`, through the same compilation and the same gates.
fn gated(name: &str) -> Result<Vec<Resources>, String> {
    let source = root().join("tests/data").join(name);
    let compiled = nvcc::compile(&compiler(), &[source], &folder())?;
    read(&compiled)
}

#[test]
fn a_sound_kernel_is_read_for_each_architecture() {
    let rows = gated("sound.cu").unwrap();
    let arches: Vec<&str> = rows.iter().map(|row| row.arch.as_str()).collect();
    assert_eq!(arches, ["sm_80", "sm_90a"]);
    for row in &rows {
        assert_eq!((row.symbol.as_str(), row.family.as_str()), ("sound", "sound"));
        assert_eq!((row.shared_bytes, row.barriers, row.spill_bytes), (256, 1, 0));
        assert!((8..32).contains(&row.registers), "{row:?}");
    }
}

#[test]
fn spills_are_refused() {
    let why = gated("spills.cu").unwrap_err();
    assert!(why.contains("spills: spills spills:") && why.contains("bytes spill stores"), "{why}");
}

#[test]
fn serialised_wgmma_is_refused() {
    let why = gated("serialised_sm90.cu").unwrap_err();
    assert!(why.contains("(C7517)") && why.contains("(C7519)"), "{why}");
}

#[test]
fn an_ignored_setmaxnreg_is_refused() {
    let why = gated("registers_ignored_sm90.cu").unwrap_err();
    assert!(why.contains("(C7508)"), "{why}");
}

#[test]
fn warnings_are_refused() {
    let why = gated("warns.cu").unwrap_err();
    assert!(why.contains("warning #177-D"), "{why}");
}

#[test]
fn what_the_compiler_might_say_next_is_refused() {
    let sound = "ptxas info    : Compiling entry function 'a' for 'sm_80'\n\
                 ptxas info    : Function properties for a\n\
                 \x20   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                 ptxas info    : Used 12 registers, used 1 barriers, 256 bytes smem, 368 bytes cmem[0], 8 bytes cmem[2]\n\
                 ptxas info    : Compile time = 18.079 ms\n";
    let rows = ptxas::read("f", sound).unwrap();
    assert_eq!((rows[0].registers, rows[0].shared_bytes, rows[0].constant_bytes), (12, 256, 376));
    for line in [
        "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized",
        "ptxas warning : Stack size for entry function 'a' cannot be statically determined",
        "nvcc warning : something",
    ] {
        let why = ptxas::read("f", &format!("{sound}{line}\n")).unwrap_err();
        assert_eq!(why, format!("f: {line}"));
    }
    // A function that was not inlined has its own figures.
    let called = sound.replace(" for a\n    0 bytes stack frame, 0", " for b\n    16 bytes stack frame, 4");
    assert!(ptxas::read("f", &called).unwrap_err().contains("b spills"));
    assert!(ptxas::read("f", "").unwrap_err().contains("no kernel"));
}

#[test]
fn figures_that_differ_from_the_table_are_refused() {
    let row = |symbol: &str, registers| Resources {
        symbol: symbol.into(),
        arch: "sm_80".into(),
        family: "f".into(),
        registers,
        ..Resources::default()
    };
    let table = ptxas::render("13.0.88", &[row("a", 12), row("b", 40)]);
    ptxas::compare("13.0.88", &[row("a", 12), row("b", 40)], &table).unwrap();
    let why = |compiler: &str, rows: &[Resources]| ptxas::compare(compiler, rows, &table).unwrap_err();
    assert!(
        why("13.0.88", &[row("a", 13), row("b", 40)]).starts_with("a for sm_80: registers 13, in csrc/ptxas.txt 12\n")
    );
    assert!(why("13.0.88", &[row("a", 12)]).starts_with("b for sm_80: in csrc/ptxas.txt, but not compiled\n"));
    assert!(why("13.0.88", &[row("a", 12), row("b", 40), row("c", 1)]).starts_with("c for sm_80: not in"));
    let shared = Resources { shared_bytes: 64, ..row("b", 40) };
    assert!(why("13.0.88", &[row("a", 12), shared]).contains("shared bytes 64, in csrc/ptxas.txt 0"));
    assert!(why("13.1.1", &[row("a", 12)]).contains("csrc/ptxas.txt is of nvcc 13.0.88, this is 13.1.1"));
}

#[test]
fn without_nvcc_one_line_says_what_to_set() {
    let only =
        |name: &'static str, value: &'static str| move |asked: &str| (asked == name).then(|| OsString::from(value));
    for (name, value) in
        [("NVCC", "/no/such/nvcc"), ("CUDA_HOME", "/no/such/toolkit"), ("CUDA_PATH", "/no/such/toolkit")]
    {
        let why = nvcc::find(only(name, value)).unwrap_err();
        assert!(why.starts_with(name) && why.contains(value) && !why.contains('\n'), "{why}");
    }
    let why = nvcc::of(Path::new("/bin/echo")).unwrap_err();
    assert!(why.contains("version"), "{why}");
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let row = |symbol: &str, registers| Resources {
        symbol: symbol.into(),
        arch: "sm_80".into(),
        family: "adaln".into(),
        registers,
        constant_bytes: 720,
        ..Resources::default()
    };
    let text = ptxas::render("13.0.88", &[row("b", 40), row("a_longer", 255)]);
    assert_eq!(resources::parse(&text).unwrap(), [row("a_longer", 255), row("b", 40)]);
    assert_eq!(ptxas::compiler_of(&text), "13.0.88");
    let lengths: Vec<usize> = text.lines().skip(1).map(str::len).collect();
    assert!(lengths.iter().all(|&n| n == lengths[0]), "{text}");
    assert!(resources::parse("a sm_80 adaln 1 2 3 4 5").is_err());
    assert!(resources::parse("a sm_80 adaln 1 2 3 4 5 x").is_err());
}
