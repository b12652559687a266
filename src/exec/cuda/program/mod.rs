//! Plans as one sequence of steps on streams: what an executor enqueues, without addresses.
//!
//! All steps are enqueued by one thread, in an order in which each event is recorded before
//! anything waits for it. What the plans say within a rank is the same for every transport
//! (`writer`); what a communication becomes is the transport's:
//!
//! - loopback ([`world`]): all ranks are here, each with streams of its own, and a
//!   communication is copies between their buffers;
//! - a group of calls ([`alone`]): one rank is here, and a communication is what a library is asked for at
//!   once, on the op's stream.
//!
//! Refuses plans whose communications do not match (the law does before). Tests:
//! `tests/cuda_program.rs`.

mod group;
mod loopback;
mod writer;

use super::agreement::Agreement;
use crate::error::Result;
use crate::plan::lower::{EventId, Lowered};
use crate::plan::{OpId, Plan};

/// Index of a stream of the program.
pub type StreamIndex = usize;

/// One access of one op of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// The rank.
    pub rank: usize,
    /// Its op.
    pub op: OpId,
    /// Index in [`Plan::accesses`] of the op.
    pub access: usize,
}

/// Where a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a buffer of a plan.
    Part(Part),
    /// In scratch: [`Program::scratch`].
    Scratch(usize),
}

/// One call within a group. Peers and roots count in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupCall {
    /// Sends to a peer.
    Send {
        /// To whom.
        peer: usize,
        /// Read.
        from: Part,
    },
    /// Receives from a peer.
    Recv {
        /// From whom.
        peer: usize,
        /// Written.
        to: Place,
    },
    /// Gathers one slot of every rank.
    AllGather {
        /// The own slot.
        from: Part,
        /// A slot of the array that is filled.
        to: Part,
        /// Whose slot that is; the others lie beside it in group order.
        of: usize,
    },
    /// The root's part to all.
    Broadcast {
        /// Who sends.
        root: usize,
        /// Read on the root, written elsewhere.
        part: Part,
    },
    /// The library's own sum, cut over the group.
    ReduceScatter {
        /// The first slot of the addend; the others lie behind it in group order.
        from: Part,
        /// The own slot of the sum.
        to: Part,
    },
    /// The library's own sum, whole on every rank.
    AllReduce {
        /// The addend.
        from: Part,
        /// The sum.
        to: Part,
    },
}

/// What is enqueued on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Waits for an event of the program.
    Wait(usize),
    /// Records an event of the program.
    Record(usize),
    /// Begins an op: its timer starts.
    Begin(OpId),
    /// Ends an op.
    End(OpId),
    /// Launches the kernel of an op; the flags that its pieces wait for.
    Kernel(OpId, Vec<(u16, EventId)>),
    /// Makes the copy of an op.
    Copy(OpId),
    /// Calls the embedding framework.
    External(OpId),
    /// Copies one message within the device, from the sender's region to this rank's.
    Message {
        /// Read.
        from: Part,
        /// Written.
        to: Part,
    },
    /// Makes these calls, all at once, among a group of the rank's plan.
    Group {
        /// The communication.
        op: OpId,
        /// Index in [`Plan::groups`].
        group: usize,
        /// At least one.
        calls: Vec<GroupCall>,
    },
    /// Sums, in this order.
    Sum {
        /// Read.
        from: Vec<Place>,
        /// Written; overlaps none of them (the law lets no communication write what it reads).
        to: Part,
    },
    /// Raises a flag of the rank.
    Raise(EventId),
}

/// An action on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Rank that it belongs to.
    pub rank: usize,
    /// Stream of the program.
    pub stream: StreamIndex,
    /// What is enqueued.
    pub action: Action,
}

/// The steps of the ranks that are here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// (rank, stream of its plan) of each stream of the program.
    pub streams: Vec<(usize, usize)>,
    /// In the order in which they are enqueued.
    pub steps: Vec<Step>,
    /// Number of events.
    pub events: usize,
    /// Pieces of scratch, each as large as that part. Those of two ops may share bytes: the ops
    /// that use them never overlap.
    pub scratch: Vec<Part>,
}

impl Program {
    /// Messages between ranks that are here, those that sums read among them.
    pub(super) fn messages(&self) -> usize {
        let foreign = |part: &Part, to: &Part| usize::from(part.rank != to.rank);
        let of = |step: &Step| match &step.action {
            Action::Message { from, to } => foreign(from, to),
            Action::Sum { from, to } => {
                from.iter().map(|place| if let Place::Part(part) = place { foreign(part, to) } else { 0 }).sum()
            }
            _ => 0,
        };
        self.steps.iter().map(of).sum()
    }
}

/// The program of a whole world on one device; `lowered` belongs to `plans`.
///
/// # Errors
/// Communications that do not match, or that wait for each other for ever.
pub fn world(plans: &[&Plan], lowered: &[&Lowered]) -> Result<Program> {
    loopback::write(plans, lowered)
}

/// The program of one rank that meets the others through a communication library; `lowered`
/// belongs to `plan`. Ops are enqueued in plan order, and no two groups overlap.
///
/// # Errors
/// Communications whose tags do not ascend in plan order, or that no group of the plan contains.
pub fn alone(plan: &Plan, lowered: &Lowered, agreement: &Agreement) -> Result<Program> {
    group::write(plan, lowered, agreement)
}
