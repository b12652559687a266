//! The ranks of a world: each an outline, its own or an earlier rank's with every rank shifted.

use std::borrow::Cow;

use super::OpId;
use super::outline::{Exchange, Flow, Outline, Outlines, Peers};
use crate::error::Error;

/// One rank of a world.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) outline: &'a Outline,
    pub(super) flow: &'a Flow,
    shift: u32,
}

/// All ranks of the world of which `outlines` are the first.
pub(super) fn members(outlines: &Outlines) -> Vec<Member<'_>> {
    let ranks = outlines.ranks();
    let world = ranks.first().map_or(0, |outline| outline.world as usize);
    let member = |rank: usize| {
        let outline = &ranks[rank % ranks.len()];
        Member { outline, flow: outlines.flow(outline), shift: (rank - rank % ranks.len()) as u32 }
    };
    (0..world).map(member).collect()
}

impl<'a> Member<'a> {
    /// This rank.
    pub(super) fn rank(self) -> u32 {
        self.named(self.outline.rank)
    }

    /// The rank that the plan calls `rank`.
    pub(super) fn named(self, rank: u32) -> u32 {
        if self.shift == 0 { rank } else { (rank + self.shift) % self.outline.world }
    }

    /// The communication that an op runs, if it is one.
    pub(super) fn comm(self, op: OpId) -> Option<&'a Exchange> {
        self.flow.comm(op).map(|comm| &self.outline.comms[comm])
    }

    /// With whom an op exchanges, as the plan names them.
    pub(super) fn peers(self, op: OpId) -> Peers<'a> {
        self.comm(op).map_or(Peers::Nobody, |comm| self.outline.peers(comm))
    }

    /// A broken rule, found at `op`.
    pub(super) fn at(self, op: OpId, why: impl Into<String>) -> Error {
        Error::Law { rank: self.outline.rank as usize, op: self.flow.label(op).to_string(), why: why.into() }
    }

    /// The ranks of a group of the plan. Shifted ones ascend.
    pub(super) fn group(self, index: usize) -> Cow<'a, [u32]> {
        let group = &self.outline.groups[index];
        if self.shift == 0 {
            return Cow::Borrowed(group);
        }
        let mut ranks: Vec<u32> = group.iter().map(|&rank| self.named(rank)).collect();
        ranks.sort_unstable();
        Cow::Owned(ranks)
    }
}
