//! The first call in which ranks of a communicator differ, and who is at fault.
//!
//! Ranks are compared op by op. Where they differ, the fewer are at fault: a rank that does what
//! no other does, or the rank in most of the messages that do not meet. Of two sides that are
//! equally many both are named. A rank at fault is left out of what follows, since all its later
//! calls are shifted or wrong as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Part, Signature};
use crate::plan::CommKind;

/// What one rank did in one communicator.
#[derive(Clone, Copy, Debug)]
pub struct Rank<'a> {
    /// The rank.
    pub rank: u32,
    /// Its calls, in order, their `seq` never falling.
    pub calls: &'a [Signature],
    /// First op that `calls` has whole; earlier ones are not compared.
    pub from: u64,
    /// Number of ops that have ended; 0 before anything ran.
    pub completed: u64,
}

/// In what ranks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Category {
    /// Another kind of op.
    Kind,
    /// Another number of elements.
    Size,
    /// Another element type.
    Dtype,
    /// Another peer or root.
    Peer,
    /// The same ops in another order.
    Order,
    /// One stopped earlier than others.
    State,
}

impl Category {
    /// Name in findings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Size => "size",
            Self::Dtype => "dtype",
            Self::Peer => "peer",
            Self::Order => "order",
            Self::State => "state",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In what.
    pub category: Category,
    /// Index of the op in its communicator.
    pub seq: u64,
    /// The ranks at fault, ascending; of two equal sides, both.
    pub culprits: Vec<u32>,
    /// What the ranks did.
    pub sides: Vec<Side>,
}

/// Ranks that did the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Which.
    pub ranks: Vec<u32>,
    /// What, in words.
    pub does: String,
}

impl fmt::Display for Finding {
    /// `seq 7: size differs, culprit rank 2: ranks 0, 1 all-gather of 4 f32; rank 2 …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let culprits = if self.culprits.len() == 1 { "culprit" } else { "culprits" };
        write!(f, "seq {}: {} differs, {culprits} {}", self.seq, self.category.name(), names(&self.culprits))?;
        for (i, side) in self.sides.iter().enumerate() {
            write!(f, "{} {}: {}", if i == 0 { ";" } else { "," }, names(&side.ranks), side.does)?;
        }
        Ok(())
    }
}

/// `rank 1`, `ranks 1, 2`.
pub(crate) fn names<R: fmt::Display>(ranks: &[R]) -> String {
    let names: Vec<String> = ranks.iter().map(R::to_string).collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, names.join(", "))
}

/// How far behind its place an op is looked for before its order is said to be right.
const WINDOW: u64 = 64;

/// The first difference of every rank that differs, in order.
pub fn compare(ranks: &[Rank<'_>]) -> Vec<Finding> {
    let mut ranks: Vec<Rank<'_>> = ranks.to_vec();
    ranks.sort_by_key(|rank| rank.rank);
    let begin = ranks.iter().map(|rank| rank.from).max().unwrap_or(0);
    let seqs: BTreeSet<u64> = ranks.iter().flat_map(|rank| rank.calls).map(|call| call.seq).collect();
    let mut findings = Vec::new();
    for &seq in seqs.range(begin..) {
        while let Some(finding) = differ(&ranks, seq) {
            ranks.retain(|rank| !finding.culprits.contains(&rank.rank));
            findings.push(finding);
        }
    }
    findings
}

fn differ(ranks: &[Rank<'_>], seq: u64) -> Option<Finding> {
    let sides: Vec<Calls<'_>> = ranks.iter().map(|rank| (rank.rank, at(rank, seq))).collect();
    if let Some(finding) = absent(ranks, &sides, seq) {
        return Some(finding);
    }
    if let Some(finding) = mismatch(&sides, seq) {
        return Some(in_order(ranks, finding));
    }
    let (done, open): (Vec<&Rank<'_>>, Vec<&Rank<'_>>) = ranks.iter().partition(|rank| rank.completed > seq);
    if done.is_empty() || open.is_empty() {
        return None;
    }
    let numbers = |list: &[&Rank<'_>]| list.iter().map(|rank| rank.rank).collect::<Vec<u32>>();
    let does = |what: &str| format!("{}, {what}", words(&sides, seq));
    Some(Finding {
        category: Category::State,
        seq,
        culprits: numbers(&open),
        sides: vec![
            Side { ranks: numbers(&done), does: does("completed") },
            Side { ranks: numbers(&open), does: does("not completed") },
        ],
    })
}

/// A rank and its calls of one op.
type Calls<'a> = (u32, &'a [Signature]);

fn at<'a>(rank: &Rank<'a>, seq: u64) -> &'a [Signature] {
    let first = rank.calls.partition_point(|call| call.seq < seq);
    let last = rank.calls.partition_point(|call| call.seq <= seq);
    rank.calls.get(first..last).unwrap_or_default()
}

fn words(sides: &[Calls<'_>], seq: u64) -> String {
    let call = sides.iter().flat_map(|(_, calls)| calls.first()).next();
    call.map_or(format!("op {seq}"), Signature::to_string)
}

/// Ranks without the op. The fewer are at fault, of equally many those without.
fn absent(ranks: &[Rank<'_>], sides: &[Calls<'_>], seq: u64) -> Option<Finding> {
    let (without, with): (Vec<&Calls<'_>>, Vec<&Calls<'_>>) = sides.iter().partition(|(_, calls)| calls.is_empty());
    if without.is_empty() || with.is_empty() {
        return None;
    }
    let numbers = |list: &[&Calls<'_>]| list.iter().map(|(rank, _)| *rank).collect::<Vec<u32>>();
    let culprits = if without.len() <= with.len() { numbers(&without) } else { numbers(&with) };
    let last = without.iter().find_map(|(rank, _)| ranks.iter().find(|own| own.rank == *rank)?.calls.last());
    let nothing = match last {
        Some(last) if last.seq < seq => format!("nothing (its last op is seq {})", last.seq),
        _ => "nothing".into(),
    };
    let sides =
        vec![Side { ranks: numbers(&with), does: words(sides, seq) }, Side { ranks: numbers(&without), does: nothing }];
    Some(Finding { category: Category::State, seq, culprits, sides })
}

/// A finding whose culprit would agree if it had its ops in another order is one of order.
fn in_order(ranks: &[Rank<'_>], finding: Finding) -> Finding {
    let [culprit, ..] = finding.culprits[..] else { return finding };
    let with = |seq: u64, own: u64| {
        let sides: Vec<Calls<'_>> =
            ranks.iter().map(|rank| (rank.rank, at(rank, if rank.rank == culprit { own } else { seq }))).collect();
        sides.iter().all(|(_, calls)| !calls.is_empty()) && mismatch(&sides, seq).is_none()
    };
    let swapped =
        (finding.seq.saturating_add(1)..=finding.seq.saturating_add(WINDOW)).find(|&other| with(finding.seq, other));
    let Some(other) = swapped.filter(|&other| with(other, finding.seq)) else { return finding };
    let mut finding = Finding { category: Category::Order, ..finding };
    if let Some(side) = finding.sides.iter_mut().find(|side| side.ranks.contains(&culprit)) {
        side.does = format!("{} (what others do at seq {other})", side.does);
    }
    finding
}

/// What ranks that all have the op differ in.
fn mismatch(sides: &[Calls<'_>], seq: u64) -> Option<Finding> {
    let header = |call: &Signature| (call.kind, call.dtype, call.tag);
    let headers = |calls: &[Signature]| calls.first().map(header);
    if let Some((culprits, parts)) = minority(sides, headers) {
        let kinds = |of: &dyn Fn(&Signature) -> u64| differs(sides, of);
        let category = match () {
            () if kinds(&|call| u64::from(call.to_bytes()[28])) => Category::Kind,
            () if kinds(&|call| u64::from(call.to_bytes()[30])) => Category::Dtype,
            () => Category::Order,
        };
        let does = |calls: &[Signature]| match (calls.first(), category) {
            (Some(call), Category::Order) => format!("{call} (tag {})", call.tag),
            (Some(call), _) => call.to_string(),
            (None, _) => String::new(),
        };
        return Some(Finding { category, seq, culprits, sides: in_words(parts, does) });
    }
    let whole = |calls: &[Signature]| {
        let whole = calls.iter().filter(|call| call.part == Part::Whole);
        whole.map(|call| (header(call), call.peer, call.elems)).collect::<Vec<_>>()
    };
    if let Some((culprits, parts)) = minority(sides, whole) {
        let category = match () {
            () if differs(sides, |call| call.elems) => Category::Size,
            () if differs(sides, |call| u64::from(call.peer.unwrap_or(u32::MAX))) => Category::Peer,
            () => Category::Kind,
        };
        let does = |calls: &[Signature]| joined(calls.iter().filter(|call| call.part == Part::Whole));
        return Some(Finding { category, seq, culprits, sides: in_words(parts, does) });
    }
    messages(sides, seq)
}

fn differs(sides: &[Calls<'_>], of: impl Fn(&Signature) -> u64) -> bool {
    let first = |calls: &[Signature]| calls.first().map(&of);
    sides.windows(2).any(|pair| first(pair[0].1) != first(pair[1].1))
}

/// Ranks that do the same, and what.
type Parts<'a> = Vec<(Vec<u32>, &'a [Signature])>;

/// Ranks by what they do, with those at fault; `None` if all do the same.
fn minority<'a, K: PartialEq>(sides: &[Calls<'a>], key: impl Fn(&[Signature]) -> K) -> Option<(Vec<u32>, Parts<'a>)> {
    let mut parts: Vec<(K, Vec<u32>, &'a [Signature])> = Vec::new();
    for (rank, calls) in sides {
        let own = key(calls);
        match parts.iter_mut().find(|(other, ..)| *other == own) {
            Some((_, ranks, _)) => ranks.push(*rank),
            None => parts.push((own, vec![*rank], calls)),
        }
    }
    if parts.len() < 2 {
        return None;
    }
    let most = parts.iter().map(|(_, ranks, _)| ranks.len()).max()?;
    let is_decided = parts.iter().filter(|(_, ranks, _)| ranks.len() == most).count() == 1;
    let at_fault = parts.iter().filter(|(_, ranks, _)| !is_decided || ranks.len() < most);
    let mut culprits: Vec<u32> = at_fault.flat_map(|(_, ranks, _)| ranks.clone()).collect();
    culprits.sort_unstable();
    Some((culprits, parts.into_iter().map(|(_, ranks, calls)| (ranks, calls)).collect()))
}

fn in_words(parts: Parts<'_>, does: impl Fn(&[Signature]) -> String) -> Vec<Side> {
    parts.into_iter().map(|(ranks, calls)| Side { ranks, does: does(calls) }).collect()
}

fn joined<'a>(calls: impl Iterator<Item = &'a Signature>) -> String {
    let list: Vec<String> = calls.map(Signature::to_string).collect();
    list.join(" and ")
}

/// Messages from one rank to another that are not received as they are sent.
fn messages(sides: &[Calls<'_>], seq: u64) -> Option<Finding> {
    let mut lists: BTreeMap<(u32, u32), [Vec<Signature>; 2]> = BTreeMap::new();
    for (rank, calls) in sides {
        for call in *calls {
            let (pair, end) = match (call.part, call.peer) {
                (Part::Send, Some(peer)) => ((*rank, peer), 0),
                (Part::Recv, Some(peer)) => ((peer, *rank), 1),
                _ => continue,
            };
            lists.entry(pair).or_default()[end].push(*call);
        }
    }
    let side = |rank: u32| sides.iter().find(|side| side.0 == rank).copied();
    let differs = |[sent, received]: &[Vec<Signature>; 2]| !sent.iter().map(size).eq(received.iter().map(size));
    let wrong: Vec<(Calls<'_>, Calls<'_>)> = lists
        .iter()
        .filter(|(_, ends)| differs(ends))
        .filter_map(|((from, to), _)| Some((side(*from)?, side(*to)?)))
        .collect();
    let &(from, to) = wrong.first()?;
    let mut share: BTreeMap<u32, usize> = BTreeMap::new();
    for (from, to) in &wrong {
        *share.entry(from.0).or_default() += 1;
        *share.entry(to.0).or_default() += 1;
    }
    let most = share.values().copied().max()?;
    let mut culprits: Vec<u32> = share.iter().filter(|(_, n)| **n == most).map(|(rank, _)| *rank).collect();
    if wrong.len() == 1
        && let Some(receiver) = alone(sides, from, to)
    {
        culprits = vec![receiver];
    }
    let (from, to) = wrong.iter().copied().find(|pair| culprits.contains(&pair.0.0) || culprits.contains(&pair.1.0))?;
    let sent: Vec<&Signature> = between(from.1, Part::Send, to.0).collect();
    let received: Vec<&Signature> = between(to.1, Part::Recv, from.0).collect();
    let category = match () {
        () if sent.len() != received.len() => Category::Peer,
        () if sent.iter().zip(&received).any(|(a, b)| a.dtype != b.dtype) => Category::Dtype,
        () => Category::Size,
    };
    let does = |calls: &[&Signature], nothing: String| match calls {
        [] => nothing,
        calls => joined(calls.iter().copied()),
    };
    let sides = vec![
        Side { ranks: vec![from.0], does: does(&sent, format!("send nothing to rank {}", to.0)) },
        Side { ranks: vec![to.0], does: does(&received, format!("receive nothing from rank {}", from.0)) },
    ];
    Some(Finding { category, seq, culprits, sides })
}

fn between(calls: &[Signature], part: Part, peer: u32) -> impl Iterator<Item = &Signature> {
    calls.iter().filter(move |call| call.part == part && call.peer == Some(peer))
}

fn size(call: &Signature) -> (crate::dtype::Dtype, u64) {
    (call.dtype, call.elems)
}

/// The receiver of the one wrong message, if its sender sends all ranks the same and every other
/// one agrees.
fn alone(sides: &[Calls<'_>], from: Calls<'_>, to: Calls<'_>) -> Option<u32> {
    let kind = from.1.first()?.kind;
    let alike = matches!(kind, CommKind::AllGather | CommKind::Broadcast);
    let sent = |to: u32| between(from.1, Part::Send, to).map(size).collect::<Vec<_>>();
    let mut others = sides.iter().map(|side| side.0).filter(|&rank| rank != from.0 && rank != to.0).peekable();
    let agree = alike && others.peek().is_some() && others.all(|rank| sent(rank) == sent(to.0));
    agree.then_some(to.0)
}
