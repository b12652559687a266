//! The C ABI: what `include/seqpar.h` declares, which is also its documentation.
//!
//! One file a subject. Every function runs inside [`status`]'s guard: an error or a panic becomes
//! a status code and a string of the thread. [`abi`] has the structs, `read` the only way to
//! what a caller points to, `handle` what a handle stands for. Refuses null and misaligned pointers,
//! handles of another kind or that were destroyed, sizes and constants that make no sense; assumes that
//! memory is as long as its sizes say. Calls of a device are there in
//! every build and return `SEQPAR_UNSUPPORTED` where it is missing.
//!
//! Tests: `tests/capi*`, from C, C++ and Rust, against the header and over every argument.

pub mod abi;
pub mod adaln;
pub mod attention;
mod compute;
mod device;
mod handle;
pub mod kernels;
pub mod nccl;
mod overlap;
pub mod plans;
pub mod prepare;
mod problem;
pub mod projection;
pub mod qk_norm_rope;
mod read;
pub mod report;
pub mod run;
pub mod status;
mod tensor;
pub mod world;
