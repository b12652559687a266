//! Checked mode: all ranks compare their plans once, before anything is launched.
//!
//! Each rank puts a row of numbers into the store, one for each other rank: a digest of what the
//! two do with each other, made so that both sides get the same number if they agree. Only where
//! two numbers differ are the lists of calls read and compared. Every rank reads the same rows, so
//! every rank comes to the same answer, also one that has nothing to do with the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::compare::names;
use super::plan::calls;
use super::{Category, Finding, Part, Rank, Side, Signature, compare, digest};
use crate::error::{Error, Failure, FailureKind, Result};
use crate::plan::Plan;
use crate::rendezvous::{Store, has_long, is_timeout, set_long, told_by, wait_long};

/// Compares the communications of this rank's plan with those of all other ranks, over the store.
/// `name` is the plan's: at most 40 ASCII letters without spaces, the same on all ranks, used once
/// in a store.
///
/// # Errors
/// [`FailureKind::Mismatch`] with the first op in which ranks differ, in words of both sides;
/// [`FailureKind::Timeout`] with the ranks that have not come by the deadline; an error of the
/// store.
pub fn agree(store: &dyn Store, name: &str, plan: &Plan, deadline: Instant) -> Result<()> {
    let begin = Instant::now();
    let told = |error| told_by(error, plan.rank as usize, &format!("plan {name}"), "", begin);
    let own = calls(plan);
    let list: Vec<Signature> = own.iter().map(|(_, call)| *call).collect();
    let bytes: Vec<u8> = list.iter().flat_map(Signature::to_bytes).collect();
    set_long(store, &key(name, "calls", plan.rank), &bytes).map_err(told)?;
    let row = row(&list, plan.rank, plan.world);
    let bytes: Vec<u8> = row.iter().flat_map(|n| n.to_le_bytes()).collect();
    set_long(store, &key(name, "row", plan.rank), &bytes).map_err(told)?;
    let failure = |kind, seq, op: &str, culprits: Vec<usize>| {
        let (comm, op, rank) = (format!("plan {name}"), op.to_string(), plan.rank as usize);
        Error::Between(Box::new(Failure {
            kind,
            rank,
            comm,
            seq,
            op,
            culprits,
            elapsed_ms: begin.elapsed().as_millis() as u64,
        }))
    };
    let mut rows: Vec<Vec<u64>> = Vec::with_capacity(plan.world as usize);
    for rank in 0..plan.world {
        let bytes = match wait_long(store, &key(name, "row", rank), deadline) {
            Ok(bytes) => bytes,
            Err(error) if is_timeout(&error) => {
                let missing = |rank: &u32| matches!(has_long(store, &key(name, "row", *rank)), Ok(false));
                let missing: Vec<u32> = (0..plan.world).filter(missing).collect();
                let stage = format!("{} did not say what they are about to do", names(&missing));
                let culprits = missing.iter().map(|&rank| rank as usize).collect();
                return Err(failure(FailureKind::Timeout { stage }, None, "", culprits));
            }
            Err(error) => return Err(told(error)),
        };
        rows.push(bytes.chunks_exact(8).map(|n| n.try_into().map_or(0, u64::from_le_bytes)).collect());
    }
    let meet = |a: usize, b: usize| rows[a].len() == rows.len() && rows[a].get(b) == rows[b].get(a);
    if (0..rows.len()).all(|a| (0..rows.len()).all(|b| a == b || meet(a, b))) {
        return Ok(());
    }
    let mut lists = Vec::with_capacity(plan.world as usize);
    for rank in 0..plan.world {
        let bytes = wait_long(store, &key(name, "calls", rank), deadline).map_err(told)?;
        lists.push(bytes.chunks_exact(Signature::BYTES).filter_map(parse).collect::<Vec<Signature>>());
    }
    let Some((comm, finding)) = first_difference(&lists) else {
        let mine = format!("run a plan for {} ranks", plan.world);
        let theirs = "run one for another number".to_string();
        let other = |rank: &usize| rows[*rank].len() != rows.len();
        return Err(failure(FailureKind::Mismatch { mine, theirs }, None, "", (0..rows.len()).filter(other).collect()));
    };
    let here = own.iter().find(|(_, call)| call.comm == comm && call.seq == finding.seq);
    let (mine, theirs, culprits) = as_seen_by(plan.rank, &finding, here.map(|(_, call)| call));
    let op = here.map_or("", |(op, _)| plan.label(*op));
    Err(failure(FailureKind::Mismatch { mine, theirs }, Some(finding.seq), op, culprits))
}

fn key(name: &str, what: &str, rank: u32) -> String {
    format!("plan/{name}/{what}/{rank}")
}

fn parse(bytes: &[u8]) -> Option<Signature> {
    Signature::from_bytes(bytes.try_into().ok()?)
}

/// One number for each other rank: what the two do with each other, op by op.
fn row(calls: &[Signature], rank: u32, world: u32) -> Vec<u64> {
    let mut rows: BTreeMap<u32, u64> = BTreeMap::new();
    for op in calls.chunk_by(|a, b| (a.comm, a.seq) == (b.comm, b.seq)) {
        // What travels up, to the higher rank, and down.
        let mut ways: BTreeMap<u32, [u64; 2]> = BTreeMap::new();
        for call in op {
            let Some(peer) = call.peer else { continue };
            let up = (call.part == Part::Send) == (rank < peer);
            let way = &mut ways.entry(peer).or_default()[usize::from(up)];
            let bytes = Signature { peer: None, part: Part::Whole, ..*call }.to_bytes();
            let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
            *way = digest(std::iter::once(*way).chain(words));
        }
        for (peer, [down, up]) in ways {
            let row = rows.entry(peer).or_default();
            *row = digest([*row, down, up]);
        }
    }
    (0..world).map(|peer| rows.get(&peer).copied().unwrap_or(0)).collect()
}

/// The first difference, and its communicator.
fn first_difference(lists: &[Vec<Signature>]) -> Option<(u32, Finding)> {
    // Communicators in the order in which the ranks first use them.
    let mut members: Vec<(u32, BTreeSet<u32>)> = Vec::new();
    for (rank, calls) in lists.iter().enumerate() {
        for call in calls {
            let at = members.iter().position(|(comm, _)| *comm == call.comm).unwrap_or_else(|| {
                members.push((call.comm, BTreeSet::new()));
                members.len() - 1
            });
            members[at].1.insert(rank as u32);
            members[at].1.extend(call.peer.filter(|&peer| (peer as usize) < lists.len()));
        }
    }
    let place = |comm: u32, seq: u64| {
        let places = lists.iter().filter_map(|calls| calls.iter().position(|c| c.comm == comm && c.seq == seq));
        places.min().unwrap_or(usize::MAX)
    };
    let mut first: Option<(usize, u32, Finding)> = None;
    for (comm, ranks) in members {
        let of = |rank: u32| lists[rank as usize].iter().filter(|call| call.comm == comm).copied().collect();
        let calls: Vec<(u32, Vec<Signature>)> = ranks.into_iter().map(|rank| (rank, of(rank))).collect();
        let ranks: Vec<Rank<'_>> =
            calls.iter().map(|(rank, calls)| Rank { rank: *rank, calls, from: 0, completed: 0 }).collect();
        let Some(finding) = compare(&ranks).into_iter().next() else { continue };
        let at = place(comm, finding.seq);
        if first.as_ref().is_none_or(|(other, ..)| at < *other) {
            first = Some((at, comm, finding));
        }
    }
    first.map(|(_, comm, finding)| (comm, finding)).or_else(|| order_of_communicators(lists))
}

/// Two ranks that use two common communicators in different orders.
fn order_of_communicators(lists: &[Vec<Signature>]) -> Option<(u32, Finding)> {
    let with = |rank: usize, peer: usize| {
        let ops = lists[rank].iter().filter(move |call| call.peer == Some(peer as u32));
        let mut ops: Vec<&Signature> = ops.collect();
        ops.dedup_by_key(|call| (call.comm, call.seq));
        ops
    };
    for b in 1..lists.len() {
        for a in 0..b {
            let (mine, theirs) = (with(a, b), with(b, a));
            let differ = mine.iter().zip(&theirs).find(|(x, y)| (x.comm, x.seq) != (y.comm, y.seq));
            let Some((mine, theirs)) = differ else { continue };
            let does = |call: &Signature| format!("{call} (tag {}) first", call.tag);
            let sides = vec![
                Side { ranks: vec![a as u32], does: does(mine) },
                Side { ranks: vec![b as u32], does: does(theirs) },
            ];
            let culprits = vec![a as u32, b as u32];
            return Some((mine.comm, Finding { category: Category::Order, seq: mine.seq, culprits, sides }));
        }
    }
    None
}

/// What this rank would do, what others would, and who is at fault: where both sides are, the other.
fn as_seen_by(rank: u32, finding: &Finding, here: Option<&Signature>) -> (String, String, Vec<usize>) {
    let is_mine = |side: &&Side| side.ranks.contains(&rank);
    let is_at_fault = |side: &&Side| side.ranks.iter().any(|rank| finding.culprits.contains(rank));
    let mine = finding.sides.iter().find(is_mine);
    let others: Vec<&Side> = finding.sides.iter().filter(|side| !is_mine(side)).collect();
    let is_undecided = finding.sides.iter().all(|side| is_at_fault(&side));
    let culprits = finding.culprits.iter().filter(|culprit| match mine {
        Some(mine) if is_undecided => !mine.ranks.contains(culprit),
        _ => true,
    });
    let say = |side: &Side| format!("{} ({})", side.does, names(&side.ranks));
    let does = mine.map(|side| side.does.clone()).or(here.map(Signature::to_string));
    let theirs: Vec<String> = others.into_iter().map(say).collect();
    (
        does.unwrap_or_else(|| "do nothing".into()),
        format!("{} [{} differs]", theirs.join("; "), finding.category.name()),
        culprits.map(|&rank| rank as usize).collect(),
    )
}
