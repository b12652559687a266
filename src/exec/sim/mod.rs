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
use crate::plan::{Alike, Checked, OpId, OpKind, Plan};
use program::{Program, Seat};
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

/// A world to be simulated, rank by rank: of each plan it keeps only what takes time, and what
/// ranks have alike once.
///
/// Of ranks that are [`Alike`] it needs one, as [`crate::plan::check_ranks`] does.
pub struct World<'a> {
    machine: &'a SimMachine,
    options: SimOptions<'a>,
    programs: Vec<Program>,
    world: usize,
}

impl<'a> World<'a> {
    /// A world without ranks on `machine`.
    pub fn new(machine: &'a SimMachine, options: SimOptions<'a>) -> Self {
        Self { machine, options, programs: Vec::new(), world: 0 }
    }

    /// Adds a rank, later than those before.
    ///
    /// # Errors
    /// A plan of an earlier rank, or of another world.
    pub fn push(&mut self, plan: &Checked<Plan>) -> Result<()> {
        self.is_later(plan.rank, plan.world as usize)?;
        self.world = plan.world as usize;
        let program = Program::of(plan, self.machine, self.options.measured, self.programs.last());
        self.programs.push(program);
        Ok(())
    }

    /// Adds the ranks of `part`, made with the same machine and options.
    ///
    /// # Errors
    /// Ranks earlier than those before, or of another world.
    pub fn append(&mut self, part: World<'a>) -> Result<()> {
        let Some(first) = part.programs.first() else { return Ok(()) };
        self.is_later(first.rank, part.world)?;
        self.world = part.world;
        self.programs.extend(part.programs);
        Ok(())
    }

    fn is_later(&self, rank: u32, world: usize) -> Result<()> {
        match self.programs.last() {
            Some(last) if last.rank >= rank || self.world != world => Err(Error::Mesh(format!(
                "a plan for rank {rank} of {world} after that of rank {} of {}: add the plans of one world in order",
                last.rank, self.world
            ))),
            _ => Ok(()),
        }
    }

    /// Simulates the world, of which every rank was added.
    ///
    /// # Errors
    /// A rank that is missing, or a world too large for the machine.
    pub fn figures(&self) -> Result<Figures> {
        self.figures_alike(&Alike::none(self.world))
    }

    /// Simulates the world, of which the firsts of `alike` were added.
    ///
    /// # Errors
    /// Other ranks than those, or a world too large for the machine.
    pub fn figures_alike(&self, alike: &Alike) -> Result<Figures> {
        let seats = self.seats(alike)?;
        let record = run::run(&seats, self.machine, &self.options, false)?;
        let of = |figure: fn(&Program) -> u64| seats.iter().map(|seat| figure(seat.program)).collect();
        Ok(Figures {
            wall_ns: record.end,
            busy: record.busy(),
            bytes_sent: of(|program| program.bytes_sent),
            messages_sent: of(|program| program.messages_sent),
            peak_bytes: seats.iter().map(|seat| seat.program.peak_bytes).collect(),
        })
    }

    /// The ranks of the world.
    fn seats(&self, alike: &Alike) -> Result<Vec<Seat<'_>>> {
        let there = self.programs.iter().map(|program| program.rank as usize);
        if self.world == 0 || self.world != alike.world() || !there.eq(alike.firsts()) {
            return Err(Error::Mesh(format!(
                "{} plans of a world of {}: simulate one whole world, its plans in order (of ranks that are alike, the first)",
                self.programs.len(),
                self.world
            )));
        }
        if self.world > self.machine.ranks {
            return Err(Error::Mesh(format!(
                "{} ranks, but machine \"{}\" has {}: use fewer, or a larger machine",
                self.world, self.machine.name, self.machine.ranks
            )));
        }
        let seat =
            |(rank, number): (usize, u32)| Seat { program: &self.programs[number as usize], names: alike.names(rank) };
        Ok(alike.numbers().into_iter().enumerate().map(seat).collect())
    }
}

/// Simulates the plans of all ranks, in order, with every span.
///
/// # Errors
/// Plans of another world or in another order; a world too large for the machine.
pub fn simulate(plans: &[Checked<Plan>], machine: &SimMachine, options: &SimOptions) -> Result<Report> {
    let mut world = World::new(machine, *options);
    plans.iter().try_for_each(|plan| world.push(plan))?;
    let seats = world.seats(&Alike::none(world.world))?;
    let record = run::run(&seats, machine, options, true)?;
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
