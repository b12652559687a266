//! Compiles C++ sources, each at most once for its content, flags and headers, and links shared
//! libraries of them.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const COMMON: &[&str] = &["-std=c++17", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-psabi"];

/// Where objects are kept from run to run.
pub fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated")
}

/// One source on its way to an object.
pub struct Job {
    source: PathBuf,
    flags: Vec<&'static str>,
    object: PathBuf,
}

impl Job {
    /// `headers`: what it includes, hashed; the object goes to `directory`.
    pub fn new(root: &Path, source: PathBuf, flags: &[&'static str], headers: impl Hash, directory: &Path) -> Self {
        let flags = flags.to_vec();
        let mut hasher = DefaultHasher::new();
        (compiler(), machine(), &flags, COMMON, headers, key(root, &[&source])).hash(&mut hasher);
        let stem = source.file_stem().and_then(|s| s.to_str()).unwrap_or("source");
        let object = directory.join(format!("{stem}-{:016x}.o", hasher.finish()));
        Self { source, flags, object }
    }
}

/// Those that have not been compiled before.
pub fn compile(jobs: &[Job]) -> Result<(), String> {
    for folder in jobs.iter().filter_map(|job| job.object.parent()) {
        fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    }
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
        .args(&job.flags)
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

/// Links the objects into `directory/<hash of them>/name`.
pub fn link(jobs: &[Job], directory: &Path, name: &str, flags: &[&str]) -> Result<PathBuf, String> {
    link_into(&folder(jobs, directory, flags), jobs, name, flags)
}

/// `directory/<hash of objects and flags>`.
pub fn folder(jobs: &[Job], directory: &Path, flags: &[&str]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    flags.hash(&mut hasher);
    jobs.iter().for_each(|job| job.object.hash(&mut hasher));
    directory.join(format!("{:016x}", hasher.finish()))
}

/// Links the objects into `folder/name`, unless it is there.
pub fn link_into(folder: &Path, jobs: &[Job], name: &str, flags: &[&str]) -> Result<PathBuf, String> {
    let library = folder.join(name);
    if library.exists() {
        return Ok(library);
    }
    fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    let partial = temporary(&library);
    let output = Command::new(compiler())
        .args(["-shared", "-Wl,--no-undefined", "-o"])
        .arg(&partial)
        .args(jobs.iter().map(|job| &job.object))
        .args(flags)
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

pub fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

fn machine() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("fma") { &["-march=x86-64-v3"] } else { &[] }
}

/// Files of a folder by their extension; those of its subfolders too where headers are asked for.
pub fn files(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
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

/// A hash of names (below the root) and contents.
pub fn key(root: &Path, paths: &[&PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        (path.strip_prefix(root).ok(), fs::read(path).unwrap_or_default()).hash(&mut hasher);
    }
    hasher.finish()
}
