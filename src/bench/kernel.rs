//! One kernel on one rank.

use super::samples::{Samples, series};
use super::world::World;
use crate::error::{Error, Result};
use crate::exec::host::HostOptions;
use crate::exec::{Report, SpanKind};
use crate::kernel::spec::{Cost, Kernel, Mode};
use crate::plan::{Builder, Placement, Role, View};

/// Times of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// From the start of its work to the end.
    pub time: Samples,
    /// What it does.
    pub cost: Cost,
}

/// Measures at least `iterations` runs of `kernel` on `threads` threads, in series each set up
/// anew ([`Samples::spread`]).
///
/// # Errors
/// A kernel that this executor refuses.
pub fn kernel(kernel: &Kernel, threads: usize, iterations: usize) -> Result<Measured> {
    let mut b = Builder::new(0, 1);
    let stream = b.stream("compute");
    let mut operands: Vec<Vec<View>> = Vec::new();
    for (i, operand) in kernel.operands().iter().enumerate() {
        let (dtype, dims) = (operand.dtype, operand.shape);
        let name = format!("{} {i}", operand.name);
        let placement = Some(Placement { tensor: name.clone(), dims, index: [None, None, None, None] });
        let view = match operand.mode {
            Mode::Read => b.buffer(name, Role::Input, dtype, dims, placement),
            Mode::Write => b.buffer(name, Role::Output, dtype, dims, placement),
            Mode::Update => {
                let given = b.buffer(format!("given {name}"), Role::Input, dtype, dims, placement);
                let updated = b.temp(name, dtype, dims);
                b.copy(stream, "copy", given, updated);
                updated
            }
        };
        operands.push(vec![view]);
    }
    b.kernel(stream, kernel.name(), kernel.clone(), &operands);
    let plan = b.finish();
    let begin = || World::new(vec![plan.clone()], options(threads));
    let times = series(iterations, begin, |world| compute_s(&world.run()?))?;
    Ok(Measured { time: Samples::of(&times), cost: kernel.cost() })
}

fn compute_s(report: &Report) -> Result<f64> {
    let kernels = report.spans.iter().filter(|span| span.kind == SpanKind::Compute);
    let ns: u64 = kernels.map(|span| span.ns()).sum();
    if ns == 0 {
        return Err(Error::Unsupported("the kernel took no time that the clock sees: take larger sizes".into()));
    }
    Ok(ns as f64 / 1e9)
}

fn options(threads: usize) -> HostOptions {
    HostOptions { threads, check_leases: false, poison: false, ..HostOptions::default() }
}
