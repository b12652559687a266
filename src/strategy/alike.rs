//! Which ranks of a sequence do the same, but for the names of the ranks.
//!
//! With even cuts every ulysses group does what the first does, all ranks shifted. In a group
//! whose heads are cut evenly, ranks that hold as many tokens as each other, and see as many in
//! turn on the others, do what the first of them does: its place in every group is theirs. Other
//! strategies, replicated text and cuts that are not contiguous have a plan for every rank.
//! Proof: `tests/alike.rs`.

use super::problem::{AttentionProblem, Strategy};
use crate::mesh::Mesh;
use crate::plan::Alike;
use crate::shard::{Shard, Split, TextShard};

/// The ranks of one sequence that do the same. [`crate::plan::check_ranks`] and a simulation need
/// the plans of the first of each kind.
pub fn alike(problem: &AttentionProblem, strategy: Strategy, mesh: &Mesh) -> Alike {
    let (u, world) = (mesh.ulysses, mesh.world());
    let shard = &problem.shard;
    let exchanges = matches!(strategy, Strategy::Ulysses | Strategy::Ring | Strategy::Usp);
    let Some(rows) = rows(shard).filter(|_| exchanges && world == mesh.sequence() && shard.ranks() == world) else {
        return Alike::none(world);
    };
    let groups: Vec<&[Rows]> = rows.chunks(u).collect();
    let even = groups.iter().all(|group| *group == groups[0]);
    let heads_even = problem.heads.is_multiple_of(u) && problem.kv_heads.is_multiple_of(u);
    Alike::new(world, u, |rank| {
        let (group, place) = (if even { 0 } else { rank / u }, rank % u);
        let first = if heads_even { first_like(groups[group], place) } else { place };
        group * u + first
    })
}

/// Rows of a rank: image, keys, text.
type Rows = [usize; 3];

/// Those of every rank, where all segments are cut into contiguous chunks in the order of ranks.
fn rows(shard: &Shard) -> Option<Vec<Rows>> {
    let text = match &shard.text {
        TextShard::None => None,
        // Every place of the ring attends with other rows of it.
        TextShard::Replicated(len) if *len > 0 => return None,
        TextShard::Replicated(_) => None,
        TextShard::Split(split) => Some(split),
    };
    let ordered = [&shard.image, &shard.keys].into_iter().chain(text).all(in_order);
    let of = |rank| [shard.image.count(rank), shard.keys.count(rank), text.map_or(0, |text| text.count(rank))];
    ordered.then(|| (0..shard.ranks()).map(of).collect())
}

fn in_order(split: &Split) -> bool {
    let mut next = 0;
    (0..split.ranks()).all(|rank| {
        let runs = split.map(rank).runs();
        let follows = runs.len() <= 1 && runs.iter().all(|run| run.start == next);
        next += split.count(rank);
        follows
    })
}

/// The first place of a group that holds, and sees on the others in turn, what `place` does.
fn first_like(group: &[Rows], place: usize) -> usize {
    let seen = |place: usize| group[..place].iter().chain(&group[place + 1..]);
    let like = |first: &usize| group[*first] == group[place] && seen(*first).eq(seen(place));
    (0..place).find(like).unwrap_or(place)
}
