<<<<<<< HEAD
//! Compiles the emulation and the kernels into one shared library.
=======
//! Compiles the emulation and the kernels into one shared library, each source at most once for
//! its content (and that of every header), under `target/tmp/emulated`. Of another source tree only
//! the emulation is kept there: its kernels and its library lie in the tree, and go with it.
>>>>>>> mut

use std::path::{Path, PathBuf};

<<<<<<< HEAD
use super::compile::{Job, compile, files, key, link};

=======
const COMMON: &[&str] = &["-std=c++17", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-psabi"];
>>>>>>> mut
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
const EMULATION: &[&str] = &[];

/// Where the kernels of a library come from.
pub const KERNELS: &[&str] = &["kernels", "emu/kernels"];
/// Only those of the emulation's own tests.
pub const PROBES: &[&str] = &["emu/kernels"];

/// The library of a source tree that holds `csrc` and `include`.
pub fn library(root: &Path, of: &[&str]) -> Result<PathBuf, String> {
<<<<<<< HEAD
    let jobs = jobs(root, of);
    compile(&jobs)?;
    link(&jobs, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated"), "libemulated.so", &["-ldl"])
}

/// Its sources, for whoever links them into a library of its own.
pub fn jobs(root: &Path, of: &[&str]) -> Vec<Job> {
=======
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated");
    let (own, effort) = match root == Path::new(env!("CARGO_MANIFEST_DIR")) {
        true => (kept.clone(), KEPT),
        false => (root.join("built"), BROKEN),
    };
>>>>>>> mut
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
        jobs.push(Job::new(root, source, EMULATION, "-O2", emulation_key, &kept));
    }
    for source in of.iter().flat_map(|folder| files(&csrc.join(folder), &["cu"])) {
        jobs.push(Job::new(root, source, KERNEL, effort, kernel_key, &own));
    }
    for directory in [&kept, &own] {
        fs::create_dir_all(directory).map_err(|e| e.to_string())?;
    }
<<<<<<< HEAD
    jobs
=======
    compile(&jobs)?;
    link(&jobs, &own)
}

struct Job {
    source: PathBuf,
    flags: &'static [&'static str],
    effort: &'static str,
    object: PathBuf,
}

impl Job {
    fn new(
        root: &Path,
        source: PathBuf,
        flags: &'static [&'static str],
        effort: &'static str,
        headers: impl Hash,
        directory: &Path,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (compiler(), machine(), flags, effort, COMMON, headers, key(root, &[&source])).hash(&mut hasher);
        let stem = source.file_stem().and_then(|s| s.to_str()).unwrap_or("source");
        let object = directory.join(format!("{stem}-{:016x}.o", hasher.finish()));
        Self { source, flags, effort, object }
    }
}

fn compile(jobs: &[Job]) -> Result<(), String> {
    let waiting = Mutex::new(jobs.iter().filter(|job| !job.object.exists()).collect::<Vec<_>>());
    let failed = Mutex::new(None);
    let work = || {
        loop {
            let Some(job) = waiting.lock().unwrap().pop() else { return };
            if let Err(error) = compile_one(job) {
                *failed.lock().unwrap() = Some(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(work);
        }
    });
    failed.into_inner().unwrap().map_or(Ok(()), Err)
}

fn compile_one(job: &Job) -> Result<(), String> {
    let partial = temporary(&job.object);
    let output = Command::new(compiler())
        .args(COMMON)
        .args(machine())
        .args(job.flags)
        .arg(job.effort)
        .arg("-c")
        .arg(&job.source)
        .arg("-o")
        .arg(&partial)
        .output()
        .map_err(|e| format!("no C++ compiler ({}): {e}; set CXX", compiler()))?;
    if !output.status.success() {
        return Err(format!("{}:\n{}", job.source.display(), String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(partial, &job.object).map_err(|e| e.to_string())
}

fn link(jobs: &[Job], directory: &Path) -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    jobs.iter().for_each(|job| job.object.hash(&mut hasher));
    let library = directory.join(format!("libemulated-{:016x}.so", hasher.finish()));
    if library.exists() {
        return Ok(library);
    }
    let partial = temporary(&library);
    let output = Command::new(compiler())
        .args(["-shared", "-Wl,--no-undefined", "-o"])
        .arg(&partial)
        .args(jobs.iter().map(|job| &job.object))
        .arg("-ldl")
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    fs::rename(partial, &library).map_err(|e| e.to_string())?;
    Ok(library)
}

/// Another process may build the same thing: each writes its own file and renames it.
fn temporary(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.{:?}.partial", std::process::id(), std::thread::current().id()))
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

fn machine() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("fma") { &["-march=x86-64-v3"] } else { &[] }
}

fn files(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let matches = path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e));
        if path.is_dir() && extensions.contains(&"h") {
            found.extend(files(&path, extensions));
        } else if matches {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Of names (below the root) and contents.
fn key(root: &Path, paths: &[&PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        (path.strip_prefix(root).ok(), fs::read(path).unwrap_or_default()).hash(&mut hasher);
    }
    hasher.finish()
>>>>>>> mut
}
