//! Compiles families of kernels with nvcc, one fatbin each, several at a time.
//!
//! A family is a source file; its name says what it is for: `*_sm80.cu` for sm_80, `*_sm90.cu` for
//! sm_90a, any other for both; the emulation's probes (`csrc/emu/kernels`) for sm_90a. Newer devices than those run the PTX of compute_80, the only one
//! that is kept: it is what is portable. A result is kept under the hash of all that it depends on.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Line numbers are for Nsight; compressed they cost little.
const FLAGS: [&str; 8] =
    ["-std=c++17", "-O3", "-fmad=false", "-lineinfo", "-Xptxas", "-v", "-Xfatbin=-compress-all", "-fatbin"];
const SM80: &str = "-gencode=arch=compute_80,code=[sm_80,compute_80]";
const SM90: &str = "-gencode=arch=compute_90a,code=sm_90a";

/// A compiler that answered.
#[derive(Clone, Debug)]
pub struct Nvcc {
    /// The program.
    pub path: PathBuf,
    /// As in `13.0.88`.
    pub version: String,
}

/// A compiled family.
#[derive(Debug)]
pub struct Compiled {
    /// Stem of the source.
    pub family: String,
    /// Code for all its architectures.
    pub fatbin: PathBuf,
    /// What the compiler said.
    pub log: String,
}

/// The nvcc named by `NVCC`, else under `CUDA_HOME` or `CUDA_PATH`, else on the path.
///
/// # Errors
/// One line: no nvcc, and what to set.
pub fn find(variable: impl Fn(&str) -> Option<OsString>) -> Result<Nvcc, String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("NVCC") {
        return of(&path).map_err(|e| format!("NVCC names {}, which {e}", path.display()));
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(root) = set(name) {
            let path = root.join("bin/nvcc");
            return of(&path).map_err(|e| format!("{name} names a toolkit whose {}, {e}", path.display()));
        }
    }
    let none =
        "no nvcc: set NVCC to one (scripts/cuda_wheels.sh installs one and prints its path) or CUDA_HOME to a toolkit";
    of(Path::new("nvcc")).map_err(|_| none.to_string())
}

/// The nvcc at `path`.
///
/// # Errors
/// It does not run.
pub fn of(path: &Path) -> Result<Nvcc, String> {
    let output = Command::new(path).arg("--version").output().map_err(|e| format!("does not run: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().find_map(|word| word.strip_prefix('V'));
    match version {
        Some(version) if output.status.success() => Ok(Nvcc { path: path.into(), version: version.into() }),
        _ => Err("does not say its version as nvcc does".into()),
    }
}

/// The sources of a folder, `csrc/kernels` for those of all families.
///
/// # Errors
/// There are none.
pub fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "cu")).collect();
    found.sort();
    if found.is_empty() { Err(format!("{}: no .cu file", folder.display())) } else { Ok(found) }
}

/// Compiles `sources` into `folder`, where they are found again.
///
/// # Errors
/// What the compiler said of the first source that failed.
pub fn compile(nvcc: &Nvcc, sources: &[PathBuf], folder: &Path) -> Result<Vec<Compiled>, String> {
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    // The last of the alphabet are the longest to compile, and are taken first.
    let waiting = Mutex::new(sources.to_vec());
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let next = waiting.lock().ok().and_then(|mut list| list.pop());
            let Some(source) = next else { return };
            let result = compile_one(nvcc, &source, folder);
            if let (Err(_), Ok(mut list)) = (&result, waiting.lock()) {
                list.clear();
            }
            if let Ok(mut done) = done.lock() {
                done.insert(source, result);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(work);
        }
    });
    done.into_inner().map_err(|e| e.to_string())?.into_values().collect()
}

fn compile_one(nvcc: &Nvcc, source: &Path, folder: &Path) -> Result<Compiled, String> {
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let mut hasher = DefaultHasher::new();
    let architectures = architectures(&stem, is_emulation(source));
    (&nvcc.version, FLAGS, &architectures).hash(&mut hasher);
    let mut files = BTreeMap::new();
    read_with_includes(source, &mut files)?;
    // Names within the tree only: the same sources elsewhere compile to the same.
    files.iter().for_each(|(path, text)| (path.file_name(), text).hash(&mut hasher));
    let fatbin = folder.join(format!("{stem}-{:016x}.fatbin", hasher.finish()));
    let log = fatbin.with_extension("log");
    if !(fatbin.exists() && log.exists()) {
        run(nvcc, source, &architectures, &fatbin, &log)?;
    }
    let log = fs::read_to_string(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    Ok(Compiled { family: stem.into_owned(), fatbin, log })
}

fn run(nvcc: &Nvcc, source: &Path, architectures: &[&str], fatbin: &Path, log: &Path) -> Result<(), String> {
    // Another process may compile the same: each writes its own file and renames it.
    let partial = fatbin.with_extension(format!("{}.partial", std::process::id()));
    let mut command = Command::new(&nvcc.path);
    command.args(architectures).args(FLAGS).arg("-o").arg(&partial).arg(source);
    let output = command.output().map_err(|e| format!("{}: {e}", nvcc.path.display()))?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        let _ = fs::remove_file(&partial);
        return Err(format!("{}: nvcc failed\n{said}", source.display()));
    }
    let written = fs::write(log, said).and_then(|()| fs::rename(&partial, fatbin));
    written.map_err(|e| format!("{}: {e}", fatbin.display()))
}

fn architectures(family: &str, is_probe: bool) -> Vec<&'static str> {
    match family {
        _ if is_probe => vec![SM90],
        _ if family.ends_with("_sm80") => vec![SM80],
        _ if family.ends_with("_sm90") => vec![SM90],
        _ => vec![SM80, SM90],
    }
}

fn is_emulation(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "emu")
}

/// A file and what it includes by quoted name. The emulation is left out where a kernel's source
/// names it: nvcc does not see it.
fn read_with_includes(path: &Path, files: &mut BTreeMap<PathBuf, String>) -> Result<(), String> {
    let path = fs::canonicalize(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if files.contains_key(&path) || is_emulation(&path) && !path.parent().is_some_and(|p| p.ends_with("kernels")) {
        return Ok(());
    }
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let quoted = |line: &str| Some(line.trim().strip_prefix("#include \"")?.split('"').next()?.to_string());
    let included: Vec<PathBuf> =
        text.lines().filter_map(quoted).map(|name| path.with_file_name("").join(name)).collect();
    files.insert(path, text);
    included.iter().try_for_each(|path| read_with_includes(path, files))
}
