//! Where this program meets the library: plans go in, tensors and figures come out.

use std::collections::BTreeMap;

use seqpar::dtype::{Dtype, bf16_from_f32, f16_from_f32};
use seqpar::exec::host::{self, Bindings, Prepared};
use seqpar::exec::{self, Report};
use seqpar::plan::{self, Plan};

pub(crate) use seqpar::exec::host::HostTensor;

use crate::fault::{Fault, Result};
use crate::run::Launch;
use crate::tensors::f32_bytes;

/// Global tensors by name.
pub(crate) type Tensors = BTreeMap<String, HostTensor>;

/// What one run showed, or several added up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) wall_ms: f64,
    /// By rank.
    pub(crate) bytes_sent: Vec<u64>,
    /// By rank.
    pub(crate) peak_bytes: Vec<u64>,
    /// Time of transfers, and the part of it that lay under kernels, over all ranks.
    pub(crate) comm_ms: f64,
    pub(crate) hidden_ms: f64,
    /// The last run.
    pub(crate) report: Report,
}

impl Facts {
    /// Adds a later run.
    pub(crate) fn add(&mut self, later: Self) {
        self.wall_ms += later.wall_ms;
        self.comm_ms += later.comm_ms;
        self.hidden_ms += later.hidden_ms;
        add_each(&mut self.bytes_sent, &later.bytes_sent, |a, b| a + b);
        add_each(&mut self.peak_bytes, &later.peak_bytes, u64::max);
        self.report = later.report;
    }

    /// Part of the transfer time that lay under kernels; none without transfers.
    pub(crate) fn overlap(&self) -> Option<f64> {
        (self.comm_ms > 0.0).then(|| (self.hidden_ms / self.comm_ms).clamp(0.0, 1.0))
    }
}

/// The plans of all ranks, ready to run, and what is bound to them.
pub(crate) struct World {
    prepared: Prepared,
    bindings: Bindings<'static>,
}

impl World {
    /// Holds the plans to the law and prepares them.
    pub(crate) fn prepare(plans: Vec<Plan>, launch: &Launch) -> Result<Self> {
        let checked = plan::check_world(plans)?;
        refuse_beyond_memory(checked.iter().map(|plan| plan.memory().peak_bytes as u64).sum())?;
        let prepared = host::prepare(checked, launch.host_options())?;
        let bindings = prepared.bindings();
        Ok(Self { prepared, bindings })
    }

    /// Hands every rank its parts of global tensors; they stay for all runs.
    pub(crate) fn bind(&mut self, inputs: &Tensors) -> Result<()> {
        Ok(inputs.iter().try_for_each(|(name, tensor)| self.bindings.set(name, tensor))?)
    }

    /// Runs once.
    pub(crate) fn run(&mut self) -> Result<(Tensors, Facts)> {
        let report = self.prepared.run(&mut self.bindings)?;
        Ok((self.bindings.gather()?, facts(report)))
    }
}

fn facts(report: Report) -> Facts {
    let overlap = exec::overlap(&report);
    let ms = |ns: u64| ns as f64 / 1e6;
    Facts {
        wall_ms: ms(report.wall_ns),
        bytes_sent: report.bytes_sent.clone(),
        peak_bytes: report.peak_bytes.iter().map(|&bytes| bytes as u64).collect(),
        comm_ms: ms(overlap.iter().map(|rank| rank.comm_ns).sum()),
        hidden_ms: ms(overlap.iter().map(|rank| rank.comm_ns.saturating_sub(rank.exposed_ns)).sum()),
        report,
    }
}

/// Checks, prepares and runs plans once.
pub(crate) fn run(plans: Vec<Plan>, inputs: &Tensors, launch: &Launch) -> Result<(Tensors, Facts)> {
    let mut world = World::prepare(plans, launch)?;
    world.bind(inputs)?;
    world.run()
}

/// The tensor of that name among a run's outputs.
pub(crate) fn output<'a>(outputs: &'a Tensors, name: &str) -> Result<&'a HostTensor> {
    outputs.get(name).ok_or_else(|| Fault::Data(format!("the run gave no tensor \"{name}\": please report this")))
}

/// A tensor of bytes that its reader has checked.
pub(crate) fn tensor(dtype: Dtype, dims: [usize; 4], bytes: Vec<u8>) -> Result<HostTensor> {
    match dims.iter().product::<usize>().checked_mul(dtype.bytes()) {
        Some(expected) if expected == bytes.len() => Ok(HostTensor { dtype, dims, bytes }),
        _ => Err(Fault::Data(format!("{} bytes do not make {dims:?} of {dtype}", bytes.len()))),
    }
}

/// A tensor of values rounded to `dtype`.
pub(crate) fn floats(dtype: Dtype, dims: [usize; 4], values: &[f32]) -> Result<HostTensor> {
    let bytes = match dtype {
        Dtype::F16 => values.iter().flat_map(|value| f16_from_f32(*value).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|value| bf16_from_f32(*value).to_le_bytes()).collect(),
        _ => f32_bytes(values),
    };
    tensor(dtype, dims, bytes)
}

/// A launch needs at least its plans' peak; where the system says how much is left, more than
/// that is refused before it is asked for.
pub(crate) fn refuse_beyond_memory(needed: u64) -> Result<()> {
    let Ok(facts) = std::fs::read_to_string("/proc/meminfo") else { return Ok(()) };
    let line = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    match kib.and_then(|kib| kib.checked_mul(1024)) {
        Some(available) if needed > available => Err(Fault::Data(format!(
            "the run needs {}, but {} are available: use a smaller batch, fewer tokens or another strategy",
            crate::table::bytes(needed),
            crate::table::bytes(available)
        ))),
        _ => Ok(()),
    }
}

/// Most bytes of the plans of all ranks together.
pub(crate) fn peak_bytes(plans: &[Plan]) -> Result<u64> {
    let checked = plan::check_world(plans.to_vec())?;
    Ok(checked.iter().map(|plan| plan.memory().peak_bytes as u64).sum())
}

fn add_each(sums: &mut Vec<u64>, values: &[u64], add: impl Fn(u64, u64) -> u64) {
    sums.resize(sums.len().max(values.len()), 0);
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = add(*sum, *value));
}
