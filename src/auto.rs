//! Chooses a strategy: builds the plan of every candidate, predicts its time on a machine and
//! takes the cheapest.
//!
//! The prediction runs each rank's plan against per-stream clocks: an op starts when its stream
//! and everything it depends on are done, kernels cost what [`Machine::kernel_s`] says of their
//! flops and bytes, communications what the larger of their two directions takes on the link.
//! Peers are assumed in step. It compares strategies; it is no promise of absolute time.

use crate::error::{Error, Result};
use crate::kernel::spec::Kernel;
use crate::machine::Machine;
use crate::mesh::Mesh;
use crate::plan::{Checked, Direction, OpId, OpKind, Plan, check_world};
use crate::strategy::Strategy;

/// What a strategy is predicted to cost, per rank: the largest over the ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Strategy.
    pub strategy: Strategy,
    /// Its mesh.
    pub mesh: Mesh,
    /// Whether it keeps the bits of the one-rank run.
    pub keeps_bits: bool,
    /// Seconds of one run.
    pub seconds: f64,
    /// Seconds in which the compute stream works.
    pub compute_s: f64,
    /// Seconds in which the links work.
    pub comm_s: f64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Floating-point operations.
    pub flops: f64,
    /// Peak bytes, inputs and outputs included.
    pub peak_bytes: usize,
}

/// Predictions of all candidates that the problem and `ranks` allow, cheapest first. Degrees that
/// are given restrict usp. `build` makes the plans of one candidate.
///
/// # Errors
/// No candidate can do the problem (the first refusal says why), or a plan that breaks the law.
pub fn explain(
    machine: &Machine,
    ranks: usize,
    heads: (usize, usize),
    degrees: (Option<usize>, Option<usize>),
    build: impl Fn(Strategy, &Mesh) -> Result<Vec<Plan>>,
) -> Result<Vec<Prediction>> {
    let mut rows = Vec::new();
    let mut refusal = None;
    for strategy in Strategy::ALL {
        if (strategy == Strategy::Single) != (ranks == 1) {
            continue;
        }
        let (ulysses, ring) = if strategy == Strategy::Usp { degrees } else { (None, None) };
        let plans =
            strategy.mesh(ranks, ulysses, ring, heads.0, heads.1).and_then(|mesh| Ok((mesh, build(strategy, &mesh)?)));
        match plans {
            Ok((mesh, plans)) => rows.push(predict(machine, strategy, mesh, &check_world(plans)?)),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    rows.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    match refusal {
        Some(error) if rows.is_empty() => Err(error),
        _ => Ok(rows),
    }
}

/// The cheapest prediction among those that keep the bits, or among all with `allow_reorder`.
///
/// # Errors
/// No candidate.
pub fn choose(rows: &[Prediction], allow_reorder: bool) -> Result<&Prediction> {
    rows.iter().find(|row| allow_reorder || row.keeps_bits).ok_or_else(|| {
        Error::Unsupported(
            "no strategy keeps the bits here: allow a reordered sum (--allow-reorder) or name one".into(),
        )
    })
}

/// Predicts one strategy's cost from the plans of all ranks.
pub fn predict(machine: &Machine, strategy: Strategy, mesh: Mesh, plans: &[Checked<Plan>]) -> Prediction {
    let mut row = Prediction {
        strategy,
        mesh,
        keeps_bits: strategy.keeps_bits(&mesh),
        seconds: 0.0,
        compute_s: 0.0,
        comm_s: 0.0,
        bytes_sent: 0,
        messages_sent: 0,
        flops: 0.0,
        peak_bytes: 0,
    };
    for plan in plans {
        let clock = run(machine, plan);
        row.seconds = row.seconds.max(clock.end);
        row.compute_s = row.compute_s.max(clock.compute);
        row.comm_s = row.comm_s.max(clock.comm);
        row.bytes_sent = row.bytes_sent.max(plan.bytes_sent());
        row.messages_sent = row.messages_sent.max(plan.messages_sent());
        row.flops = row.flops.max(plan.flops());
        row.peak_bytes = row.peak_bytes.max(plan.memory().peak_bytes);
    }
    row
}

struct Clock {
    end: f64,
    compute: f64,
    comm: f64,
}

fn run(machine: &Machine, plan: &Checked<Plan>) -> Clock {
    let mut ends = vec![0.0f64; plan.ops.len()];
    let mut streams = vec![0.0f64; plan.streams.len()];
    let mut clock = Clock { end: 0.0, compute: 0.0, comm: 0.0 };
    let mut incoming: Vec<Vec<(usize, bool)>> = vec![Vec::new(); plan.ops.len()];
    for edge in plan.edges() {
        incoming[edge.to.0 as usize].push((edge.from.0 as usize, edge.gate));
    }
    for id in plan.op_ids() {
        let stream = plan.op(id).stream.0 as usize;
        let waits = incoming[id.0 as usize].iter().filter(|(_, gate)| !gate).map(|(from, _)| ends[*from]);
        let begin = waits.fold(streams[stream], f64::max);
        let end = match plan.op(id).kind {
            OpKind::Kernel(i) => {
                let busy = pieces(machine, &plan.kernels[i as usize]);
                clock.compute += busy.iter().sum::<f64>();
                gated_end(plan, id, begin, &busy, &ends)
            }
            OpKind::Comm(_) => {
                let busy = transfer_s(machine, plan, id);
                clock.comm += busy;
                begin + busy
            }
            OpKind::Copy => begin + machine.launch_s + 2.0 * copied_bytes(plan, id) / machine.memory_bytes_per_s,
            OpKind::External(_) | OpKind::Mark => begin,
        };
        ends[id.0 as usize] = end;
        streams[stream] = end;
        clock.end = clock.end.max(end);
    }
    clock
}

fn pieces(machine: &Machine, kernel: &Kernel) -> Vec<f64> {
    let seconds = |piece| {
        let cost = kernel.piece_cost(piece);
        machine.kernel_s(kernel.dtype(), cost.flops, cost.bytes)
    };
    (0..kernel.pieces()).map(seconds).collect()
}

/// End of a kernel whose pieces start in order, each no earlier than what its gates wait for.
fn gated_end(plan: &Plan, id: OpId, begin: f64, busy: &[f64], ends: &[f64]) -> f64 {
    let operands = if plan.accesses(id).iter().any(|a| a.gate.is_some()) {
        plan.kernel(id).map(Kernel::operands).unwrap_or_default()
    } else {
        Vec::new()
    };
    busy.iter().enumerate().fold(begin, |now, (piece, seconds)| {
        let gates = plan.accesses(id).iter().filter(|access| {
            let of = operands.get(access.operand as usize).and_then(|operand| operand.piece);
            of == Some(piece as u16)
        });
        let arrived = gates.filter_map(|access| access.gate).map(|op| ends[op.0 as usize]).fold(now, f64::max);
        arrived + seconds
    })
}

fn transfer_s(machine: &Machine, plan: &Plan, id: OpId) -> f64 {
    let Some(comm) = plan.comm(id) else { return 0.0 };
    let mut sent = 0.0;
    let mut received = 0.0;
    for (transfer, access) in comm.transfers.iter().zip(plan.accesses(id)) {
        let bytes = plan.access_bytes(access) as f64;
        match transfer.direction {
            Direction::Send if transfer.peer == plan.rank => {}
            Direction::Send => sent += bytes,
            // A sum of own rows is received once from every other rank.
            Direction::Recv if comm.kind.reduces() => {
                received += bytes * (plan.groups[comm.group as usize].len() - 1) as f64;
            }
            Direction::Recv => received += bytes,
        }
    }
    let larger = sent.max(received);
    if comm.transfers.is_empty() { 0.0 } else { machine.transfer_s(larger) }
}

fn copied_bytes(plan: &Plan, id: OpId) -> f64 {
    plan.accesses(id).first().map_or(0.0, |access| plan.access_bytes(access) as f64)
}
