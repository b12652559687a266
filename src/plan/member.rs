//! The ranks of a world: each an outline, its own or an earlier rank's with every rank shifted.

use std::borrow::Cow;
use std::ops::Deref;

use super::{OpId, Outline};
use crate::error::Error;

/// One rank of a world.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) outline: &'a Outline,
    shift: u32,
}

/// All ranks of the world of which `outlines` are the first.
pub(super) fn members(outlines: &[Outline]) -> Vec<Member<'_>> {
    let world = outlines.first().map_or(0, |outline| outline.world as usize);
    (0..world)
        .map(|rank| Member { outline: &outlines[rank % outlines.len()], shift: (rank - rank % outlines.len()) as u32 })
        .collect()
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

    /// A broken rule, found at `op`.
    pub(super) fn at(self, op: OpId, why: impl Into<String>) -> Error {
        Error::Law { rank: self.outline.rank as usize, op: self.label(op).to_string(), why: why.into() }
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

impl Deref for Member<'_> {
    type Target = Outline;

    fn deref(&self) -> &Outline {
        self.outline
    }
}
