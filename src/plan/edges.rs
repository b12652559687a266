//! Dependencies, derived from what the ops read and write: a strategy cannot forget one.
//!
//! An edge joins two ops that touch overlapping regions of one buffer, one of them writing:
//! read after write, write after read, write after write. Edges lead forward in plan order. They
//! are not reduced over streams ([`super::lower`] does that), but what a later write covers is
//! forgotten: whoever touches it next waits for that write, which has waited for the rest. So is
//! a read that a later read of its stream covers.
//! Aliasing within one op (a residual added in place) is no edge.
//!
//! Assumes a well-formed plan (ids and regions in range) whose gates fill what they gate, which
//! [`super::check`] verifies. Near linear in the number of accesses. Tests:
//! `tests/plan_properties.rs` against a naive closure.

use super::boxes::Boxes;
use super::{Access, BufferId, OpId, Plan};

/// `from` ends before `to` starts, or, with `gate`, before the piece of `to` that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The earlier op.
    pub from: OpId,
    /// The later op.
    pub to: OpId,
    /// True if the only reason are reads that wait inside the kernel `to`.
    pub gate: bool,
}

/// Derives the edges of `plan`, sorted by the later op, then the earlier one; one a pair.
pub fn derive(plan: &Plan) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut history: Vec<Option<Boxes<Past>>> = plan.buffers.iter().map(|_| None).collect();
    let mut written = vec![false; plan.buffers.len()];
    for access in plan.accesses.iter().filter(|a| a.mode.writes()) {
        written[access.buffer.0 as usize] = true;
    }
    let is_shared = |id: BufferId| written[id.0 as usize];

    for id in plan.op_ids() {
        let first_edge = edges.len();
        let accesses = plan.accesses(id).iter().filter(|a| is_shared(a.buffer) && !a.region.is_empty());
        for access in accesses.clone() {
            let Some(past) = &history[access.buffer.0 as usize] else { continue };
            for (_, past) in past.overlapping(access.region) {
                let conflict = past.writes || access.mode.writes();
                // What the gate's transfer overwrote had ended before that transfer started.
                let by_the_gate = !access.mode.writes() && access.gate.is_some_and(|gate| past.op < gate);
                if conflict && !by_the_gate {
                    let gate = !access.mode.writes() && access.gate == Some(past.op);
                    edges.push(Edge { from: past.op, to: id, gate });
                }
            }
        }
        merge_pairs(&mut edges, first_edge);
        // Writes first: an op's own write stands for its read of the same elements.
        for access in accesses.clone().filter(|a| a.mode.writes()) {
            let past = past_of(&mut history, plan, access);
            past.remove_inside(&access.region);
            past.insert(access.region, Past { op: id, writes: true });
        }
        for access in accesses.filter(|a| !a.mode.writes()) {
            let past = past_of(&mut history, plan, access);
            // Who waits for this read waits for the earlier ones of its stream.
            let stream = plan.op(id).stream;
            past.remove_inside_if(&access.region, |past| {
                !past.writes && past.op != id && plan.op(past.op).stream == stream
            });
            if !past.overlapping(access.region).any(|(region, past)| past.op == id && region.contains(&access.region)) {
                past.insert(access.region, Past { op: id, writes: false });
            }
        }
    }
    edges
}

/// An access of an earlier op that no later write covers.
struct Past {
    op: OpId,
    writes: bool,
}

fn past_of<'a>(history: &'a mut [Option<Boxes<Past>>], plan: &Plan, access: &Access) -> &'a mut Boxes<Past> {
    history[access.buffer.0 as usize].get_or_insert_with(|| Boxes::new(plan.buffer(access.buffer).dims))
}

/// Sorts the edges of one op and keeps one a pair, a gate only if every reason is one.
fn merge_pairs(edges: &mut Vec<Edge>, first: usize) {
    // `false` sorts before `true`: the first of a pair is the strictest.
    edges[first..].sort_unstable();
    let mut kept = first;
    for i in first..edges.len() {
        if kept == first || edges[kept - 1].from != edges[i].from {
            edges[kept] = edges[i];
            kept += 1;
        }
    }
    edges.truncate(kept);
}
