//! Executors run plans. They share one small vocabulary, the [`Report`] of [`Span`]s, so that a
//! prediction and a measurement are the same picture: [`trace`] writes it for Chrome or Perfetto,
//! [`overlap`] condenses it. [`host`] needs no GPU, [`sim`] no time, `cuda` (a feature) one GPU.

pub mod collective;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod host;
mod placed;
pub mod record;
mod report;
pub mod sim;
mod tensor;
pub mod trace;

pub use report::{Intervals, Overlap, exposed, overlap};
pub use tensor::HostTensor;

use std::sync::Arc;

/// What a span was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpanKind {
    /// A kernel or a piece of one.
    Compute,
    /// A communication, from its issue to the last arrival.
    Comm,
    /// A copy within a rank.
    Copy,
    /// An op of the embedding framework.
    External,
    /// A mark.
    Mark,
}

impl SpanKind {
    /// Name in traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Comm => "comm",
            Self::Copy => "copy",
            Self::External => "external",
            Self::Mark => "mark",
        }
    }

    /// True for what occupies a rank rather than its links.
    pub const fn computes(self) -> bool {
        matches!(self, Self::Compute | Self::Copy | Self::External)
    }
}

/// One op, or one piece of a gated kernel, in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Rank that ran it.
    pub rank: usize,
    /// Stream that ran it: `report.streams[rank][stream]`.
    pub stream: usize,
    /// Label of the op.
    pub op: Arc<str>,
    /// What it was.
    pub kind: SpanKind,
    /// Start, ns after the start of the run. A piece starts when its flags are raised.
    pub begin_ns: u64,
    /// End, ns after the start of the run.
    pub end_ns: u64,
    /// The piece, for a gated kernel.
    pub piece: Option<u16>,
    /// Bytes read and written by a kernel or copy, or sent to other ranks.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: f64,
}

impl Span {
    /// Label, with the piece if it is one: `qkv[2]`.
    pub fn name(&self) -> String {
        match self.piece {
            Some(piece) => format!("{}[{piece}]", self.op),
            None => self.op.to_string(),
        }
    }

    /// Duration.
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.begin_ns)
    }
}

/// What one run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Names of the streams of each rank.
    pub streams: Vec<Vec<String>>,
    /// All spans, by rank, then by stream, then by begin.
    pub spans: Vec<Span>,
    /// Bytes that each rank sent to other ranks, counted in the transport.
    pub bytes_sent: Vec<u64>,
    /// Most memory that each rank used: its arena, as far as ops touched it, and bound buffers.
    pub peak_bytes: Vec<usize>,
    /// From the start to the end of the run.
    pub wall_ns: u64,
}
