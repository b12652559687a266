//! The CUDA executor: the plans of a world on one device, or one rank's plan on its own.
//!
//! [`prepare`] takes the lowered plans of all ranks, for one device. [`prepare_rank`] takes one
//! rank's plan and a [`Transport`] to the others, which are threads or processes with devices of
//! their own. Either turns its plans into one [`program`] of steps, creates streams and events, and
//! loads the kernels. [`Prepared::bind`] resolves the program for the addresses of inputs and
//! outputs, and makes every kernel ready, since loading one while another spins can wedge a context.
//! [`Bound::run`] only enqueues (or launches the graph that the first run was captured into) behind
//! the caller's stream, which waits for its end. Nothing in a run waits for the device on the host;
//! [`Bound::finish`] does, with a deadline. Runs of one prepared world share its temporaries, events
//! and flags: each waits on the device for the one before, whatever is bound and on whatever streams.
//!
//! Transports change no bit; they differ in what a communication becomes, and in nothing else:
//!
//! | transport | ranks | a communication |
//! |---|---|---|
//! | loopback | all in one place | copies within the device (or a [`Link`] of a given rate), sums by a kernel |
//! | NCCL | one a device | one group of calls on its stream; sums by our kernel, in group order |
//! | peer | one a device, or several | copies into the others' memory, with flags |
//!
//! **Order over communicators.** NCCL's kernels wait for those of other ranks while they hold SMs, so
//! ranks must issue them in one order. One thread issues all of a rank's communications, in plan
//! order; a rank alone is refused unless its tags ascend in that order, which makes the tags one
//! order of the whole world. On the device they run in it too: a communication on another stream
//! than the one before waits for an event behind that one. So at most one of NCCL's kernels is in
//! flight a device, whatever the version of NCCL and its settings.
//!
//! **A rank that does not come** is told by the streams: each counts its ended communications in
//! pinned memory, eager and in graphs. At the deadline, or when the library reports a failure,
//! [`Bound::finish`] names the first that has not ended and aborts the communicators, so that the
//! device gets free. If it does not, the error is [`crate::error::FailureKind::Unrecoverable`], and
//! what the device may still use is left behind rather than waited for.
//!
//! Refuses what no kernel computes (f32 layers above all), and gates as flags over NCCL with no SM
//! left to it. Assumes that bound memory stays alive and is used by nobody else until the run has
//! ended, and that all ranks prepare and run the plans of one world alike. Borrows context and
//! stream and leaves them as they were. Tests: `tests/cuda_program.rs` (the steps, as data),
//! `tests/cuda_executor.rs` (loopback), `tests/cuda_runs.rs` (one run behind another),
//! `tests/cuda_ranks.rs` (NCCL), `tests/cuda_peer`.

mod agreement;
mod bound;
mod enqueue;
mod finish;
mod kernels;
mod link;
mod memory;
mod open_ops;
mod options;
mod prepared;
pub mod program;
mod progress;
mod ranges;
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
pub use options::{CudaOptions, Route};
pub use prepared::{External, ExternalCall, Prepared, prepare, prepare_rank};
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
