//! Lowering: from derived edges to event records and waits, and from gates to flags.

use super::{OpId, Plan};

/// Index of an event or flag of a lowered plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub u32);

/// One command of a stream, run in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Blocks the stream until the event is recorded in this run.
    Wait(EventId),
    /// Runs an op.
    Run(OpId),
    /// Records the event: everything before it on this stream has ended.
    Record(EventId),
    /// Raises the flag that a gated read waits for: the op before it has ended.
    Raise(EventId),
}

/// A read that waits inside its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GateWait {
    /// The gated kernel.
    pub op: OpId,
    /// The piece that waits.
    pub piece: u16,
    /// The flag it waits for.
    pub flag: EventId,
}

/// What a gate becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gates {
    /// A flag that the kernel waits for, piece by piece.
    #[default]
    Flags,
    /// An event that the stream waits for before the kernel starts: the same bits, less overlap.
    Events,
}

/// The commands of every stream of one rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lowered {
    /// Commands by stream.
    pub streams: Vec<Vec<Command>>,
    /// Number of events and flags.
    pub events: u32,
    /// Waits inside kernels.
    pub gates: Vec<GateWait>,
}

/// Lowers the derived edges of `plan` to the fewest records and waits.
pub fn lower(plan: &Plan, gates: Gates) -> Lowered {
    let _ = (plan, gates);
    unimplemented!()
}
