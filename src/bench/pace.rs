//! Another machine's pace on this host: its time is stretched until this host's kernels fit.

use super::overlap::{Conditions, Speed};
use super::samples::median;
use super::world::{World, seconds};
use crate::error::{Error, Result};
use crate::exec::Report;
use crate::exec::host::{Clock, HostOptions, Link};
use crate::machine::Machine;
use crate::plan::Plan;

/// The clock of kernels, and how many times slower it runs than the machine that it stands for.
pub(super) struct Pace {
    clock: Clock,
    pub(super) stretch: f64,
}

impl Pace {
    /// Under a paced clock, runs the compute of all ranks to learn how slow this host is.
    pub(super) fn new(computes: &[Plan], conditions: &Conditions) -> Result<Self> {
        let real = Self { clock: Clock::Real, stretch: 1.0 };
        let Some(machine) = &conditions.paced else { return Ok(real) };
        let mut world = World::new(computes.to_vec(), real.options(conditions, None))?;
        world.run()?;
        let real_s = seconds(&world.run()?);
        let predicted_s = computes.iter().map(|plan| kernels_s(plan, machine)).fold(0.0, f64::max);
        // A thread wakes a fraction of a millisecond late: with this long a mean op, that stays
        // around a percent.
        const OP_S: f64 = 5e-3;
        let ops = computes.iter().map(|plan| plan.ops.len()).max().unwrap_or(0);
        let stretch = ((4.0 * real_s).max(OP_S * ops as f64) / predicted_s).max(1.0);
        if !stretch.is_finite() {
            let why = format!("machine \"{}\" computes this in no time: check its rates", machine.name);
            return Err(Error::Unsupported(why));
        }
        Ok(Self { clock: Clock::Paced(slower(machine, stretch)), stretch })
    }

    /// What the executor is told.
    pub(super) fn options(&self, conditions: &Conditions, link: Option<Link>) -> HostOptions {
        HostOptions {
            threads: conditions.threads,
            link,
            clock: self.clock.clone(),
            deadline: conditions.deadline,
            check_leases: false,
            poison: false,
            ..HostOptions::default()
        }
    }

    /// The link in this host's time. `bytes` is what a rank sends, `gemm` its compute alone.
    pub(super) fn link(&self, speed: Speed, bytes: u64, gemm: &mut World) -> Result<Option<Link>> {
        match speed {
            Speed::Memory => Ok(None),
            Speed::Link(Link { bytes_per_s, latency_s }) => {
                let (bytes_per_s, latency_s) = (bytes_per_s / self.stretch, latency_s * self.stretch);
                Ok(Some(Link { bytes_per_s, latency_s }))
            }
            Speed::Ratio(_) if bytes == 0 => Ok(None),
            Speed::Ratio(ratio) => {
                // The first runs of a new world touch its memory.
                (0..2).try_for_each(|_| gemm.run().map(drop))?;
                let times = (0..7).map(|_| Ok(seconds(&gemm.run()?))).collect::<Result<Vec<f64>>>()?;
                Ok(Some(Link { bytes_per_s: bytes as f64 / (ratio * median(&times)), latency_s: 0.0 }))
            }
        }
    }

    /// The link in the machine's own time.
    pub(super) fn link_of_machine(&self, link: Link) -> Link {
        Link { bytes_per_s: link.bytes_per_s * self.stretch, latency_s: link.latency_s / self.stretch }
    }

    /// The report in the machine's own time.
    pub(super) fn report_of_machine(&self, mut report: Report) -> Report {
        let ns = |ns: u64| (ns as f64 / self.stretch).round() as u64;
        for span in &mut report.spans {
            (span.begin_ns, span.end_ns) = (ns(span.begin_ns), ns(span.end_ns));
        }
        report.wall_ns = ns(report.wall_ns);
        report
    }
}

fn kernels_s(plan: &Plan, machine: &Machine) -> f64 {
    let kernels = plan.op_ids().filter_map(|id| plan.kernel(id));
    let seconds = kernels.map(|kernel| {
        let cost = kernel.cost();
        machine.kernel_s(kernel.dtype(), cost.flops, cost.bytes)
    });
    seconds.sum()
}

fn slower(machine: &Machine, times: f64) -> Machine {
    Machine {
        f32_flops: machine.f32_flops / times,
        half_flops: machine.half_flops / times,
        memory_bytes_per_s: machine.memory_bytes_per_s / times,
        launch_s: machine.launch_s * times,
        ..machine.clone()
    }
}
