//! The communications of a world: which ops of which ranks are one.
//!
//! Refuses ranks that mean different things by one tag; the rest of the law between ranks is in
//! [`super::world`] and [`super::deadlock`].

use std::borrow::Cow;
use std::collections::HashMap;

use super::member::Member;
use super::{CommKind, OpId};
use crate::dtype::Dtype;
use crate::error::Result;

/// One communication of the world.
pub(super) struct Shared {
    /// What it does.
    pub(super) kind: CommKind,
    pub(super) dtype: Dtype,
    pub(super) tag: u32,
    /// Number of its group among those of all ranks.
    pub(super) group: usize,
    /// Ranks of its group, in order.
    pub(super) ranks: Vec<u32>,
    /// Its op on each rank that has it, by rank.
    pub(super) ops: Vec<(u32, OpId)>,
}

/// The communications of the world, and which of them each rank runs, in issue order.
pub(super) struct Tags {
    pub(super) shared: Vec<Shared>,
    /// By rank: (op, index in `shared`).
    pub(super) issued: Vec<Vec<(OpId, usize)>>,
}

impl Tags {
    pub(super) fn of(plans: &[Member]) -> Result<Self> {
        let mut tags = Self { shared: Vec::new(), issued: Vec::with_capacity(plans.len()) };
        let mut groups: HashMap<Cow<[u32]>, usize> = HashMap::new();
        // Disjoint groups may use one tag: every rank counts its tags alike.
        let mut by_tag: HashMap<(u32, usize), usize> = HashMap::new();
        for plan in plans {
            let mut global = Vec::with_capacity(plan.outline.groups.len());
            for group in 0..plan.outline.groups.len() {
                let next = groups.len();
                global.push(*groups.entry(plan.group(group)).or_insert(next));
            }
            let mut issued = Vec::new();
            for comm in &plan.outline.comms {
                let id = comm.op;
                let group = global[comm.group as usize];
                let index = *by_tag.entry((comm.tag, group)).or_insert_with(|| {
                    let ranks = plan.group(comm.group as usize).into_owned();
                    let tag = comm.tag;
                    tags.shared.push(Shared { kind: comm.kind, dtype: comm.dtype, tag, group, ranks, ops: Vec::new() });
                    tags.shared.len() - 1
                });
                let shared = &mut tags.shared[index];
                let differs = [(shared.kind != comm.kind, "kind"), (shared.dtype != comm.dtype, "dtype")];
                if let Some((_, what)) = differs.into_iter().find(|(differs, _)| *differs) {
                    let (rank, op) = shared.ops.first().copied().unwrap_or((plan.rank(), id));
                    let why = format!(
                        "has tag {} with another {what} than \"{}\" on rank {rank}: a tag is one communication",
                        comm.tag,
                        plans[rank as usize].flow.label(op)
                    );
                    return Err(plan.at(id, why));
                }
                shared.ops.push((plan.rank(), id));
                issued.push((id, index));
            }
            tags.issued.push(issued);
        }
        // Every op's rank is in its group and tags are unique on a rank, so that counting suffices.
        for shared in tags.shared.iter().filter(|shared| shared.ops.len() != shared.ranks.len()) {
            let absent = shared.ranks.iter().find(|rank| shared.ops.binary_search_by_key(*rank, |op| op.0).is_err());
            let (Some(absent), Some((rank, op))) = (absent, shared.ops.first()) else { continue };
            let why = format!(
                "rank {absent} of its group has no such op with tag {} and this group: every rank of the group issues it",
                shared.tag
            );
            return Err(plans[*rank as usize].at(*op, why));
        }
        Ok(tags)
    }
}
