//! `libseqpar.so` of a set of features, in a folder of its own: that of the build that runs the tests
//! may be left over from other features.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// The sets of features that this test was built with, smallest first: `cuda` is in `nccl` and `kernels`.
pub(crate) fn feature_sets() -> Vec<&'static str> {
    let with = [
        ("", true),
        ("cuda", cfg!(feature = "cuda")),
        ("nccl", cfg!(feature = "nccl")),
        ("kernels", cfg!(feature = "kernels")),
    ];
    with.into_iter().filter(|(_, on)| *on).map(|(features, _)| features).collect()
}

/// The library with as much as this test was built with.
pub(crate) fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| library_of(feature_sets().last().unwrap()))
}

/// The library of one set.
pub(crate) fn library_of(features: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
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
    let library = folder.join("debug").join(format!("libseqpar{}", std::env::consts::DLL_SUFFIX));
    assert!(library.exists(), "{} was not built", library.display());
    library
}
