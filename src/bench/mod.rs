//! Measures plans on the host executor: overlap of communication and compute, single kernels,
//! single collectives, whole layers, each beside the roof of this machine.
//!
//! Times are those of spans, so that starting threads is in none of them. What is compared is run
//! round-robin, one run of each an iteration, and given as median and 95th percentile with the
//! [`Samples::spread`] that a second measurement would show. It prints nothing and stores nothing;
//! `seqpar bench` does. Tests: `tests/bench.rs`, `tests/bench_cli.rs`.

mod alone;
mod bound;
mod kernel;
mod overlap;
mod pace;
mod roof;
mod samples;
mod world;

pub use alone::{compute_alone, transfers_alone};
pub use bound::arrival_bound_s;
pub use kernel::{Measured, kernel};
pub use overlap::{Case, Conditions, Overlapped, Part, Speed, overlap};
pub use roof::{Roof, copy_bytes_per_s, cost_of};
pub use samples::Samples;
pub use world::{Timed, timed};
