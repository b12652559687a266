//! Runs the kernels' own source on this machine: compiles `csrc` for the host with the emulation,
//! loads it, and launches what `kernel::cuda` says, on inputs and outputs in emulated device
//! memory. Any report of the emulation (a race, a read of unwritten memory, a deadlock) fails.
#![allow(dead_code, unreachable_pub)]

pub mod broken_launch;
pub mod build;
pub mod device;
pub mod kernels;

#[allow(unused_imports)]
pub use device::{Async, Device, Emulator, Options, Order, Outcome};
#[allow(unused_imports)]
pub use kernels::{How, emulate, emulate_outcome};
