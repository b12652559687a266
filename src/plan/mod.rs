//! The plan: what one rank does, as plain data.
//!
//! A strategy builds one [`Plan`] a rank with a [`Builder`]; it names streams and says what each
//! op reads and writes. Dependencies are never written: [`edges`] derives them from overlapping
//! regions, [`lower`] turns them into the fewest event records and waits, [`check`] and
//! [`check_world`] hold the plan and its lowered form to the law, [`memory`] places the
//! temporaries, [`dump`] prints it. Only a [`Checked`] plan can be prepared by an executor.
//!
//! **The law.** Every read is covered by an input or an earlier write. Conflicting accesses are
//! ordered by happens-before. Every communication carries a tag, unique in its plan and equal on
//! all its ranks; matching ops agree in tag, kind, dtype and in the count of every (from, to)
//! pair. Ranks that share two groups issue their operations in one order. Nothing deadlocks.
//! Communication touches contiguous runs only. Two buffers share bytes only where every op of one
//! happens before every op of the other. The lowered form keeps every derived edge.
//!
//! This module knows no device and no thread; tests: `tests/law.rs`, `tests/plan_properties.rs`.

mod alike;
mod boxes;
mod builder;
mod comms;
mod deadlock;
pub mod dump;
pub mod edges;
mod gates;
mod law;
pub mod lower;
mod member;
pub mod memory;
mod operands;
pub mod order;
mod outline;
mod region;
mod replay;
mod rules;
mod tags;
mod world;

pub use alike::{Alike, Names};
pub use builder::{Builder, View};
pub use law::{Checked, check, check_lowered};
pub use outline::Outlines;
pub use region::Region;
pub use world::{check_outlines, check_ranks, check_world};

use crate::dtype::Dtype;
use crate::kernel::spec::{Kernel, Mode};
use crate::shard::IndexMap;

/// Index of a buffer in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Index of an op in its plan; plan order is the order in which a strategy issued the ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u32);

/// Index of a stream in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u16);

/// Identity of a communication: unique in its plan, equal on all its ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u32);

/// Where the bytes of a buffer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Bound by the caller, only read.
    Input,
    /// Bound by the caller, written.
    Output,
    /// Placed in the rank's arena by [`memory`].
    Temp,
}

/// Which part of a global tensor a bound buffer holds: along each dimension, an index map or all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Name of the global tensor.
    pub tensor: String,
    /// Extents of the global tensor.
    pub dims: [usize; 4],
    /// Global index of each local one, per dimension; `None` for the whole dimension.
    pub index: [Option<IndexMap>; 4],
}

/// A row-major tensor of four dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// Name in labels and dumps.
    pub name: String,
    /// Where its bytes come from.
    pub role: Role,
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub dims: [usize; 4],
    /// The part of a global tensor it holds, for inputs and outputs.
    pub placement: Option<Placement>,
}

impl Buffer {
    /// Number of elements.
    pub fn elems(&self) -> usize {
        self.dims.iter().product()
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.elems() * self.dtype.bytes()
    }
}

/// What an op does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Launches `plan.kernels[i]`; its accesses name the operand they belong to.
    Kernel(u32),
    /// Runs `plan.comms[i]`; each of its accesses is one transfer.
    Comm(u32),
    /// Copies its first access to its second, of equal shape and dtype, both possibly strided.
    Copy,
    /// Calls `plan.externals[i]`, an op of the embedding framework.
    External(u32),
    /// Does nothing but stand in the trace and in the stream's order.
    Mark,
}

/// One op; regions and labels are in side arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    /// What it does.
    pub kind: OpKind,
    /// Where it is issued.
    pub stream: StreamId,
    /// Its label: `plan.labels[label]`.
    pub label: u32,
    /// First of its accesses in `plan.accesses`.
    pub first_access: u32,
    /// Number of its accesses.
    pub access_count: u32,
}

/// One region that an op reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Which buffer.
    pub buffer: BufferId,
    /// How.
    pub mode: Mode,
    /// Kernels: index of the operand. Comms: index of the transfer.
    pub operand: u16,
    /// For a read: the transfer that fills the region and that the op itself waits for.
    pub gate: Option<OpId>,
    /// Which elements.
    pub region: Region,
    /// The shape under which the op sees them; differs from the region's extents only where the
    /// region is contiguous.
    pub shape: [usize; 4],
}

/// Kinds of communication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommKind {
    /// Each rank's slot to every other rank.
    AllGather,
    /// One slot for every other rank.
    AllToAll,
    /// Sum, in group order and in the op's dtype, of the slots that the ranks hold for this one;
    /// the own slot is a transfer to oneself.
    ReduceScatter,
    /// Sum, in group order, of what every rank holds.
    AllReduce,
    /// One rank's slot to all others.
    Broadcast,
    /// Any sends and receives, issued together.
    SendRecv,
}

impl CommKind {
    /// Name in labels and dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllGather => "all-gather",
            Self::AllToAll => "all-to-all",
            Self::ReduceScatter => "reduce-scatter",
            Self::AllReduce => "all-reduce",
            Self::Broadcast => "broadcast",
            Self::SendRecv => "send-recv",
        }
    }

    /// True if what arrives is summed.
    pub const fn reduces(self) -> bool {
        matches!(self, Self::ReduceScatter | Self::AllReduce)
    }
}

/// Direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the peer.
    Send,
    /// From the peer; in a reducing op, the sum, and the peer is the rank itself.
    Recv,
}

/// One message of a communication; message `i` from a to b meets the `i`-th from a on b.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// Global rank at the other end.
    pub peer: u32,
    /// Which way.
    pub direction: Direction,
}

/// A communication; transfer `i` moves the region of the op's `i`-th access.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Comm {
    /// What it does.
    pub kind: CommKind,
    /// Its identity.
    pub tag: Tag,
    /// Its ranks, in group order: `plan.groups[group]`.
    pub group: u32,
    /// Element type, on all its ranks.
    pub dtype: Dtype,
    /// Its messages, one an access.
    pub transfers: Vec<Transfer>,
}

/// What one rank does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// This rank.
    pub rank: u32,
    /// All ranks.
    pub world: u32,
    /// Names of the streams.
    pub streams: Vec<String>,
    /// The buffers.
    pub buffers: Vec<Buffer>,
    /// The ops, in issue order.
    pub ops: Vec<Op>,
    /// Regions of all ops.
    pub accesses: Vec<Access>,
    /// Labels of all ops.
    pub labels: Vec<String>,
    /// Kernels launched.
    pub kernels: Vec<Kernel>,
    /// Communications run.
    pub comms: Vec<Comm>,
    /// Groups of global ranks.
    pub groups: Vec<Vec<u32>>,
    /// Names of external calls.
    pub externals: Vec<String>,
}

impl Plan {
    /// The op.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id.0 as usize]
    }

    /// Ids of all ops, in issue order.
    pub fn op_ids(&self) -> impl Iterator<Item = OpId> + use<> {
        (0..self.ops.len() as u32).map(OpId)
    }

    /// The label of an op.
    pub fn label(&self, id: OpId) -> &str {
        &self.labels[self.op(id).label as usize]
    }

    /// The accesses of an op.
    pub fn accesses(&self, id: OpId) -> &[Access] {
        let op = self.op(id);
        &self.accesses[op.first_access as usize..(op.first_access + op.access_count) as usize]
    }

    /// The buffer.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    /// The buffer of that name.
    pub fn buffer_named(&self, name: &str) -> Option<BufferId> {
        self.buffers.iter().position(|b| b.name == name).map(|i| BufferId(i as u32))
    }

    /// The communication that an op runs, if it is one.
    pub fn comm(&self, id: OpId) -> Option<&Comm> {
        match self.op(id).kind {
            OpKind::Comm(i) => Some(&self.comms[i as usize]),
            _ => None,
        }
    }

    /// The kernel that an op launches, if it is one.
    pub fn kernel(&self, id: OpId) -> Option<&Kernel> {
        match self.op(id).kind {
            OpKind::Kernel(i) => Some(&self.kernels[i as usize]),
            _ => None,
        }
    }

    /// Bytes of one access.
    pub fn access_bytes(&self, access: &Access) -> usize {
        access.region.elems() * self.buffer(access.buffer).dtype.bytes()
    }

    /// Bytes that an op sends to other ranks.
    pub fn op_bytes_sent(&self, id: OpId) -> u64 {
        let Some(comm) = self.comm(id) else { return 0 };
        let sends = comm.transfers.iter().zip(self.accesses(id));
        sends
            .filter(|(t, _)| t.direction == Direction::Send && t.peer != self.rank)
            .map(|(_, access)| self.access_bytes(access) as u64)
            .sum()
    }

    /// Bytes that this rank sends to other ranks in one run.
    pub fn bytes_sent(&self) -> u64 {
        self.op_ids().map(|id| self.op_bytes_sent(id)).sum()
    }

    /// Messages that this rank sends to other ranks in one run.
    pub fn messages_sent(&self) -> u64 {
        let sends = |comm: &Comm| {
            comm.transfers.iter().filter(|t| t.direction == Direction::Send && t.peer != self.rank).count()
        };
        self.comms.iter().map(|comm| sends(comm) as u64).sum()
    }

    /// Floating-point operations of one run.
    pub fn flops(&self) -> f64 {
        self.op_ids().filter_map(|id| self.kernel(id)).map(|kernel| kernel.cost().flops).sum()
    }
}
