//! With feature `kernels`: compiles `csrc/kernels` with nvcc, one fatbin a family, holds the result
//! to the gates of `build/ptxas.rs`, and lists the fatbins for `src/kernel/cuda/fatbins.rs`.
//! Without it: only the name of the C library.

#[allow(dead_code, unreachable_pub)]
#[path = "build/nvcc.rs"]
mod nvcc;
#[allow(dead_code, unreachable_pub)]
#[path = "build/ptxas.rs"]
mod ptxas;
#[allow(dead_code, unreachable_pub)]
#[path = "src/kernel/cuda/resources.rs"]
mod resources;

use std::env::var_os;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Whoever links libseqpar.so finds it again by that name.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libseqpar.so");
    }
    if var_os("CARGO_FEATURE_KERNELS").is_none() {
        return;
    }
    for path in ["build", "csrc", "include"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "SEQPAR_KERNEL_CACHE"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(error) = kernels() {
        error.lines().for_each(|line| println!("cargo::error={line}"));
    }
}

fn kernels() -> Result<(), String> {
    let folder = |name: &str| var_os(name).map(PathBuf::from);
    let root = folder("CARGO_MANIFEST_DIR").ok_or("run by cargo only: no CARGO_MANIFEST_DIR")?;
    let out = folder("OUT_DIR").ok_or("run by cargo only: no OUT_DIR")?;
    let cache = folder("SEQPAR_KERNEL_CACHE").unwrap_or_else(|| out.clone());
    let nvcc = nvcc::find(|name| var_os(name))?;
    let compiled = nvcc::compile(&nvcc, &nvcc::sources(&root.join("csrc/kernels"))?, &cache)?;
    let mut rows = Vec::new();
    for family in &compiled {
        rows.extend(ptxas::read(&family.family, &family.log)?);
    }
    let table = root.join("csrc/ptxas.txt");
    let table = fs::read_to_string(&table).map_err(|e| format!("{}: {e}", table.display()))?;
    ptxas::compare(&nvcc.version, &rows, &table)?;
    list(&compiled, &out)
}

/// Writes `fatbins.rs`, whose paths name copies in `out`: the cache may be emptied.
fn list(compiled: &[nvcc::Compiled], out: &Path) -> Result<(), String> {
    let mut text = String::from("[\n");
    for family in compiled {
        let name = format!("{}.fatbin", family.family);
        fs::copy(&family.fatbin, out.join(&name)).map_err(|e| format!("{name}: {e}"))?;
        text += &format!(
            "    ({:?}, &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")))),\n",
            family.family
        );
    }
    fs::write(out.join("fatbins.rs"), text + "]\n").map_err(|e| format!("fatbins.rs: {e}"))
}
