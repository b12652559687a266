use std::collections::HashMap;

use super::{Part, Signature, digest};
use crate::plan::{Direction, OpId, Plan};

/// The communications of a plan, in issue order: of each op one call for the op itself, with no
/// elements, and one for each of its messages. In an op that sums, the slots that arrive are one
/// message from every other member.
pub fn signatures(plan: &Plan) -> Vec<Signature> {
    calls(plan).into_iter().map(|(_, call)| call).collect()
}

/// The same, with the op of each call.
pub(super) fn calls(plan: &Plan) -> Vec<(OpId, Signature)> {
    let mut next: HashMap<u32, u64> = HashMap::new();
    let mut calls = Vec::new();
    for op in plan.op_ids() {
        let Some(comm) = plan.comm(op) else { continue };
        let group = plan.groups.get(comm.group as usize).map(Vec::as_slice).unwrap_or_default();
        let number = number(group);
        let seq = next.entry(number).or_default();
        let header = Signature {
            comm: number,
            seq: *seq,
            tag: comm.tag.0,
            kind: comm.kind,
            part: Part::Whole,
            dtype: comm.dtype,
            peer: None,
            elems: 0,
        };
        *seq += 1;
        calls.push((op, header));
        for (transfer, access) in comm.transfers.iter().zip(plan.accesses(op)) {
            let elems = access.region.elems() as u64;
            let call = |part, peer| (op, Signature { part, peer: Some(peer), elems, ..header });
            match transfer.direction {
                Direction::Send if transfer.peer == plan.rank => {}
                Direction::Recv if transfer.peer == plan.rank && !comm.kind.reduces() => {}
                Direction::Send => calls.push(call(Part::Send, transfer.peer)),
                Direction::Recv if comm.kind.reduces() => {
                    let others = group.iter().filter(|&&rank| rank != plan.rank);
                    calls.extend(others.map(|&rank| call(Part::Recv, rank)));
                }
                Direction::Recv => calls.push(call(Part::Recv, transfer.peer)),
            }
        }
    }
    calls
}

/// The number of a group of ranks.
fn number(group: &[u32]) -> u32 {
    let hash = digest(group.iter().map(|&rank| u64::from(rank)));
    (hash ^ (hash >> 32)) as u32
}
