//! Rules of the law for gates: reads that wait inside their kernel.

use super::boxes::Boxes;
use super::edges::Edge;
use super::order::HappensBefore;
use super::rules::{at, hole, named, named_region};
use super::{OpKind, Plan};
use crate::error::Result;
use crate::kernel::spec::Mode;

/// A gated access is a read by a kernel of what an earlier communication on another stream fills.
pub(super) fn fillers(plan: &Plan) -> Result<()> {
    for id in plan.op_ids() {
        for access in plan.accesses(id) {
            let Some(gate) = access.gate else { continue };
            let name = named(plan, access);
            if plan.kernel(id).is_none() || access.mode != Mode::Read {
                let why = format!("{name} is gated, but only a kernel's read can be: drop the gate");
                return Err(at(plan, id, why));
            }
            if gate >= id {
                let why = format!("{name} is gated on this op or a later one: gate on an earlier transfer");
                return Err(at(plan, id, why));
            }
            if plan.comm(gate).is_none() {
                let why =
                    format!("{name} is gated on \"{}\", which is no communication: drop the gate", plan.label(gate));
                return Err(at(plan, id, why));
            }
            if plan.op(gate).stream == plan.op(id).stream {
                let why = format!(
                    "{name} is gated on \"{}\" of its own stream, which has ended: use another stream or drop the gate",
                    plan.label(gate)
                );
                return Err(at(plan, id, why));
            }
            let writes = plan.accesses(gate).iter().filter(|w| w.mode.writes() && w.buffer == access.buffer);
            let mut filled = Boxes::new(plan.buffer(access.buffer).dims);
            writes.for_each(|write| filled.insert(write.region, ()));
            if let Some(hole) = hole(Some(&filled), access.region) {
                let why = format!(
                    "{name} is gated on \"{}\", which does not fill {}: gate each part on its own transfer",
                    plan.label(gate),
                    named_region(plan, access.buffer.0 as usize, &hole)
                );
                return Err(at(plan, id, why));
            }
        }
    }
    Ok(())
}

/// A gated kernel may hold every SM while it waits: what it waits for must not need another
/// kernel that has not ended when it starts.
pub(super) fn need_no_kernel(plan: &Plan, order: &HappensBefore) -> Result<()> {
    let mut by_stream = vec![Vec::new(); plan.streams.len()];
    for id in plan.op_ids() {
        by_stream[plan.op(id).stream.0 as usize].push(id);
    }
    for id in plan.op_ids() {
        let mut seen = None;
        for gate in plan.accesses(id).iter().filter_map(|access| access.gate) {
            if seen.replace(gate) == Some(gate) {
                continue;
            }
            let (here, there) = (order.start_clock(id), order.start_clock(gate));
            for (stream, ops) in by_stream.iter().enumerate().filter(|(stream, _)| here[*stream] < there[*stream]) {
                let between = &ops[here[stream] as usize..there[stream] as usize];
                let busy =
                    between.iter().find(|op| matches!(plan.op(**op).kind, OpKind::Kernel(_) | OpKind::External(_)));
                if let Some(busy) = busy {
                    let why = format!(
                        "is gated on \"{}\", which needs \"{}\", a kernel that may still wait for this one's SMs: order \"{1}\" before this op, or drop the gate",
                        plan.label(gate),
                        plan.label(*busy)
                    );
                    return Err(at(plan, id, why));
                }
            }
        }
    }
    Ok(())
}

/// The pieces of the kernel `edge.to` that read what `edge.from` fills.
pub(super) fn pieces(plan: &Plan, edge: &Edge) -> Vec<u16> {
    let Some(kernel) = plan.kernel(edge.to) else { return Vec::new() };
    let operands = kernel.operands();
    let mut pieces = Vec::new();
    for access in plan.accesses(edge.to).iter().filter(|access| access.gate == Some(edge.from)) {
        match operands.get(access.operand as usize).and_then(|operand| operand.piece) {
            Some(piece) => pieces.push(piece),
            None => pieces.extend(0..kernel.pieces() as u16),
        }
    }
    pieces
}
