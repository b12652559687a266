//! What is said when ranks fail each other.

use std::fmt;

/// A failure between ranks: who says it, at which op, and whose fault it is as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// The rank that says it.
    pub rank: usize,
    /// The communicator, or the stage before there is one ("rendezvous").
    pub comm: String,
    /// Index of the op among those of its communicator, from 0.
    pub seq: Option<u64>,
    /// Label of the op; empty outside ops.
    pub op: String,
    /// The ranks at fault; empty if unknown.
    pub culprits: Vec<usize>,
    /// From the start of the op or stage to the error, in milliseconds.
    pub elapsed_ms: u64,
}

/// Kinds of failure between ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// The culprits never came.
    RendezvousTimeout,
    /// Ranks believe in worlds of different sizes.
    WorldMismatch {
        /// Sizes that were announced, in ascending order.
        seen: Vec<usize>,
    },
    /// Two processes claim the culprit's rank.
    DuplicateRank,
    /// Versions of the crate's protocol or of NCCL differ.
    VersionSkew {
        /// This rank's.
        mine: String,
        /// The culprits'.
        theirs: String,
    },
    /// A message without the job's key.
    AuthRejected,
    /// Ranks that share a device where each needs its own.
    DeviceConflict,
    /// No driver, or one that is too old.
    NoDriver,
    /// A library or one of its functions is not there.
    LibraryMissing {
        /// The file or function.
        symbol: String,
    },
    /// Ranks are about to do different things.
    Mismatch {
        /// What this rank is about to do.
        mine: String,
        /// What the culprits are about to do.
        theirs: String,
    },
    /// A rank has gone.
    PeerLost {
        /// How that was noticed.
        how: String,
    },
    /// A deadline passed while nobody was known to be lost.
    Timeout {
        /// What was waited for.
        stage: String,
    },
    /// The communicator was aborted.
    Aborted {
        /// By whom and why.
        by: String,
    },
    /// An earlier failure ended this communicator or one of its family.
    Poisoned {
        /// That failure.
        first_cause: String,
    },
    /// The store that the ranks share cannot be used.
    Store {
        /// Why, and what to change.
        why: String,
    },
    /// Nothing but the end of the process helps.
    Unrecoverable {
        /// What does not return.
        what: String,
    },
    /// What the culprit sent is not what arrived.
    Corrupt {
        /// Length of the message.
        bytes: usize,
    },
    /// A library said so.
    Library {
        /// The function.
        call: &'static str,
        /// Its result code.
        code: i32,
        /// Its words.
        why: String,
    },
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RendezvousTimeout => f.write_str("ranks did not come; start them, or raise the deadline"),
            Self::WorldMismatch { seen } => {
                write!(f, "ranks disagree on the world size, {seen:?}; give all of them one")
            }
            Self::DuplicateRank => f.write_str("two processes claim one rank; give each its own"),
            Self::VersionSkew { mine, theirs } => {
                write!(f, "this rank runs {mine}, others run {theirs}; install one version everywhere")
            }
            Self::AuthRejected => f.write_str("a message does not carry the job's key; give all ranks one key"),
            Self::DeviceConflict => f.write_str("ranks share one device; give each its own"),
            Self::NoDriver => f.write_str("no CUDA driver that works; use the host executor"),
            Self::LibraryMissing { symbol } => write!(f, "{symbol} was not found; install it or name its path"),
            Self::Mismatch { mine, theirs } => write!(f, "this rank would {mine}, others would {theirs}"),
            Self::PeerLost { how } => write!(f, "a rank is lost: {how}"),
            Self::Timeout { stage } => write!(f, "the deadline passed: {stage}"),
            Self::Aborted { by } => write!(f, "aborted: {by}"),
            Self::Poisoned { first_cause } => write!(f, "unusable since an earlier failure: {first_cause}"),
            Self::Store { why } => write!(f, "the store of the ranks: {why}"),
            Self::Unrecoverable { what } => write!(f, "{what} does not return; end this process"),
            Self::Corrupt { bytes } => {
                write!(f, "a message of {bytes} bytes arrived otherwise than it was sent; look at the link")
            }
            Self::Library { call, code, why } => write!(f, "{call} failed with {code}, {why}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}, {}", self.rank, self.comm)?;
        if !self.op.is_empty() {
            write!(f, ", op \"{}\"", self.op)?;
        }
        if let Some(seq) = self.seq {
            write!(f, " (seq {seq})")?;
        }
        write!(f, ": {}", self.kind)?;
        match self.culprits.as_slice() {
            [] => {}
            [rank] => write!(f, " (rank {rank})")?,
            ranks => write!(f, " (ranks {ranks:?})")?,
        }
        write!(f, "; after {:.3} s", self.elapsed_ms as f64 / 1e3)
    }
}
