//! Kernels: what each one computes ([`spec`]), the naive truth it is held to ([`oracle`]), the
//! fast version for the host ([`host`]) and the launches of those for CUDA ([`cuda`]). One file a
//! family in each.

mod check;
pub mod cuda;
pub mod host;
pub mod oracle;
pub mod spec;

pub use check::TensorView;
