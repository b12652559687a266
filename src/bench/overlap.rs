//! How much of its communication a strategy hides.
//!
//! Four times of one plan, each the slowest rank's: T_gemm, its compute with data resident; T_comm,
//! its transfers alone; T_seq, one behind the other; T_ovl, the plan as it is. An iteration
//! measures them one after the other. Two figures condense them:
//!
//! - hidden fraction H = (T_seq − T_ovl) / min(T_comm, T_gemm): 1 where all is hidden;
//! - regret R = T_ovl / T_lb − 1, with T_lb the [arrival bound](super::arrival_bound_s) of the
//!   schedule: 0 where only the schedule itself is in the way.

use std::time::Duration;

use super::alone::{compute_alone, transfers_alone};
use super::bound::OpTimes;
use super::pace::Pace;
use super::samples::{Samples, median};
use super::world::{World, seconds};
use crate::error::{Error, Result};
use crate::exec::host::Link;
use crate::exec::sim::{Measured, SimMachine, SimOptions, simulate};
use crate::exec::{Report, SpanKind};
use crate::machine::Machine;
use crate::mesh::Mesh;
use crate::plan::{OpKind, Plan, Role, check_world};
use crate::strategy::{LayerProblem, Options, Strategy, attention, layer};

/// Which part of a transformer layer is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The projection to q, k, v, attention, the output projection and the problem's MLP.
    Layer,
    /// What the strategy means to overlap: fastseq's all-gather with the projections, ring's
    /// attention; the layer for every other one.
    Overlapped,
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Case {
    /// The layer.
    pub problem: LayerProblem,
    /// The strategy.
    pub strategy: Strategy,
    /// Its mesh.
    pub mesh: Mesh,
    /// Choices that change no bit.
    pub options: Options,
    /// Which part of the layer.
    pub part: Part,
}

impl Case {
    /// The plans of all ranks.
    ///
    /// # Errors
    /// A problem, mesh or strategy that contradict each other.
    pub fn plans(&self) -> Result<Vec<Plan>> {
        let Self { problem, strategy, mesh, options, part } = self;
        match (part, strategy) {
            (Part::Overlapped, Strategy::Fastseq) => {
                Ok(layer(problem, *strategy, mesh, options)?.into_iter().map(up_to_projections).collect())
            }
            (Part::Overlapped, Strategy::Ring) => attention(&problem.attention, *strategy, mesh, options),
            _ => layer(problem, *strategy, mesh, options),
        }
    }

    /// Name of the part in tables.
    pub fn part_name(&self) -> &'static str {
        match (self.part, self.strategy) {
            (Part::Overlapped, Strategy::Fastseq) => "AG+QKV",
            (Part::Overlapped, Strategy::Ring) => "attention",
            _ => "layer",
        }
    }
}

/// How fast transfers are.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Speed {
    /// As fast as memory.
    Memory,
    /// As fast as this link.
    Link(Link),
    /// On a link without latency on which T_comm is this many times T_gemm.
    Ratio(f64),
}

/// How it is measured.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Runs that count, after one to warm up.
    pub iterations: usize,
    /// Kernel threads of all ranks together.
    pub threads: usize,
    /// How fast transfers are.
    pub speed: Speed,
    /// The machine whose rates kernels and links keep to, if not this one. Its time is stretched
    /// so far that this host's kernels are never the slower ones.
    pub paced: Option<Machine>,
    /// Longest time that one wait may take.
    pub deadline: Duration,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Overlapped {
    /// Compute with data resident.
    pub gemm: Samples,
    /// Transfers alone.
    pub comm: Samples,
    /// One behind the other.
    pub sequential: Samples,
    /// The plan as it is.
    pub overlapped: Samples,
    /// The arrival bound of the schedule, the largest of all ranks.
    pub bound_s: f64,
    /// Bytes that a rank sends, the most of all ranks.
    pub bytes: u64,
    /// Messages that a rank sends, the most of all ranks.
    pub messages: u64,
    /// Floating-point operations of a rank, the most of all ranks.
    pub flops: f64,
    /// Kernel threads of a rank.
    pub rank_threads: usize,
    /// Processor time of the transfers alone over their wall time, a rank: the cores that
    /// communication takes. `None` where the system does not say.
    pub comm_cores: Option<f64>,
    /// The link of the transfers.
    pub link: Option<Link>,
    /// How many times longer everything took here than the times above say; 1 without a pace.
    pub stretch: f64,
    /// One of the overlapped runs, the one of median length.
    pub report: Report,
    /// The same plan under the simulator, with the link as modelled and every kernel as long as in
    /// one of the runs of the compute alone; `None` where no link is modelled.
    pub predicted: Option<Report>,
}

impl Overlapped {
    /// H.
    pub fn hidden_fraction(&self) -> f64 {
        (self.sequential.p50_s - self.overlapped.p50_s) / self.comm.p50_s.min(self.gemm.p50_s)
    }

    /// R.
    pub fn regret(&self) -> f64 {
        self.overlapped.p50_s / self.bound_s - 1.0
    }

    /// T_ovl as the simulator has it.
    pub fn predicted_s(&self) -> Option<f64> {
        self.predicted.as_ref().map(seconds)
    }
}

/// Measures a case.
///
/// # Errors
/// A case that cannot be planned, a link or machine that makes no sense, no iterations, a run that
/// fails.
pub fn overlap(case: &Case, conditions: &Conditions) -> Result<Overlapped> {
    if conditions.iterations == 0 {
        return Err(Error::Unsupported("0 iterations: measure at least 1".into()));
    }
    let plans = case.plans()?;
    let most = |of: fn(&Plan) -> u64| plans.iter().map(of).max().unwrap_or(0);
    let (bytes, messages) = (most(Plan::bytes_sent), most(Plan::messages_sent));
    let computes: Vec<Plan> = plans.iter().map(compute_alone).collect();
    let pace = Pace::new(&computes, conditions)?;
    let mut gemm = World::new(computes, pace.options(conditions, None))?;
    let link = pace.link(conditions.speed, bytes, &mut gemm)?;
    let mut comm = World::new(plans.iter().map(transfers_alone).collect(), pace.options(conditions, link))?;
    let mut whole = World::new(plans.clone(), pace.options(conditions, link))?;
    let mut times = [const { Vec::new() }; 4];
    let mut ops = OpTimes::new(&plans);
    let mut reports = Reports::new(conditions.iterations);
    let mut computes = Reports::new(conditions.iterations);
    let mut comm_cpu_s = Some(0.0);
    for iteration in 0..=conditions.iterations {
        let computed = gemm.run()?;
        let before = cpu_s();
        let moved = comm.run()?;
        let cpu = before.zip(cpu_s()).map(|(before, after)| after - before);
        let both = whole.run()?;
        if iteration > 0 {
            comm_cpu_s = comm_cpu_s.zip(cpu).map(|(sum, cpu)| sum + cpu);
            let (g, c, o) = (seconds(&computed), seconds(&moved), seconds(&both));
            [g, c, g + c, o].into_iter().zip(&mut times).for_each(|(time, of)| of.push(time));
            ops.add(&computed, |kind| matches!(kind, SpanKind::Compute | SpanKind::Copy));
            ops.add(&moved, |kind| kind == SpanKind::Comm);
            reports.offer(o, both);
            computes.offer(g, computed);
        }
    }
    let comm_s: f64 = times[1].iter().sum();
    let report = reports.median(&times[3]);
    let predicted = link.map(|link| predict(&plans, link, &computes.median(&times[0]))).transpose()?;
    let [gemm, comm, sequential, overlapped] = times.map(|times| Samples::of(&times).divided_by(pace.stretch));
    Ok(Overlapped {
        bound_s: ops.bound_s(&plans) / pace.stretch,
        gemm,
        comm,
        sequential,
        overlapped,
        bytes,
        messages,
        flops: plans.iter().map(Plan::flops).fold(0.0, f64::max),
        rank_threads: (conditions.threads / plans.len()).max(1),
        comm_cores: comm_cpu_s.map(|cpu| cpu / comm_s.max(1e-9) / plans.len() as f64),
        link: link.map(|link| pace.link_of_machine(link)),
        stretch: pace.stretch,
        report: pace.report_of_machine(report),
        predicted: predicted.map(|report| pace.report_of_machine(report)),
    })
}

/// Simulates the plans on this host's `link`, kernels as long as in `computed`.
fn predict(plans: &[Plan], link: Link, computed: &Report) -> Result<Report> {
    let machine = Machine {
        name: "this host".into(),
        link_bytes_per_s: link.bytes_per_s,
        link_latency_s: link.latency_s,
        ..Machine::cpu()
    };
    let measured = Measured::of(std::slice::from_ref(computed));
    let options = SimOptions { measured: Some(&measured), ..SimOptions::default() };
    simulate(&check_world(plans.to_vec())?, &SimMachine::host(machine), &options)
}

/// Some reports of a series, evenly over it.
struct Reports {
    every: usize,
    seen: usize,
    kept: Vec<(f64, Report)>,
}

impl Reports {
    fn new(iterations: usize) -> Self {
        Self { every: iterations.div_ceil(16), seen: 0, kept: Vec::new() }
    }

    fn offer(&mut self, seconds: f64, report: Report) {
        if self.seen.is_multiple_of(self.every) {
            self.kept.push((seconds, report));
        }
        self.seen += 1;
    }

    /// The kept one nearest to the median of `times`.
    fn median(self, times: &[f64]) -> Report {
        let middle = median(times);
        let nearest = self.kept.into_iter().min_by(|(a, _), (b, _)| (a - middle).abs().total_cmp(&(b - middle).abs()));
        nearest.map(|(_, report)| report).unwrap_or_default()
    }
}

/// The plan up to its last projection.
fn up_to_projections(mut plan: Plan) -> Plan {
    let last = plan.op_ids().filter(|&id| plan.label(id).starts_with("project ")).last();
    plan.ops.truncate(last.map_or(0, |id| id.0 as usize + 1));
    // What nobody writes any more is no output.
    let outputs = plan.buffers.iter_mut().filter(|buffer| buffer.role == Role::Output);
    outputs.for_each(|buffer| buffer.role = Role::Temp);
    let kept: Vec<u32> =
        plan.ops.iter().filter_map(|op| if let OpKind::Comm(i) = op.kind { Some(i) } else { None }).collect();
    plan.comms.truncate(kept.iter().max().map_or(0, |&i| i as usize + 1));
    plan
}

/// Processor time of this process so far, all threads, ended ones included; its resolution is a
/// hundredth of a second, and sums of differences are as exact as their ends.
fn cpu_s() -> Option<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let facts = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold spaces; behind it, user and system time are fields 12 and 13.
    let mut fields = facts.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some((user + system) / TICKS_PER_S)
}
