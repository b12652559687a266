//! One half of a plan: its compute with everything there from the start, or its transfers with
//! nothing computed. The other half stays as calls that do nothing, so that streams, edges and
//! buffers are those of the whole plan.

use crate::plan::{OpKind, Plan};

/// Name of the external call that does nothing.
pub(super) const NOTHING: &str = "nothing";

/// The plan with data resident: no op communicates.
pub fn compute_alone(plan: &Plan) -> Plan {
    let mut plan = hollow(plan, |kind| matches!(kind, OpKind::Comm(_)));
    plan.comms.clear();
    plan
}

/// The plan's transfers, each as soon as the one before it on its stream is done.
pub fn transfers_alone(plan: &Plan) -> Plan {
    hollow(plan, |kind| matches!(kind, OpKind::Kernel(_) | OpKind::Copy | OpKind::External(_)))
}

fn hollow(plan: &Plan, emptied: impl Fn(OpKind) -> bool) -> Plan {
    let mut plan = plan.clone();
    plan.externals.push(NOTHING.into());
    let nothing = OpKind::External(plan.externals.len() as u32 - 1);
    for op in plan.ops.iter_mut().filter(|op| emptied(op.kind)) {
        op.kind = nothing;
    }
    // A gate is a transfer that a kernel waits for; with one of the two gone, it is an event.
    plan.accesses.iter_mut().for_each(|access| access.gate = None);
    plan
}
