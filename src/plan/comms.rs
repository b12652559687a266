//! Rules of the law for communication, as far as one rank can see them.

use std::collections::{HashMap, HashSet};

use super::rules::{at, named};
use super::{Access, Comm, CommKind, Direction, OpId, Plan};
use crate::error::Result;
use crate::kernel::spec::Mode;

/// Tags, groups, transfers and the shape of each collective.
pub(super) fn check(plan: &Plan) -> Result<()> {
    let members: Vec<HashSet<u32>> = plan.groups.iter().map(|group| group.iter().copied().collect()).collect();
    let mut tags: HashMap<u32, OpId> = HashMap::new();
    for id in plan.op_ids() {
        let Some(comm) = plan.comm(id) else { continue };
        if let Some(other) = tags.insert(comm.tag.0, id) {
            let why = format!("has tag {}, as has \"{}\": take a new tag for every op", comm.tag.0, plan.label(other));
            return Err(at(plan, id, why));
        }
        let group = &plan.groups[comm.group as usize];
        let members = &members[comm.group as usize];
        if members.len() != group.len() || group.iter().any(|&rank| rank >= plan.world) {
            return Err(at(plan, id, "has a rank twice in its group, or one outside the world"));
        }
        if !members.contains(&plan.rank) {
            return Err(at(plan, id, format!("runs among {group:?}: rank {} is not one of them", plan.rank)));
        }
        transfers(plan, id, comm, members)?;
        shape(plan, id, comm)?;
    }
    Ok(())
}

fn transfers(plan: &Plan, id: OpId, comm: &Comm, members: &HashSet<u32>) -> Result<()> {
    let accesses = plan.accesses(id);
    if accesses.len() != comm.transfers.len() {
        let why = format!("has {} transfers but {} regions: one each", comm.transfers.len(), accesses.len());
        return Err(at(plan, id, why));
    }
    for (index, (transfer, access)) in comm.transfers.iter().zip(accesses).enumerate() {
        let buffer = plan.buffer(access.buffer);
        let name = || named(plan, access);
        let mode = if transfer.direction == Direction::Send { Mode::Read } else { Mode::Write };
        if access.mode != mode || access.operand as usize != index {
            return Err(at(
                plan,
                id,
                format!("{}: transfer {index} sends what it reads or fills what it writes", name()),
            ));
        }
        if access.region.is_empty() {
            return Err(at(plan, id, format!("{}: transfer {index} is empty; leave it out on both sides", name())));
        }
        if !access.region.is_contiguous(buffer.dims) {
            let why = format!("{} is not one run of memory: pack it first, or send its runs one by one", name());
            return Err(at(plan, id, why));
        }
        if buffer.dtype != comm.dtype {
            return Err(at(
                plan,
                id,
                format!("{} is {}, the communication is in {}", name(), buffer.dtype, comm.dtype),
            ));
        }
        if !members.contains(&transfer.peer) {
            return Err(at(plan, id, format!("{}: rank {} is not in the group", name(), transfer.peer)));
        }
        if transfer.peer == plan.rank && !comm.kind.reduces() {
            return Err(at(plan, id, format!("{} is sent to oneself: use a copy, or the slot in place", name())));
        }
    }
    Ok(())
}

/// What each kind of collective looks like from one rank.
fn shape(plan: &Plan, id: OpId, comm: &Comm) -> Result<()> {
    if matches!(comm.kind, CommKind::SendRecv | CommKind::AllToAll) {
        return Ok(());
    }
    let group = plan.groups[comm.group as usize].len();
    let slots = Slots::of(plan, id, comm);
    let refuse = |why: &str| Err(at(plan, id, format!("{}: {why}", comm.kind.name())));
    match comm.kind {
        CommKind::AllGather if !slots.to_all_alike(group - 1) => {
            refuse("every other rank is sent the same regions, in the same order, or none is sent any")
        }
        CommKind::SendRecv | CommKind::AllToAll | CommKind::AllGather => Ok(()),
        CommKind::Broadcast if !slots.sent.is_empty() && !slots.received.is_empty() => {
            refuse("the root only sends, every other rank only receives")
        }
        CommKind::Broadcast if !slots.to_all_alike(group - 1) => refuse("the root sends every other rank the same"),
        CommKind::Broadcast if slots.received.len() > 1 => refuse("there is one root"),
        CommKind::Broadcast => Ok(()),
        CommKind::ReduceScatter | CommKind::AllReduce => {
            if slots.sent.values().any(|regions| regions.len() != 1) {
                return refuse("every rank is sent one slot");
            }
            let own = slots.sent.get(&plan.rank).map(|regions| regions[0].region.elems());
            let sums: Vec<&Access> = slots.received.values().flatten().copied().collect();
            let only_own = slots.received.keys().all(|&peer| peer == plan.rank);
            if !only_own || sums.len() > 1 || sums.first().map(|sum| sum.region.elems()) != own {
                return refuse("the sum is one region, received from oneself, of as many elements as the own slot");
            }
            if comm.kind == CommKind::AllReduce && !slots.to_all_alike(group) {
                return refuse("every rank, oneself included, is sent the same region");
            }
            Ok(())
        }
    }
}

/// Regions by peer, in message order.
struct Slots<'a> {
    sent: HashMap<u32, Vec<&'a Access>>,
    received: HashMap<u32, Vec<&'a Access>>,
}

impl<'a> Slots<'a> {
    fn of(plan: &'a Plan, id: OpId, comm: &Comm) -> Self {
        let mut slots = Self { sent: HashMap::new(), received: HashMap::new() };
        for (transfer, access) in comm.transfers.iter().zip(plan.accesses(id)) {
            let side = if transfer.direction == Direction::Send { &mut slots.sent } else { &mut slots.received };
            side.entry(transfer.peer).or_default().push(access);
        }
        slots
    }

    /// True if nothing is sent, or the same regions to each of `peers` ranks.
    fn to_all_alike(&self, peers: usize) -> bool {
        let Some(first) = self.sent.values().next() else { return true };
        let alike = |regions: &Vec<&Access>| {
            regions.len() == first.len()
                && regions.iter().zip(first).all(|(a, b)| (a.buffer, a.region) == (b.buffer, b.region))
        };
        self.sent.len() == peers && self.sent.values().all(alike)
    }
}
