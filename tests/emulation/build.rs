//! Compiles the emulation and the kernels into one shared library. Of another source tree only the
//! emulation is kept under `target/tmp`: its kernels and its library lie in the tree, and go with it.

use std::path::{Path, PathBuf};

use super::compile::{Job, compile, files, kept, key, link};

/// The kernels: every plain access calls a hook of `csrc/emu/hooks.cpp`, and locals start as a
/// pattern, so that what is never set shows. What thread's hooks do not see (vectors that the
/// compiler splits, indices of local arrays) the other checks of `hooks.cpp` do.
const KERNEL: &[&str] = &[
    "-xc++",
    "-ftrivial-auto-var-init=pattern",
    "-fsanitize=thread",
    "-fsanitize=alignment,bounds,shift-exponent",
    "--param=tsan-instrument-func-entry-exit=0",
    "-Wno-unknown-pragmas",
];
/// Tests of this tree run often; a broken copy is compiled for one run.
const KEPT: &str = "-O1";
const BROKEN: &str = "-O0";
const EMULATION: &[&str] = &["-O2"];

/// Where the kernels of a library come from.
pub const KERNELS: &[&str] = &["kernels", "emu/kernels"];
/// Only those of the emulation's own tests.
pub const PROBES: &[&str] = &["emu/kernels"];

/// The library of a source tree that holds `csrc` and `include`.
pub fn library(root: &Path, of: &[&str]) -> Result<PathBuf, String> {
    let jobs = jobs(root, of);
    compile(&jobs)?;
    link(&jobs, &own(root).0, "libemulated.so", &["-ldl"])
}

/// Its sources, for whoever links them into a library of its own.
pub fn jobs(root: &Path, of: &[&str]) -> Vec<Job> {
    let (own, effort) = own(root);
    let kernel_flags = [KERNEL, &[effort]].concat();
    let csrc = root.join("csrc");
    let mut headers = files(&csrc, &["h", "cuh", "inl"]);
    headers.extend(files(&root.join("include"), &["h"]));
    let of_probes = csrc.join("emu/kernels");
    let (of_emulation, of_kernels): (Vec<_>, Vec<_>) =
        headers.iter().partition(|path| path.starts_with(csrc.join("emu")) && !path.starts_with(&of_probes));
    let emulation_key = key(root, &of_emulation);
    // The kernels see the emulation's headers too.
    let kernel_key = (emulation_key, key(root, &of_kernels));
    let mut jobs = Vec::new();
    for source in files(&csrc.join("emu"), &["cpp"]) {
        jobs.push(Job::new(root, source, EMULATION, emulation_key, &kept()));
    }
    for source in of.iter().flat_map(|folder| files(&csrc.join(folder), &["cu"])) {
        jobs.push(Job::new(root, source, &kernel_flags, kernel_key, &own));
    }
    jobs
}

/// Where a tree's kernels and library go, and how hard the compiler tries.
fn own(root: &Path) -> (PathBuf, &'static str) {
    if root == Path::new(env!("CARGO_MANIFEST_DIR")) { (kept(), KEPT) } else { (root.join("built"), BROKEN) }
}
