//! Runs the kernels' own source on this machine: compiles `csrc` for the host with the emulation,
//! loads it, and launches what `kernel::cuda` says, on inputs and outputs in emulated device
//! memory. Any report of the emulation (a race, a read of unwritten memory, a deadlock) fails.
#![allow(dead_code, unreachable_pub)]

pub mod accesses;
pub mod broken_launch;
pub mod build;
pub mod compile;
pub mod device;
#[cfg(feature = "cuda")]
pub mod driver;
pub mod kernels;
pub mod linear;

#[allow(unused_imports)]
pub use device::{Async, Device, Emulator, Options, Order, Outcome};
#[allow(unused_imports)]
pub use kernels::{How, emulate, emulate_outcome};

use seqpar::kernel::cuda::Arch;

/// Both paths, or the one that `SEQPAR_ARCH` names.
pub fn archs() -> Vec<Arch> {
    match std::env::var("SEQPAR_ARCH").as_deref() {
        Ok("sm80") => vec![Arch::Sm80],
        Ok("sm90") => vec![Arch::Sm90],
        Ok(other) => panic!("SEQPAR_ARCH is sm80 or sm90, not {other}"),
        Err(_) => vec![Arch::Sm80, Arch::Sm90],
    }
}

/// Of these head dims all, or the one that `SEQPAR_HEAD_DIM` names.
pub fn head_dims<const N: usize>(all: [usize; N]) -> Vec<usize> {
    let only: Option<usize> = std::env::var("SEQPAR_HEAD_DIM").ok().map(|dim| dim.parse().unwrap());
    all.into_iter().filter(|dim| only.is_none_or(|only| only == *dim)).collect()
}

/// Whether `SEQPAR_TILE` ("rows x columns") leaves this tile.
pub fn is_tile_chosen(rows: usize, cols: usize) -> bool {
    std::env::var("SEQPAR_TILE").map_or(true, |tile| tile == format!("{rows}x{cols}"))
}
