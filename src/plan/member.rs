//! The ranks of a world: each an outline, its own or an earlier rank's with the ranks renamed.

use std::borrow::Cow;

use super::outline::{Exchange, Flow, Outline, Outlines, Peers};
use super::{Alike, Names, OpId};
use crate::error::Error;

/// One rank of a world.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) outline: &'a Outline,
    pub(super) flow: &'a Flow,
    names: Names,
}

/// All ranks of a world; `outlines` are those of `alike`'s firsts.
pub(super) fn members<'a>(outlines: &'a Outlines, alike: &Alike) -> Vec<Member<'a>> {
    let member = |(rank, number): (usize, u32)| {
        let outline = &outlines.ranks()[number as usize];
        Member { outline, flow: outlines.flow(outline), names: alike.names(rank) }
    };
    alike.numbers().into_iter().enumerate().map(member).collect()
}

impl<'a> Member<'a> {
    /// This rank.
    pub(super) fn rank(self) -> u32 {
        self.named(self.outline.rank)
    }

    /// The rank that the plan calls `rank`.
    pub(super) fn named(self, rank: u32) -> u32 {
        self.names.of(rank)
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

    /// The ranks of a group of the plan. Renamed ones ascend.
    pub(super) fn group(self, index: usize) -> Cow<'a, [u32]> {
        let group = &self.outline.groups[index];
        if self.names.are_own() {
            return Cow::Borrowed(group);
        }
        let mut ranks: Vec<u32> = group.iter().map(|&rank| self.named(rank)).collect();
        ranks.sort_unstable();
        Cow::Owned(ranks)
    }
}
