//! The CUDA executor: worlds of plans on one device, all ranks in one process (loopback).
//!
//! [`prepare`] turns the lowered plans of a world into one [`program`] of steps, creates its
//! streams and events, and loads its kernels. [`Prepared::bind`] resolves the program for the
//! addresses of inputs and outputs; [`Bound::run`] only enqueues it (or launches the graph that it
//! was captured into) behind the caller's stream, which waits for its end. Nothing in a run waits
//! on the host; [`Bound::finish`] does, with a deadline.
//!
//! Communication is copies within the device, so that every strategy, schedule and graph runs on a
//! single GPU. Refuses what no kernel computes (f32 layers above all). Assumes that bound memory
//! stays alive and is used by nobody else until the run has ended. Borrows context and stream and
//! leaves them as they were. Tests: `tests/cuda_program.rs`, `tests/cuda_executor.rs`.

mod agreement;
mod bound;
mod enqueue;
mod finish;
mod kernels;
mod link;
mod memory;
mod prepared;
pub mod program;
#[cfg(feature = "nccl")]
mod rank_threads;
mod report;
mod resolve;
mod tensors;
mod transport;

pub use crate::comm::local::Link;
pub use agreement::Agreement;
pub use bound::Bound;
pub use kernels::Kernels;
pub use prepared::{CudaOptions, External, ExternalCall, Prepared, Route, prepare, prepare_rank};
#[doc(hidden)]
pub use prepared::{prepare_lowered, prepare_rank_lowered};
#[cfg(feature = "nccl")]
pub use rank_threads::RankThreads;
#[doc(hidden)]
pub use tensors::with_tensors;
pub use tensors::{Outputs, gathered, run_local, run_tensors};
pub use transport::Transport;
#[cfg(feature = "nccl")]
pub use transport::{Agreed, Joined, Nccl};
