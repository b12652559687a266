//! Plans with inputs of no meaning, ready to be run again and again.

use std::sync::Arc;

use super::alone::NOTHING;
use super::samples::{Samples, series};
use crate::error::Result;
use crate::exec::Report;
use crate::exec::host::{Bindings, HostOptions, HostTensor, Prepared, prepare};
use crate::plan::{Plan, Role, check_world};

/// Times of a world.
#[derive(Clone, Debug)]
pub struct Timed {
    /// From the first op to the end of the last.
    pub time: Samples,
    /// The last run.
    pub report: Report,
}

/// Measures at least `iterations` runs of `plans`, in series each set up anew ([`Samples::spread`]).
///
/// # Errors
/// Plans that break the law, a run that fails.
pub fn timed(plans: Vec<Plan>, options: HostOptions, iterations: usize) -> Result<Timed> {
    let mut report = Report::default();
    let begin = || World::new(plans.clone(), options.clone());
    let times = series(iterations, begin, |world| {
        report = world.run()?;
        Ok(seconds(&report))
    })?;
    Ok(Timed { time: Samples::of(&times), report })
}

/// A prepared world and what is bound to it.
pub(super) struct World {
    prepared: Prepared,
    bindings: Bindings<'static>,
}

impl World {
    /// Holds the plans to the law, prepares them and binds every input.
    pub(super) fn new(plans: Vec<Plan>, options: HostOptions) -> Result<Self> {
        let inputs = inputs(&plans)?;
        let mut prepared = prepare(check_world(plans)?, options)?;
        prepared.external(NOTHING, Arc::new(|_| Ok(())));
        let mut bindings = prepared.bindings();
        inputs.iter().try_for_each(|(name, tensor)| bindings.set(name, tensor))?;
        Ok(Self { prepared, bindings })
    }

    /// Runs once.
    pub(super) fn run(&mut self) -> Result<Report> {
        self.prepared.run(&mut self.bindings)
    }
}

/// From the first begin to the last end of any span, in seconds.
pub(super) fn seconds(report: &Report) -> f64 {
    let end = report.spans.iter().map(|span| span.end_ns).max().unwrap_or(0);
    let begin = report.spans.iter().map(|span| span.begin_ns).min().unwrap_or(0);
    end.saturating_sub(begin) as f64 / 1e9
}

/// Small values everywhere: what is computed does not matter, that it is finite does.
fn inputs(plans: &[Plan]) -> Result<Vec<(String, HostTensor)>> {
    let mut tensors: Vec<(String, HostTensor)> = Vec::new();
    for buffer in plans.iter().flat_map(|plan| &plan.buffers).filter(|buffer| buffer.role == Role::Input) {
        let Some(placement) = &buffer.placement else { continue };
        if tensors.iter().any(|(name, _)| *name == placement.tensor) {
            continue;
        }
        let elems = placement.dims.iter().product::<usize>();
        let values: Vec<f32> = (0..elems).map(|i| ((i % 97) as f32 - 48.0) * 1e-3).collect();
        tensors.push((placement.tensor.clone(), HostTensor::from_f32(buffer.dtype, placement.dims, &values)?));
    }
    Ok(tensors)
}
