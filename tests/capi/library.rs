//! `libseqpar.so` of the features that this test was built with, in a folder of its own: that of the
//! build that runs the tests may be left over from other features.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library, and the folder that holds it.
pub(crate) fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build)
}

fn build() -> PathBuf {
    let features = match (cfg!(feature = "cuda"), cfg!(feature = "kernels"), cfg!(feature = "nccl")) {
        (_, true, true) => "kernels,nccl",
        (_, true, false) => "kernels",
        (_, false, true) => "nccl",
        (true, false, false) => "cuda",
        (false, false, false) => "",
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi").join(format!("features-{features}"));
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--lib", "--no-default-features", "--features", features, "--target-dir"])
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // What is tested is the door, not the speed behind it.
        .envs([("CARGO_PROFILE_DEV_OPT_LEVEL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "0")])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let library = folder.join("debug/libseqpar.so");
    assert!(library.exists(), "{} was not built", library.display());
    library
}
