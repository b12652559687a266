//! What the ranks agree on: one verdict for all, the first that any of them claims.

use std::time::Instant;

use super::hello::{Hello, Reader};
use crate::error::{Error, FailureKind};
use crate::rendezvous::store::failure;

/// Most culprits that a verdict names.
const CULPRITS_MAX: usize = 2048;
const TEXT_BYTES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) why: Why,
    pub(super) culprits: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// All are here.
    Joined,
    /// The culprits never came.
    Missing,
    /// The culprits' messages carry another key.
    Rejected,
    /// Two processes claim the culprit's rank.
    Duplicate,
    World(Vec<usize>),
    /// What the others run, what the culprits run.
    Skew(String, String),
    Plans(String, String),
    Device,
}

/// What the hellos seen so far contradict each other in; the culprits are the fewer.
pub(super) fn conflict(hellos: &[&Hello]) -> Option<Verdict> {
    let said = || hellos.iter().map(|&hello| (hello.rank, hello));
    if let Some(odd) = fewer(said(), |a, b| a.world == b.world) {
        let mut seen: Vec<_> = hellos.iter().map(|hello| hello.world).collect();
        seen.sort_unstable();
        seen.dedup();
        return Some(Verdict { why: Why::World(seen), culprits: odd.culprits });
    }
    let versions = |a: &&Hello, b: &&Hello| a.crate_version == b.crate_version && a.nccl_version == b.nccl_version;
    if let Some(odd) = fewer(said(), versions) {
        return Some(Verdict { why: Why::Skew(software(odd.common), software(odd.odd)), culprits: odd.culprits });
    }
    if let Some(odd) = fewer(said(), |a, b| a.plans == b.plans) {
        return Some(Verdict { why: Why::Plans(plans(odd.common), plans(odd.odd)), culprits: odd.culprits });
    }
    shared_device(hellos)
}

/// Ranks, in ascending order, that speak different protocols.
pub(super) fn protocol_skew(protocols: impl Iterator<Item = (usize, u32)>) -> Option<Verdict> {
    let odd = fewer(protocols, |a, b| a == b)?;
    let words = |protocol: u32| format!("protocol {protocol}");
    Some(Verdict { why: Why::Skew(words(odd.common), words(odd.odd)), culprits: odd.culprits })
}

struct Fewer<T> {
    common: T,
    odd: T,
    culprits: Vec<usize>,
}

/// The ranks that do not say what most say; a tie is decided for the lowest rank.
fn fewer<T: Copy>(said: impl Iterator<Item = (usize, T)>, same: impl Fn(&T, &T) -> bool) -> Option<Fewer<T>> {
    let mut camps: Vec<(T, Vec<usize>)> = Vec::new();
    for (rank, what) in said {
        match camps.iter_mut().find(|(camp, _)| same(camp, &what)) {
            Some((_, ranks)) => ranks.push(rank),
            None => camps.push((what, vec![rank])),
        }
    }
    // Stable, so the camp of the lowest rank is first among the largest.
    camps.sort_by_key(|(_, ranks)| std::cmp::Reverse(ranks.len()));
    let (&(common, _), others) = camps.split_first()?;
    let odd = others.first()?.0;
    let mut culprits: Vec<_> = others.iter().flat_map(|(_, ranks)| ranks.iter().copied()).collect();
    culprits.sort_unstable();
    Some(Fewer { common, odd, culprits })
}

fn shared_device(hellos: &[&Hello]) -> Option<Verdict> {
    let clash = |a: &Hello, b: &Hello| {
        let shared = a.device.is_some() && a.device == b.device && a.host.is(&b.host);
        a.rank != b.rank && shared && !(a.shares_device && b.shares_device)
    };
    let culprits: Vec<_> =
        hellos.iter().filter(|a| hellos.iter().any(|b| clash(a, b))).map(|hello| hello.rank).collect();
    (!culprits.is_empty()).then_some(Verdict { why: Why::Device, culprits })
}

fn software(hello: &Hello) -> String {
    let nccl = hello.nccl_version;
    let nccl = if nccl == 0 {
        "no NCCL".into()
    } else {
        format!("NCCL {}.{}.{}", nccl / 10_000, nccl / 100 % 100, nccl % 100)
    };
    format!("seqpar {} with {nccl}", hello.crate_version)
}

fn plans(hello: &Hello) -> String {
    match hello.plans.as_slice() {
        [] => "run no plan".into(),
        [plan] => format!("run plan {plan:016x}"),
        plans => {
            let names: Vec<_> = plans.iter().map(|plan| format!("{plan:016x}")).collect();
            format!("run plans {}", names.join(", "))
        }
    }
}

impl Verdict {
    /// The error that it is to `rank`; nothing if all joined.
    pub(super) fn error(&self, rank: usize, begin: Instant) -> Option<Error> {
        // The culprits' own view is the other way round.
        let sides = |common: &String, odd: &String| {
            if self.culprits.contains(&rank) { (odd.clone(), common.clone()) } else { (common.clone(), odd.clone()) }
        };
        let kind = match &self.why {
            Why::Joined => return None,
            Why::Missing => FailureKind::RendezvousTimeout,
            Why::Rejected => FailureKind::AuthRejected,
            Why::Duplicate => FailureKind::DuplicateRank,
            Why::World(seen) => FailureKind::WorldMismatch { seen: seen.clone() },
            Why::Skew(common, odd) => {
                let (mine, theirs) = sides(common, odd);
                FailureKind::VersionSkew { mine, theirs }
            }
            Why::Plans(common, odd) => {
                let (mine, theirs) = sides(common, odd);
                FailureKind::Mismatch { mine, theirs }
            }
            Why::Device => FailureKind::DeviceConflict,
        };
        Some(failure(kind, self.culprits.clone(), begin))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (tag, numbers, texts): (u32, &[usize], [&str; 2]) = match &self.why {
            Why::Joined => (0, &[], [""; 2]),
            Why::Missing => (1, &[], [""; 2]),
            Why::Rejected => (2, &[], [""; 2]),
            Why::Duplicate => (3, &[], [""; 2]),
            Why::World(seen) => (4, seen, [""; 2]),
            Why::Skew(common, odd) => (5, &[], [common, odd]),
            Why::Plans(common, odd) => (6, &[], [common, odd]),
            Why::Device => (7, &[], [""; 2]),
        };
        out.extend(tag.to_le_bytes());
        for numbers in [numbers, &self.culprits] {
            let numbers = numbers.iter().take(CULPRITS_MAX);
            out.extend((numbers.len() as u32).to_le_bytes());
            numbers.for_each(|&number| out.extend((number as u32).to_le_bytes()));
        }
        for text in texts {
            let bytes = text.as_bytes().iter().take(TEXT_BYTES_MAX);
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend(bytes);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let tag = from.u32()?;
        let mut numbers = || -> Option<Vec<usize>> {
            let count = from.u32()? as usize;
            if count > CULPRITS_MAX {
                return None;
            }
            (0..count).map(|_| from.u32().map(|number| number as usize)).collect()
        };
        let (seen, culprits) = (numbers()?, numbers()?);
        let mut text = || -> Option<String> {
            let bytes = from.u32()? as usize;
            let (text, rest) = from.0.split_at_checked(bytes)?;
            from = Reader(rest);
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let (common, odd) = (text()?, text()?);
        let why = match tag {
            0 => Why::Joined,
            1 => Why::Missing,
            2 => Why::Rejected,
            3 => Why::Duplicate,
            4 => Why::World(seen),
            5 => Why::Skew(common, odd),
            6 => Why::Plans(common, odd),
            7 => Why::Device,
            _ => return None,
        };
        Some(Self { why, culprits })
    }
}
