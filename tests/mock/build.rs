//! Compiles the mock driver with the emulation into `libcuda.so.1`, and the mock NCCL above it into
//! `libnccl.so.2`, both in a folder of their own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::emulation::build;
use crate::emulation::compile::{Job, compile, files, folder, kept, key, link_into};

const FLAGS: &[&str] = &["-O2", "-Wextra"];
const DRIVER: [&str; 4] = ["", "engine", "driver", "kernels"];

/// The folder that holds `libcuda.so.1`, `libcuda.so` and `libnccl.so.2`; built once for all tests of a process.
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
    let sources = |folder: &str| {
        let sources = files(&mock.join(folder), &["cpp"]);
        sources.into_iter().map(|source| Job::new(root, source, FLAGS, headers, &kept())).collect::<Vec<_>>()
    };
    DRIVER.iter().for_each(|folder| jobs.extend(sources(folder)));
    let of_driver = jobs.len();
    jobs.extend(sources("nccl"));
    compile(&jobs)?;
    let (driver, nccl) = jobs.split_at(of_driver);
    // Local names win over those of an emulation in the same process.
    let flags = ["-Wl,-Bsymbolic", "-Wl,-z,nodelete", "-pthread", "-ldl"];
    let folder = folder(&jobs, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("mock"), &flags);
    let library = link_into(&folder, driver, "libcuda.so.1", &[&flags[..], &["-Wl,-soname,libcuda.so.1"]].concat())?;
    // One engine for both: NCCL's work runs in the driver's.
    let below = [&library.to_string_lossy(), "-Wl,-soname,libnccl.so.2"];
    link_into(&folder, nccl, "libnccl.so.2", &[&flags[..], &below].concat())?;
    // What loads by the bare name must find it first.
    let bare = library.with_file_name("libcuda.so");
    if !bare.exists() {
        let _ = std::os::unix::fs::symlink("libcuda.so.1", &bare);
    }
    library.parent().map(Path::to_path_buf).ok_or_else(|| "a library without a folder".into())
}
