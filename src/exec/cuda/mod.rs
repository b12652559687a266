//! The CUDA executor: a world of plans on one device (loopback), or one rank of it among others.
//!
//! [`prepare`] turns the lowered plans of a world into one [`program`] of steps, creates its
//! streams and events, and loads its kernels; [`prepare_rank`] does it for one rank, which meets the
//! others through a [`Transport`]. [`Prepared::bind`] resolves the program for the
//! addresses of inputs and outputs; [`Bound::run`] only enqueues it (or launches the graph that it
//! was captured into) behind the caller's stream, which waits for its end. Nothing in a run waits
//! on the host; [`Bound::finish`] does, with a deadline.
//!
//! By loopback communication is copies within the device, so that every strategy, schedule and graph
//! runs on a single GPU; they can be made as slow as a link, and go through pinned host memory. With
//! the feature `nccl` it is groups of NCCL calls, or copies into the peers' memory. Refuses what no kernel computes (f32 layers above all). Assumes that bound memory
//! stays alive and is used by nobody else until the run has ended. Borrows context and stream and
//! leaves them as they were. Tests: `tests/cuda_program.rs`, `tests/cuda_executor.rs`, `tests/cuda_link.rs`,
//! `tests/cuda_ranks.rs`, `tests/cuda_peer`.

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
pub use tensors::{Outputs, gathered, run_local, run_tensors};
pub use transport::Transport;
#[cfg(feature = "nccl")]
pub use transport::{Agreed, Joined, Nccl};
