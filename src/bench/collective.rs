//! One collective on its own, in the terms of nccl-tests (`doc/PERFORMANCE.md`): its size is the
//! whole array for an all-gather and a reduce-scatter, one rank's array for an all-reduce and a
//! broadcast, all slots of a rank for an all-to-all, one message for a ring of sends.

use std::str::FromStr;

use super::samples::Samples;
use super::world::{World, seconds};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::exec::host::HostOptions;
use crate::plan::{Builder, CommKind, Direction, Placement, Plan, Role, View};

/// Which collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Collective {
    /// Every rank gets all ranks' parts.
    AllGather,
    /// Every rank sends every other a part of its own.
    AllToAll,
    /// Every rank gets the sum of one part.
    ReduceScatter,
    /// Every rank gets the sum of all.
    AllReduce,
    /// Rank 0's array to all.
    Broadcast,
    /// Each rank sends to the next and receives from the one before.
    SendRecvRing,
}

impl Collective {
    /// All, in the order of tables.
    pub const ALL: [Self; 6] =
        [Self::AllGather, Self::AllToAll, Self::ReduceScatter, Self::AllReduce, Self::Broadcast, Self::SendRecvRing];

    /// Name in the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllGather => "all-gather",
            Self::AllToAll => "all-to-all",
            Self::ReduceScatter => "reduce-scatter",
            Self::AllReduce => "all-reduce",
            Self::Broadcast => "broadcast",
            Self::SendRecvRing => "send-recv-ring",
        }
    }

    /// busbw over algbw: the part of the size that crosses a rank's port.
    pub fn bus_factor(self, ranks: usize) -> f64 {
        let n = ranks as f64;
        match self {
            Self::AllGather | Self::AllToAll | Self::ReduceScatter => (n - 1.0) / n,
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::Broadcast | Self::SendRecvRing => 1.0,
        }
    }

    /// The plan of every rank for `elems` elements of its size, rounded down to whole slots.
    pub fn plans(self, ranks: usize, dtype: Dtype, elems: usize) -> Vec<Plan> {
        (0..ranks).map(|rank| self.plan(rank, ranks, dtype, elems)).collect()
    }

    fn plan(self, rank: usize, ranks: usize, dtype: Dtype, elems: usize) -> Plan {
        let slot = elems / ranks;
        let slots = slot * ranks;
        let others = || (0..ranks).filter(move |&other| other != rank);
        let (kind, sent, received) = match self {
            Self::AllGather => (CommKind::AllGather, slot, slots),
            Self::AllToAll => (CommKind::AllToAll, slots, slots),
            Self::ReduceScatter => (CommKind::ReduceScatter, slots, slot),
            Self::AllReduce => (CommKind::AllReduce, elems, elems),
            Self::Broadcast => (CommKind::Broadcast, elems, elems),
            Self::SendRecvRing => (CommKind::SendRecv, elems, elems),
        };
        let mut b = Builder::new(rank, ranks);
        let stream = b.stream("comm");
        let dims = [1, 1, 1, sent];
        let placement = Placement { tensor: format!("sent by {rank}"), dims, index: [None, None, None, None] };
        let from = b.buffer("sent", Role::Input, dtype, dims, Some(placement));
        let to = b.temp("received", dtype, [1, 1, 1, received]);
        let part = |of: View, at: usize| of.cols(at * slot..(at + 1) * slot);
        let mut transfers = Vec::new();
        let mut send = |peer: usize, view: View| transfers.push((Direction::Send, peer, view));
        match self {
            Self::AllGather => others().for_each(|peer| send(peer, from)),
            Self::AllToAll => others().for_each(|peer| send(peer, part(from, peer))),
            Self::ReduceScatter => (0..ranks).for_each(|peer| send(peer, part(from, peer))),
            Self::AllReduce => (0..ranks).for_each(|peer| send(peer, from)),
            Self::Broadcast if rank == 0 => others().for_each(|peer| send(peer, from)),
            Self::Broadcast => {}
            Self::SendRecvRing => send((rank + 1) % ranks, from),
        }
        let mut receive = |peer: usize, view: View| transfers.push((Direction::Recv, peer, view));
        match self {
            Self::AllGather | Self::AllToAll => others().for_each(|peer| receive(peer, part(to, peer))),
            Self::ReduceScatter | Self::AllReduce => receive(rank, to),
            Self::Broadcast if rank == 0 => {}
            Self::Broadcast => receive(0, to),
            Self::SendRecvRing => receive((rank + ranks - 1) % ranks, to),
        }
        let group: Vec<usize> = (0..ranks).collect();
        let tag = b.tag();
        b.comm(stream, self.name(), kind, tag, &group, dtype, &transfers);
        b.finish()
    }
}

impl FromStr for Collective {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|collective| collective.name() == name);
        found.ok_or_else(|| Error::Unsupported(format!("unknown collective \"{name}\": use {known}")))
    }
}

/// Measures `iterations` runs of the plans of one collective, after one to warm up.
///
/// # Errors
/// A single rank, an array of less than one element a rank, a run that fails.
pub fn collective(
    which: Collective,
    ranks: usize,
    dtype: Dtype,
    elems: usize,
    options: &HostOptions,
    iterations: usize,
) -> Result<Samples> {
    if ranks < 2 {
        return Err(Error::Mesh(format!("a collective among {ranks} ranks: use at least 2")));
    }
    if elems < ranks {
        return Err(Error::Shape(format!("{elems} elements among {ranks} ranks: use at least one a rank")));
    }
    let mut world = World::new(which.plans(ranks, dtype, elems), options.clone())?;
    let mut times = Vec::new();
    for iteration in 0..=iterations {
        let report = world.run()?;
        if iteration > 0 {
            times.push(seconds(&report));
        }
    }
    Ok(Samples::of(&times))
}
