use std::collections::BTreeMap;
use std::fmt;

use super::{Dump, State};
use crate::comm::signature::{self, Category, Finding, Rank, Side, Signature};

/// What the dumps of one communicator differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The communicator.
    pub comm: String,
    /// The first difference of each rank that differs, in order.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            write!(f, "{}{}, {finding}", if i == 0 { "" } else { "\n" }, self.comm)?;
        }
        Ok(())
    }
}

/// Compares the dumps of all ranks, by communicator; those without a difference are left out.
///
/// A rank of a communicator without a dump counts as one that stopped before the first op that
/// another rank has not completed. Where a ring has overwritten ops, comparison begins behind them.
pub fn compare(dumps: &[Dump]) -> Vec<Findings> {
    let mut comms: BTreeMap<&str, BTreeMap<u32, &Dump>> = BTreeMap::new();
    for dump in dumps {
        comms.entry(&dump.comm).or_default().insert(dump.rank, dump);
    }
    let of_comm = |(comm, dumps): (&str, BTreeMap<u32, &Dump>)| {
        let calls: Vec<Vec<Signature>> =
            dumps.values().map(|dump| dump.calls.iter().map(|call| call.signature).collect()).collect();
        let ranks: Vec<Rank<'_>> = dumps
            .values()
            .zip(&calls)
            .map(|(dump, calls)| Rank { rank: dump.rank, calls, from: from(dump), completed: completed(dump) })
            .collect();
        let mut findings = signature::compare(&ranks);
        findings.extend(without_dump(&dumps));
        findings.sort_by_key(|finding| finding.seq);
        Findings { comm: comm.to_string(), findings }
    };
    comms.into_iter().map(of_comm).filter(|found| !found.findings.is_empty()).collect()
}

/// First op that the dump has whole.
fn from(dump: &Dump) -> u64 {
    let oldest = dump.calls.first().map_or(0, |call| call.signature.seq);
    oldest + u64::from(dump.overwritten > 0)
}

/// Ops in a row that have ended; of a dump without calls, none.
fn completed(dump: &Dump) -> u64 {
    let open = dump.calls.iter().find(|call| call.state != State::Completed);
    let behind = dump.calls.last().map_or(0, |call| call.signature.seq + 1);
    open.map_or(behind, |call| call.signature.seq)
}

fn without_dump(dumps: &BTreeMap<u32, &Dump>) -> Option<Finding> {
    let world = dumps.values().map(|dump| dump.world).max()?;
    let missing: Vec<u32> = (0..world).filter(|rank| !dumps.contains_key(rank)).collect();
    if missing.is_empty() {
        return None;
    }
    let seq = dumps.values().map(|dump| completed(dump)).min()?;
    let open = dumps.values().flat_map(|dump| &dump.calls).find(|call| call.signature.seq == seq);
    let does = open.map_or("nothing more".to_string(), |call| call.signature.to_string());
    let sides = vec![
        Side { ranks: dumps.keys().copied().collect(), does },
        Side { ranks: missing.clone(), does: "no dump: ended without one".into() },
    ];
    Some(Finding { category: Category::State, seq, culprits: missing, sides })
}
