//! What the ranks of a world decide alike before each runs alone: which groups get a communicator,
//! and which communications a library's own collective makes.
//!
//! Neither can be seen from one rank's plan: a communicator is split off by all ranks of its
//! parent, in one order, and a collective of a library needs slots that lie right on every rank.
//! Derived from all plans, which every process has (the law between ranks needs them), and the
//! same wherever the plans are. Tests: `tests/cuda_program.rs`.
//!
//! **No strategy gets a library's AllGather today.** It needs one array of equal slots with room for
//! the own shard. The buffers of our strategies hold the others' shards alone, since the own one is
//! used where it lies; so what they gather goes as a group of sends and receives, as many bytes in as
//! many steps. Room for the own shard would cost 1/P of the gathered bytes more and a copy within the
//! device, on every transport; what it buys, on NCCL alone, is in-network and copy-engine paths. No
//! GPU has measured what that is worth, so the plans stay as they are. A plan whose slots lie right
//! gets the collective (`tests/cuda_ranks.rs`).

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::plan::{Access, Checked, Comm, CommKind, Direction, OpId, Plan, Role, Tag};

/// What ranks that run alone must decide alike: which groups get a communicator of their own, and which
/// communications a library's own collective makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Groups of two and more ranks that communicate, in ascending order.
    pub groups: BTreeSet<Vec<u32>>,
    /// Communications that a library's own collective makes.
    native: BTreeSet<(Tag, Vec<u32>)>,
}

impl Agreement {
    /// For the plans of all ranks, in order. With `native_sums` a library's own reductions are used
    /// where they fit: sums are then in the order of that library, and bits differ between
    /// transports and between worlds (R2 instead of R1).
    ///
    /// # Errors
    /// Plans that are not those of one world.
    pub fn of(plans: &[Checked<Plan>], native_sums: bool) -> Result<Self> {
        let mut groups = BTreeSet::new();
        let mut fits: BTreeMap<(Tag, &[u32]), bool> = BTreeMap::new();
        for (rank, plan) in plans.iter().enumerate() {
            if (plan.rank as usize, plan.world as usize) != (rank, plans.len()) {
                return Err(Error::Mesh(format!(
                    "plan {rank} is for rank {} of {}: pass the plans of all {} ranks in order",
                    plan.rank,
                    plan.world,
                    plans.len()
                )));
            }
            let touched = Touched::of(plan);
            for op in plan.op_ids() {
                let Some(comm) = plan.comm(op) else { continue };
                let group = group(plan, comm);
                if group.len() > 1 {
                    groups.insert(group.to_vec());
                }
                let mine = (native_sums || !comm.kind.reduces()) && is_whole(plan, op, comm, &touched);
                *fits.entry((comm.tag, group)).or_insert(true) &= mine;
            }
        }
        let native = fits.into_iter().filter(|(_, fits)| *fits).map(|((tag, group), _)| (tag, group.to_vec()));
        Ok(Self { native: native.collect(), groups })
    }

    /// For the plans of all ranks, in order, where no library's collective is used.
    ///
    /// # Errors
    /// Plans that are not those of one world.
    pub fn without_library(plans: &[Checked<Plan>]) -> Result<Self> {
        Ok(Self { native: BTreeSet::new(), ..Self::of(plans, false)? })
    }

    /// Whether a library's own collective makes this communication of a rank's plan.
    pub fn is_native(&self, plan: &Plan, comm: &Comm) -> bool {
        self.native.contains(&(comm.tag, group(plan, comm).to_vec()))
    }

    /// `groups` in rounds of disjoint ones, each a single split of a communicator of all ranks.
    pub fn rounds(groups: impl IntoIterator<Item = Vec<u32>>) -> Vec<Vec<Vec<u32>>> {
        let mut rounds: Vec<Vec<Vec<u32>>> = Vec::new();
        for group in groups {
            let disjoint = |round: &&mut Vec<Vec<u32>>| round.iter().flatten().all(|rank| !group.contains(rank));
            match rounds.iter_mut().find(disjoint) {
                Some(round) => round.push(group),
                None => rounds.push(vec![group]),
            }
        }
        rounds
    }
}

fn group<'a>(plan: &'a Plan, comm: &Comm) -> &'a [u32] {
    plan.groups.get(comm.group as usize).map(Vec::as_slice).unwrap_or_default()
}

/// Whether the slots of one rank lie as a library's collective needs them.
fn is_whole(plan: &Plan, op: OpId, comm: &Comm, touched: &Touched) -> bool {
    let slots = Slots::of(plan, op, comm);
    let Some(own) = slots.group.iter().position(|&rank| rank == plan.rank) else { return false };
    match comm.kind {
        CommKind::AllGather => slots.gathers(plan, own, touched),
        CommKind::Broadcast => slots.sent.len() == slots.group.len() - 1 || slots.received.len() == 1,
        CommKind::AllReduce => slots.sent.len() == slots.group.len() && slots.received.len() == 1,
        CommKind::ReduceScatter => slots.received.len() == 1 && array(plan, &slots.sent, slots.group).is_some(),
        CommKind::AllToAll | CommKind::SendRecv => false,
    }
}

/// The regions of one communication, by peer.
struct Slots<'a> {
    group: &'a [u32],
    sent: Vec<(u32, &'a Access)>,
    received: Vec<(u32, &'a Access)>,
}

impl<'a> Slots<'a> {
    fn of(plan: &'a Plan, op: OpId, comm: &Comm) -> Self {
        let side = |wanted: Direction| {
            let all = comm.transfers.iter().zip(plan.accesses(op));
            all.filter(|(t, _)| t.direction == wanted).map(|(t, access)| (t.peer, access)).collect()
        };
        Self { group: group(plan, comm), sent: side(Direction::Send), received: side(Direction::Recv) }
    }

    /// One slot a rank, in group order; the own one is in its place, or nobody touches that.
    fn gathers(&self, plan: &Plan, own: usize, touched: &Touched) -> bool {
        let others: Vec<u32> = self.group.iter().copied().filter(|&rank| rank != plan.rank).collect();
        let (Some(array), Some(&(_, sent))) = (array_beside(plan, &self.received, self.group, own), self.sent.first())
        else {
            return false;
        };
        if self.sent.len() != others.len() || sent.region.elems() != array.slot {
            return false;
        }
        let (buffer, at) = (plan.buffer(array.buffer), array.first + own * array.slot);
        let in_place = sent.buffer == array.buffer && sent.region.offset(buffer.dims) == at;
        let free = || buffer.role == Role::Temp && !touched.any(array.buffer.0, at, at + array.slot);
        array.first + self.group.len() * array.slot <= buffer.elems() && (in_place || free())
    }
}

/// Equal slots side by side, in elements.
struct Array {
    buffer: crate::plan::BufferId,
    first: usize,
    slot: usize,
}

/// The array of one slot for every rank of `group`, in its order.
fn array(plan: &Plan, slots: &[(u32, &Access)], group: &[u32]) -> Option<Array> {
    array_beside(plan, slots, group, usize::MAX)
}

/// As [`array`], with no slot for the rank at place `own`.
fn array_beside(plan: &Plan, slots: &[(u32, &Access)], group: &[u32], own: usize) -> Option<Array> {
    let places = (0..group.len()).filter(|&place| place != own);
    let mut found: Option<Array> = None;
    let mut count = 0;
    for place in places {
        let mut mine = slots.iter().filter(|(rank, _)| *rank == group[place]);
        let (Some((_, access)), None) = (mine.next(), mine.next()) else { return None };
        let (slot, offset) = (access.region.elems(), access.region.offset(plan.buffer(access.buffer).dims));
        let array = Array { buffer: access.buffer, first: offset.checked_sub(place * slot)?, slot };
        count += 1;
        match &found {
            None => found = Some(array),
            Some(first) if (first.buffer, first.first, first.slot) == (array.buffer, array.first, array.slot) => {}
            Some(_) => return None,
        }
    }
    found.filter(|_| count == slots.len())
}

/// Runs of elements that the ops of a plan touch, by buffer; strided regions as the run around them.
struct Touched {
    runs: Vec<Vec<(usize, usize)>>,
}

impl Touched {
    fn of(plan: &Plan) -> Self {
        let mut runs = vec![Vec::new(); plan.buffers.len()];
        for access in plan.accesses.iter().filter(|access| !access.region.is_empty()) {
            let dims = plan.buffer(access.buffer).dims;
            let last = (0..4).fold(0, |at, i| at * dims[i] + access.region.end[i] as usize - 1);
            runs[access.buffer.0 as usize].push((access.region.offset(dims), last + 1));
        }
        Self { runs }
    }

    fn any(&self, buffer: u32, start: usize, end: usize) -> bool {
        self.runs[buffer as usize].iter().any(|&(from, to)| from < end && start < to)
    }
}
