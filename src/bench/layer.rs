//! A whole plan, as it is.

use super::roof::Roof;
use super::samples::Samples;
use super::world::{World, seconds};
use crate::error::Result;
use crate::exec::Report;
use crate::exec::host::HostOptions;
use crate::kernel::spec::Cost;
use crate::plan::Plan;

/// Times of a plan on all its ranks.
#[derive(Clone, Debug)]
pub struct LayerRun {
    /// From the first op to the end of the last.
    pub time: Samples,
    /// Of all ranks together.
    pub cost: Cost,
    /// The shortest time that its kernels could take one after the other, all ranks sharing the
    /// roof.
    pub roof_s: f64,
    /// The last run.
    pub report: Report,
}

/// Measures `iterations` runs of `plans`, after one to warm up.
///
/// # Errors
/// A plan that breaks the law, a run that fails.
pub fn layer(plans: Vec<Plan>, options: HostOptions, roof: &Roof, iterations: usize) -> Result<LayerRun> {
    let costs: Vec<Cost> = plans
        .iter()
        .flat_map(|plan| plan.op_ids().filter_map(|id| plan.kernel(id)).map(|kernel| kernel.cost()))
        .collect();
    let mut world = World::new(plans, options)?;
    let (mut times, mut report) = (Vec::new(), world.run()?);
    for _ in 0..iterations {
        report = world.run()?;
        times.push(seconds(&report));
    }
    Ok(LayerRun {
        time: Samples::of(&times),
        roof_s: costs.iter().map(|cost| roof.seconds(*cost)).sum(),
        cost: costs.into_iter().fold(Cost::default(), |a, b| a + b),
        report,
    })
}
