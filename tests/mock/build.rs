//! Compiles the mock driver with the emulation into `libcuda.so.1`, in a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::emulation::build;
use crate::emulation::compile::{Job, compile, files, kept, key, link};

const FLAGS: &[&str] = &["-O2", "-Wextra"];
const FOLDERS: [&str; 4] = ["", "engine", "driver", "kernels"];

/// The folder that holds `libcuda.so.1` and `libcuda.so`; built once for all tests of a process.
pub fn library() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(build_library).clone()
}

fn build_library() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mock = root.join("tests/mock");
    let mut headers = files(&mock, &["h"]);
    headers.push(root.join("csrc/emu/api.h"));
    let headers = key(root, &headers.iter().collect::<Vec<_>>());
    let mut jobs = build::jobs(root, &["kernels"]);
    for folder in FOLDERS {
        let sources = files(&mock.join(folder), &["cpp"]);
        jobs.extend(sources.into_iter().map(|source| Job::new(root, source, FLAGS, headers, &kept())));
    }
    compile(&jobs)?;
    // Local names win over those of an emulation in the same process.
    let flags = ["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", "-Wl,-z,nodelete", "-pthread", "-ldl"];
    let library = link(&jobs, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("mock"), "libcuda.so.1", &flags)?;
    // What loads by the bare name must find it first.
    let bare = library.with_file_name("libcuda.so");
    if !bare.exists() {
        let _ = std::os::unix::fs::symlink("libcuda.so.1", &bare);
    }
    library.parent().map(Path::to_path_buf).ok_or_else(|| "a library without a folder".into())
}
