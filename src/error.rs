//! The one error type of the crate.
//!
//! Every message says what is wrong and what to change. Errors are values: no public function
//! panics on bad input, and a failed rank reaches every other rank as [`Error::Rank`].

mod failure;

use std::fmt;

pub use failure::{Failure, FailureKind};

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Sizes, dtypes or options that contradict each other.
    Shape(String),
    /// A mesh that the ranks or the problem do not allow.
    Mesh(String),
    /// A split of tokens or heads that is not a partition of them.
    Shard(String),
    /// A strategy, kernel or machine that cannot do what was asked.
    Unsupported(String),
    /// A plan that breaks the law of plans.
    Law {
        /// Rank whose plan breaks it.
        rank: usize,
        /// Label of the offending op.
        op: String,
        /// Which rule, and what to change.
        why: String,
    },
    /// A buffer bound to a plan that does not fit what the plan says of it.
    Bind(String),
    /// A wait that passed its deadline.
    Timeout {
        /// Rank that waited.
        rank: usize,
        /// Label of the op that waited.
        op: String,
        /// Who or what was waited for.
        waited_for: String,
        /// The deadline, in milliseconds.
        after_ms: u64,
    },
    /// A rank failed, left early or panicked; every other rank receives the same error.
    Rank {
        /// The rank that failed first.
        rank: usize,
        /// Label of the op at which it failed.
        op: String,
        /// What it said.
        why: String,
    },
    /// A call of the CUDA driver that failed.
    Cuda {
        /// The call.
        call: &'static str,
        /// The driver's result code.
        code: u32,
        /// The driver's words.
        why: String,
    },
    /// A failure between ranks.
    Between(Box<Failure>),
    /// A checkpoint or data file whose content is not what its reader needs.
    Data(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(why)
            | Self::Mesh(why)
            | Self::Shard(why)
            | Self::Unsupported(why)
            | Self::Bind(why)
            | Self::Data(why) => f.write_str(why),
            Self::Law { rank, op, why } => write!(f, "rank {rank}, op \"{op}\": {why}"),
            Self::Timeout { rank, op, waited_for, after_ms } => write!(
                f,
                "rank {rank}, op \"{op}\": waited {:.3} s for {waited_for}; raise the timeout or look at that rank",
                *after_ms as f64 / 1e3
            ),
            Self::Cuda { call, code, why } => write!(f, "{call} failed with {code}, {why}"),
            Self::Between(failure) => write!(f, "{failure}"),
            Self::Rank { rank, op, why } => write!(f, "rank {rank} failed at op \"{op}\": {why}"),
        }
    }
}

impl std::error::Error for Error {}
