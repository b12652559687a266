//! The law between ranks: what is sent is received, in one order, and nothing deadlocks.
//!
//! Every communication has a tag. All ranks of its group have that tag once, with the same group,
//! kind and dtype (disjoint groups may use one tag); every message from a to b has the same count
//! on both sides, in order; ranks that share tags issue them in one order (what a communication library asks of two groups that
//! share ranks); and no op waits, across ranks, for its own end: a transfer ends only after both
//! of its sides have started. Refuses plans that break one of these, by an error that names the
//! op; assumes nothing. Near linear in the number of transfers. Tests: `tests/law.rs`.

use std::collections::HashMap;

use super::member::{Member, members};
use super::outline::{Exchange, Outline, Outlines};
use super::rules::law;
use super::tags::{Shared, Tags};
use super::{Alike, Checked, Direction, OpId, Plan, check, deadlock};
use crate::error::{Error, Result};

/// Holds the plans of all ranks, in any order, to the law; returns them by rank.
///
/// # Errors
/// [`Error::Law`] with the rank, the op, the rule and what to change.
pub fn check_world(plans: Vec<Plan>) -> Result<Vec<Checked<Plan>>> {
    let world = plans.len();
    let mut by_rank: Vec<Option<Plan>> = plans.iter().map(|_| None).collect();
    for plan in plans {
        let rank = plan.rank as usize;
        if plan.world as usize != world || rank >= world || by_rank[rank].is_some() {
            let why = format!("a plan for rank {rank} of {} among {world} plans: one plan a rank", plan.world);
            return Err(law(&plan, "plan", why));
        }
        by_rank[rank] = Some(plan);
    }
    let plans = by_rank.into_iter().flatten().map(check).collect::<Result<Vec<_>>>()?;
    check_ranks(&plans, &Alike::none(world))?;
    Ok(plans)
}

/// Holds to the law what the ranks of a world owe each other. `plans` are those of the firsts of
/// `alike`, in order; all ranks are checked.
///
/// # Errors
/// [`Error::Law`] as [`check_world`].
pub fn check_ranks(plans: &[Checked<Plan>], alike: &Alike) -> Result<()> {
    let mut outlines = Outlines::default();
    plans.iter().for_each(|plan| outlines.push(plan));
    check_outlines(&outlines, alike)
}

/// [`check_ranks`] of plans of which only the outlines are left.
///
/// # Errors
/// [`Error::Law`] as [`check_world`].
pub fn check_outlines(outlines: &Outlines, alike: &Alike) -> Result<()> {
    let (ranks, world) = (outlines.ranks(), alike.world());
    let firsts: Vec<usize> = alike.firsts().collect();
    let strange = |(of, rank): &(&Outline, &usize)| of.rank as usize != **rank || of.world as usize != world;
    if let Some((of, rank)) = ranks.iter().zip(&firsts).find(strange) {
        let why = format!("is the plan of rank {} of {}, not of rank {rank} of {world}", of.rank, of.world);
        return Err(Error::Law { rank: of.rank as usize, op: "plan".into(), why });
    }
    if ranks.len() != firsts.len() {
        let why = format!("{} plans where {} of {world} ranks have their own: give those", ranks.len(), firsts.len());
        return Err(Error::Law { rank: 0, op: "plan".into(), why });
    }
    let members = members(outlines, alike);
    let tags = Tags::of(&members)?;
    counts_agree(&members, &tags)?;
    one_order(&members, &tags)?;
    deadlock::check(&members, &tags)
}

/// One message: from, to, its number among those, elements.
type Message = (u32, u32, u32, usize);

fn counts_agree(plans: &[Member], tags: &Tags) -> Result<()> {
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    // By peer as a plan names it: messages of one op to it and from it so far.
    let mut numbers = vec![[0; 2]; plans.len()];
    for shared in &tags.shared {
        sent.clear();
        received.clear();
        for &(rank, op) in &shared.ops {
            let plan = plans[rank as usize];
            let Some(comm) = plan.comm(op) else { continue };
            list_messages(plan, comm, shared, &mut numbers, &mut sent, &mut received);
        }
        sent.sort_unstable();
        received.sort_unstable();
        if sent == received {
            continue;
        }
        let at_first = sent.iter().zip(&received).position(|(a, b)| a != b).unwrap_or(sent.len().min(received.len()));
        let smaller = [sent.get(at_first), received.get(at_first)].into_iter().flatten().min();
        let Some(&(from, to, number, _)) = smaller else { continue };
        let count = |list: &[Message]| {
            let first = list.partition_point(|m| (m.0, m.1, m.2) < (from, to, number));
            list.get(first).filter(|m| (m.0, m.1, m.2) == (from, to, number)).map_or(0, |m| m.3)
        };
        let why = format!(
            "message {number} from rank {from} to rank {to} has {} elements where it is sent and {} where it is received: make both equal",
            count(&sent),
            count(&received)
        );
        let op = shared.ops.iter().find(|(rank, _)| *rank == from).or(shared.ops.first());
        return Err(match op {
            Some((rank, op)) => plans[*rank as usize].at(*op, why),
            None => Error::Law { rank: from as usize, op: "plan".into(), why },
        });
    }
    Ok(())
}

fn list_messages(
    plan: Member,
    comm: &Exchange,
    shared: &Shared,
    numbers: &mut [[u32; 2]],
    sent: &mut Vec<Message>,
    received: &mut Vec<Message>,
) {
    for message in plan.outline.messages(comm) {
        let elems = message.elems;
        if comm.kind.reduces() && message.direction == Direction::Recv {
            // A sum takes one slot of its own size from every rank of the group.
            received.extend(shared.ranks.iter().map(|&from| (from, plan.rank(), 0, elems)));
            continue;
        }
        let number = &mut numbers[message.peer as usize][usize::from(message.direction == Direction::Recv)];
        match message.direction {
            Direction::Send => sent.push((plan.rank(), plan.named(message.peer), *number, elems)),
            Direction::Recv => received.push((plan.named(message.peer), plan.rank(), *number, elems)),
        }
        *number += 1;
    }
    plan.outline.messages(comm).iter().for_each(|message| numbers[message.peer as usize] = [0; 2]);
}

/// Every pair of ranks issues its common tags in one order.
fn one_order(plans: &[Member], tags: &Tags) -> Result<()> {
    // Nearly always every rank issues its tags by number.
    let number = |issued: &(OpId, usize)| tags.shared[issued.1].tag;
    let ascending = |issued: &Vec<(OpId, usize)>| issued.windows(2).all(|pair| number(&pair[0]) < number(&pair[1]));
    if tags.issued.iter().all(ascending) {
        return Ok(());
    }
    // Two ranks share a tag exactly if they share its group: compare the issue order of each pair
    // of groups with that of the first rank in both.
    let mut first_seen: HashMap<(usize, usize), (usize, Vec<usize>)> = HashMap::new();
    for (rank, issued) in tags.issued.iter().enumerate() {
        let mut by_group: HashMap<usize, Vec<usize>> = HashMap::new();
        for (position, (_, tag)) in issued.iter().enumerate() {
            by_group.entry(tags.shared[*tag].group).or_default().push(position);
        }
        let mut groups: Vec<usize> = by_group.keys().copied().collect();
        groups.sort_unstable();
        for (i, a) in groups.iter().enumerate() {
            for b in &groups[i..] {
                let mut positions = by_group[a].clone();
                if a != b {
                    positions.extend(&by_group[b]);
                    positions.sort_unstable();
                }
                let order: Vec<usize> = positions.iter().map(|&at| issued[at].1).collect();
                let (other, reference) = first_seen.entry((*a, *b)).or_insert_with(|| (rank, order.clone()));
                if let Some(at_first) = order.iter().zip(reference.iter()).position(|(mine, theirs)| mine != theirs) {
                    let plan = &plans[rank];
                    let earlier = tags.shared[reference[at_first]].ops.iter().find(|(of, _)| *of as usize == rank);
                    let why = format!(
                        "is issued before \"{}\", but rank {other} issues them the other way round: issue shared communications in one order",
                        earlier.map_or("another op", |(_, op)| plan.flow.label(*op)),
                    );
                    return Err(plan.at(issued[positions[at_first]].0, why));
                }
            }
        }
    }
    Ok(())
}
