//! Kernels on a CUDA device. (Whole plans: not yet.)
//!
//! [`Kernels`] loads the compiled kernels into a context and launches what
//! [`crate::kernel::cuda::launches`] says.

mod kernels;

pub use kernels::Kernels;
