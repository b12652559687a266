//! The ranks of a world: each a checked plan, its own or an earlier rank's with every rank shifted.

use std::borrow::Cow;
use std::ops::Deref;

use super::{Checked, Plan};

/// One rank of a world.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) plan: &'a Checked<Plan>,
    shift: u32,
}

/// All ranks of the world of which `plans` are the first.
pub(super) fn members(plans: &[Checked<Plan>]) -> Vec<Member<'_>> {
    let world = plans.first().map_or(0, |plan| plan.world as usize);
    (0..world)
        .map(|rank| Member { plan: &plans[rank % plans.len()], shift: (rank - rank % plans.len()) as u32 })
        .collect()
}

impl<'a> Member<'a> {
    /// This rank.
    pub(super) fn rank(self) -> u32 {
        self.named(self.plan.rank)
    }

    /// The rank that the plan calls `rank`.
    pub(super) fn named(self, rank: u32) -> u32 {
        if self.shift == 0 { rank } else { (rank + self.shift) % self.plan.world }
    }

    /// The ranks of a group of the plan. Shifted ones ascend.
    pub(super) fn group(self, index: usize) -> Cow<'a, [u32]> {
        let group = &self.plan.groups[index];
        if self.shift == 0 {
            return Cow::Borrowed(group);
        }
        let mut ranks: Vec<u32> = group.iter().map(|&rank| self.named(rank)).collect();
        ranks.sort_unstable();
        Cow::Owned(ranks)
    }
}

impl Deref for Member<'_> {
    type Target = Checked<Plan>;

    fn deref(&self) -> &Checked<Plan> {
        self.plan
    }
}
