//! Measures plans on the host executor: overlap of communication and compute, single kernels,
//! single collectives, whole layers, each beside the roof of this machine.
//!
//! Times are those of spans, so that starting threads is in none of them. What is compared is run
//! round-robin, one run of each an iteration, and given as median and 95th percentile with the
//! [`Samples::spread`] that a second measurement would show. It prints nothing and stores nothing;
//! `seqpar bench` does. Tests: `tests/bench.rs`, `tests/bench_cli.rs`.

mod alone;
mod bound;
mod collective;
mod kernel;
mod layer;
mod overlap;
mod pace;
mod roof;
mod samples;
mod world;

pub use alone::{compute_alone, transfers_alone};
pub use bound::arrival_bound_s;
pub use collective::{Collective, collective};
pub use kernel::{Measured, kernel};
pub use layer::{LayerRun, layer};
pub use overlap::{Case, Conditions, Overlapped, Part, Speed, overlap};
pub use roof::{Roof, copy_bytes_per_s};
pub use samples::Samples;
