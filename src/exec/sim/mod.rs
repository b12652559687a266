//! The simulator: plans under a virtual clock, on machines that need not be there.
//!
//! It runs the same lowered plans as every executor, one event after the other: streams, events
//! and gates as they are; kernels as long as the machine says, or as was measured; transfers over
//! shared ports. The result is the common [`Report`]. On a host machine it follows the host
//! executor's link model to the nanosecond; on GPU machines communication has NCCL's latencies,
//! channels and protocols, takes SMs and memory rate from kernels, or runs on copy engines.
//!
//! It takes [`Checked`] plans only and computes no value. It assumes that ranks start together,
//! and that two kernels of one rank do not slow each other down. What the figures are worth:
//! `docs/simulator.md`; proof: `tests/sim_host.rs`, `tests/sim_collectives.rs`,
//! `tests/sim_validation.rs`.

mod cost;
mod fabric;
mod file;
mod machine;
mod method;
mod ports;
mod program;
mod queue;
mod record;
mod run;
mod share;

pub use machine::{Device, Gpu, Host, Link, MACHINES, Net, Protocol, SimMachine};
pub use program::Measured;
pub use record::Busy;

use std::sync::Arc;

use super::{Report, Span, SpanKind};
use crate::error::{Error, Result};
use crate::kernel::spec::Kernel;
use crate::plan::{Checked, OpId, OpKind, Plan};
use program::Program;
use record::Moment;

/// What moves the bytes of a GPU machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// NCCL's kernels, which take SMs.
    #[default]
    Nccl,
    /// Copy engines inside a node, for all that is not summed; the rest as with NCCL.
    CopyEngine,
}

/// How ops reach a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Launch {
    /// One by one, by a thread that is a few microseconds ahead or behind.
    #[default]
    Eager,
    /// As one captured graph.
    Graph,
}

/// Choices of a simulation.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimOptions<'a> {
    /// What moves the bytes.
    pub transport: Transport,
    /// How ops are issued.
    pub launch: Launch,
    /// Compute spans that were measured, instead of the machine's rates.
    pub measured: Option<&'a Measured>,
}

/// What a simulation says of a world: figures a rank, without spans.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// From the start to the end, ns.
    pub wall_ns: u64,
    /// Computation, communication and what of it lies bare, by rank.
    pub busy: Vec<Busy>,
    /// Bytes that each rank sends to others.
    pub bytes_sent: Vec<u64>,
    /// Messages that each rank sends to others.
    pub messages_sent: Vec<u64>,
    /// Memory of each rank: its arena and bound buffers.
    pub peak_bytes: Vec<usize>,
}

/// A world to be simulated, rank by rank: of each plan it keeps only what takes time.
pub struct World<'a> {
    machine: &'a SimMachine,
    options: SimOptions<'a>,
    programs: Vec<Program>,
}

impl<'a> World<'a> {
    /// A world without ranks on `machine`.
    pub fn new(machine: &'a SimMachine, options: SimOptions<'a>) -> Self {
        Self { machine, options, programs: Vec::new() }
    }

    /// Adds the next rank.
    ///
    /// # Errors
    /// A plan of another rank than the next.
    pub fn push(&mut self, plan: &Checked<Plan>) -> Result<()> {
        if plan.rank as usize != self.programs.len() {
            return Err(Error::Mesh(format!(
                "plan {} is for rank {}: add the plans of all ranks in order",
                self.programs.len(),
                plan.rank
            )));
        }
        self.programs.push(Program::of(plan, self.machine, self.options.measured));
        Ok(())
    }

    /// Simulates the world.
    ///
    /// # Errors
    /// A world without all its ranks, or too large for the machine.
    pub fn figures(&self) -> Result<Figures> {
        fits(self.machine, self.programs.len())?;
        let record = run::run(&self.programs, self.machine, &self.options, false)?;
        Ok(Figures {
            wall_ns: record.end,
            busy: record.busy(),
            bytes_sent: self.programs.iter().map(|program| program.bytes_sent).collect(),
            messages_sent: self.programs.iter().map(|program| program.messages_sent).collect(),
            peak_bytes: self.programs.iter().map(|program| program.peak_bytes).collect(),
        })
    }
}

/// Simulates the plans of all ranks, in order, with every span.
///
/// # Errors
/// Plans of another world or in another order; a world too large for the machine.
pub fn simulate(plans: &[Checked<Plan>], machine: &SimMachine, options: &SimOptions) -> Result<Report> {
    fits(machine, plans.len())?;
    let mut world = World::new(machine, *options);
    plans.iter().try_for_each(|plan| world.push(plan))?;
    let record = run::run(&world.programs, machine, options, true)?;
    let labels: Vec<Vec<Arc<str>>> =
        plans.iter().map(|plan| plan.labels.iter().map(|label| label.as_str().into()).collect()).collect();
    let mut moments = record.moments.unwrap_or_default();
    moments.sort_by_key(|moment| (moment.rank, moment.stream, moment.begin, moment.op, moment.piece));
    let span = |moment: &Moment| span(&plans[moment.rank as usize], &labels[moment.rank as usize], moment);
    Ok(Report {
        streams: plans.iter().map(|plan| plan.streams.clone()).collect(),
        spans: moments.iter().map(span).collect(),
        bytes_sent: world.programs.iter().map(|program| program.bytes_sent).collect(),
        peak_bytes: world.programs.iter().map(|program| program.peak_bytes).collect(),
        wall_ns: record.end,
    })
}

/// Seconds of one kernel that runs alone on `machine`.
pub fn kernel_s(machine: &SimMachine, kernel: &Kernel) -> f64 {
    let mut sum = cost::Cost::default();
    (0..kernel.pieces()).for_each(|piece| sum.add(cost::piece(machine, kernel, piece)));
    sum.ns(1.0, 1.0) / 1e9
}

fn fits(machine: &SimMachine, ranks: usize) -> Result<()> {
    if ranks > machine.ranks {
        return Err(Error::Mesh(format!(
            "{ranks} ranks, but machine \"{}\" has {}: use fewer, or a larger machine",
            machine.name, machine.ranks
        )));
    }
    Ok(())
}

fn span(plan: &Plan, labels: &[Arc<str>], moment: &Moment) -> Span {
    let id = OpId(moment.op);
    let op = plan.op(id);
    let (kind, bytes, flops) = match op.kind {
        OpKind::Kernel(i) => {
            let kernel = &plan.kernels[i as usize];
            let cost = moment.piece.map_or_else(|| kernel.cost(), |piece| kernel.piece_cost(piece as usize));
            (SpanKind::Compute, cost.bytes as u64, cost.flops)
        }
        OpKind::Comm(_) => (SpanKind::Comm, plan.op_bytes_sent(id), 0.0),
        OpKind::Copy => (SpanKind::Copy, touched(plan, id), 0.0),
        OpKind::External(_) => (SpanKind::External, touched(plan, id), 0.0),
        OpKind::Mark => (SpanKind::Mark, 0, 0.0),
    };
    Span {
        rank: moment.rank as usize,
        stream: moment.stream as usize,
        op: labels[op.label as usize].clone(),
        kind,
        begin_ns: moment.begin,
        end_ns: moment.end,
        piece: moment.piece,
        bytes,
        flops,
    }
}

fn touched(plan: &Plan, id: OpId) -> u64 {
    plan.accesses(id).iter().map(|access| plan.access_bytes(access) as u64).sum()
}
