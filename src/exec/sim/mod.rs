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
use program::{Program, Seats};
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
/// A world may repeat itself: with the plans of its first n ranks only, rank q does what rank
/// q mod n does, with every rank shifted, as [`crate::plan::check_ranks`] checks it.
pub struct World<'a> {
    machine: &'a SimMachine,
    options: SimOptions<'a>,
    /// Rank of the first program.
    first: usize,
    programs: Vec<Program>,
    world: usize,
}

impl<'a> World<'a> {
    /// A world without ranks on `machine`.
    pub fn new(machine: &'a SimMachine, options: SimOptions<'a>) -> Self {
        Self::starting_at(0, machine, options)
    }

    /// A part of a world, from rank `first` on, to be appended to the ranks before it.
    pub fn starting_at(first: usize, machine: &'a SimMachine, options: SimOptions<'a>) -> Self {
        Self { machine, options, first, programs: Vec::new(), world: 0 }
    }

    /// Adds the next rank.
    ///
    /// # Errors
    /// A plan of another rank than the next, or of another world.
    pub fn push(&mut self, plan: &Checked<Plan>) -> Result<()> {
        self.is_next(plan.rank as usize, plan.world as usize)?;
        self.world = plan.world as usize;
        let program = Program::of(plan, self.machine, self.options.measured, self.programs.last());
        self.programs.push(program);
        Ok(())
    }

    /// Adds the ranks of `part`, made with the same machine and options.
    ///
    /// # Errors
    /// Ranks other than the next ones, or of another world.
    pub fn append(&mut self, part: World<'a>) -> Result<()> {
        self.is_next(part.first, part.world)?;
        self.world = part.world;
        self.programs.extend(part.programs);
        Ok(())
    }

    fn is_next(&self, rank: usize, world: usize) -> Result<()> {
        let next = self.first + self.programs.len();
        if rank == next && (self.programs.is_empty() || world == self.world) {
            return Ok(());
        }
        Err(Error::Mesh(format!("plan {next} is for rank {rank} of {world}: add the plans of one world in order")))
    }

    /// Simulates the world.
    ///
    /// # Errors
    /// Ranks that do not divide their world, or a world too large for the machine.
    pub fn figures(&self) -> Result<Figures> {
        let record = self.run(false)?;
        let of = |figure: fn(&Program) -> u64| self.seats().iter().map(|seat| figure(seat.program)).collect();
        Ok(Figures {
            wall_ns: record.end,
            busy: record.busy(),
            bytes_sent: of(|program| program.bytes_sent),
            messages_sent: of(|program| program.messages_sent),
            peak_bytes: self.seats().iter().map(|seat| seat.program.peak_bytes).collect(),
        })
    }

    fn seats(&self) -> Seats<'_> {
        Seats { programs: &self.programs, world: self.world }
    }

    fn run(&self, spans: bool) -> Result<record::Record> {
        if self.first > 0 || self.programs.is_empty() || !self.world.is_multiple_of(self.programs.len()) {
            return Err(Error::Mesh(format!(
                "{} plans of a world of {}: simulate the plans of one whole world, or of a part that repeats",
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
        run::run(self.seats(), self.machine, &self.options, spans)
    }
}

/// Simulates the plans of all ranks, in order, with every span.
///
/// # Errors
/// Plans of another world or in another order; a world too large for the machine.
pub fn simulate(plans: &[Checked<Plan>], machine: &SimMachine, options: &SimOptions) -> Result<Report> {
    let mut world = World::new(machine, *options);
    plans.iter().try_for_each(|plan| world.push(plan))?;
    if world.programs.len() != world.world {
        let why = format!("{} plans of a world of {}: simulate one whole world", plans.len(), world.world);
        return Err(Error::Mesh(why));
    }
    let record = world.run(true)?;
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
