//! Chooses a strategy: builds the plans of every candidate, simulates them on a machine and takes
//! the fastest.
//!
//! The simulation is that of [`crate::exec::sim`]; what it is worth in absolute time depends on
//! the machine's constants, what it says of one strategy against another on little more than
//! bytes, messages and what can lie under what. [`crossover`] finds where one strategy overtakes
//! another. Test: `tests/auto.rs`.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::exec::sim::{Busy, SimMachine, SimOptions, World};
use crate::mesh::Mesh;
use crate::plan::{Alike, Checked, Outlines, Plan, check, check_outlines, check_ranks};
use crate::shard::even_range;
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
    /// Seconds in which kernels run.
    pub compute_s: f64,
    /// Seconds in which communication runs.
    pub comm_s: f64,
    /// Seconds in which communication runs and no kernel does.
    pub exposed_s: f64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Floating-point operations.
    pub flops: f64,
    /// Peak bytes, inputs and outputs included.
    pub peak_bytes: usize,
}

/// What is to be chosen for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where it runs.
    pub machine: &'a SimMachine,
    /// How.
    pub options: SimOptions<'a>,
    /// Ranks of one sequence.
    pub ranks: usize,
    /// Query heads and key heads.
    pub heads: (usize, usize),
    /// Ulysses and ring degree of usp, where given.
    pub degrees: (Option<usize>, Option<usize>),
}

/// Predictions of all candidates that the problem and the ranks allow, fastest first. `build`
/// makes the plan of one rank of a candidate, for those that `alike` says stand for themselves.
///
/// # Errors
/// No candidate can do the problem (the first refusal says why), a plan that breaks the law, or a
/// machine with too few ranks.
pub fn explain(
    ask: &Ask,
    alike: impl Fn(Strategy, &Mesh) -> Alike,
    build: impl Fn(Strategy, &Mesh, usize) -> Result<Plan> + Sync,
) -> Result<Vec<Prediction>> {
    let mut rows = Vec::new();
    let mut refusal = None;
    for strategy in Strategy::ALL {
        if (strategy == Strategy::Single) != (ask.ranks == 1) {
            continue;
        }
        let (ulysses, ring) = if strategy == Strategy::Usp { ask.degrees } else { (None, None) };
        // What one rank can do of a problem, all can.
        let allowed = strategy
            .mesh(ask.ranks, ulysses, ring, ask.heads.0, ask.heads.1)
            .and_then(|mesh| build(strategy, &mesh, 0).map(|_| mesh));
        match allowed {
            Ok(mesh) => {
                let of_rank = |rank| build(strategy, &mesh, rank);
                rows.push(predict(ask.machine, ask.options, strategy, mesh, &alike(strategy, &mesh), of_rank)?);
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    rows.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    match refusal {
        Some(error) if rows.is_empty() => Err(error),
        _ => Ok(rows),
    }
}

/// The fastest prediction among those that keep the bits, or among all with `allow_reorder`.
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

/// Builds the plans of a world of `count` ranks and holds them to the law, on as many threads as
/// there are cores.
///
/// # Errors
/// Those of `build`, or a plan that breaks the law.
pub fn lawful(count: usize, build: impl Fn(usize) -> Result<Plan> + Sync) -> Result<Vec<Checked<Plan>>> {
    let part = |ranks: Range<usize>| ranks.map(|rank| build(rank).and_then(check)).collect::<Result<Vec<_>>>();
    let plans: Vec<Checked<Plan>> = in_parts(count, part)?.into_iter().flatten().collect();
    check_ranks(&plans, &Alike::none(count))?;
    Ok(plans)
}

/// Predicts one strategy's cost: builds and checks the plans of the firsts of `alike` as [`lawful`]
/// does, and keeps of each only what the law between ranks and the simulation need, which cover all.
///
/// # Errors
/// Those of `build`, a plan that breaks the law, or a machine with too few ranks.
pub fn predict(
    machine: &SimMachine,
    options: SimOptions,
    strategy: Strategy,
    mesh: Mesh,
    alike: &Alike,
    build: impl Fn(usize) -> Result<Plan> + Sync,
) -> Result<Prediction> {
    let firsts: Vec<usize> = alike.firsts().collect();
    let part = |numbers: Range<usize>| {
        let mut outlines = Outlines::default();
        let (mut world, mut flops) = (World::new(machine, options), 0f64);
        for &rank in &firsts[numbers] {
            let plan = build(rank).and_then(check)?;
            outlines.push(&plan);
            world.push(&plan)?;
            flops = flops.max(plan.flops());
        }
        Ok((outlines, world, flops))
    };
    let mut outlines = Outlines::default();
    let (mut world, mut flops) = (World::new(machine, options), 0f64);
    for (of_part, part, most) in in_parts(firsts.len(), part)? {
        outlines.append(of_part);
        world.append(part)?;
        flops = flops.max(most);
    }
    check_outlines(&outlines, alike)?;
    drop(outlines);
    let figures = world.figures_alike(alike)?;
    let most = |of: fn(&Busy) -> u64| figures.busy.iter().map(of).max().unwrap_or(0) as f64 / 1e9;
    Ok(Prediction {
        strategy,
        mesh,
        keeps_bits: strategy.keeps_bits(&mesh),
        seconds: figures.wall_ns as f64 / 1e9,
        compute_s: most(|busy| busy.compute_ns),
        comm_s: most(|busy| busy.comm_ns),
        exposed_s: most(|busy| busy.exposed_ns),
        bytes_sent: figures.bytes_sent.iter().copied().max().unwrap_or(0),
        messages_sent: figures.messages_sent.iter().copied().max().unwrap_or(0),
        flops,
        peak_bytes: figures.peak_bytes.iter().copied().max().unwrap_or(0),
    })
}

/// What `part` makes of each of as many runs of `0..count` as there are cores, each on a thread of its own.
fn in_parts<T: Send>(count: usize, part: impl Fn(Range<usize>) -> Result<T> + Sync) -> Result<Vec<T>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count.max(1));
    let part = |thread: usize| part(even_range(count, threads, thread));
    let parts: Vec<Result<T>> = std::thread::scope(|scope| {
        let part = &part;
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        let first = part(0);
        let rest = others.into_iter().map(|thread| {
            let lost = || Error::Unsupported("a thread that built plans panicked".into());
            thread.join().unwrap_or_else(|_| Err(lost()))
        });
        std::iter::once(first).chain(rest).collect()
    });
    parts.into_iter().collect()
}

/// The factor on all link rates at which `a` and `b` take the same time, between 1/4096 and 4096,
/// to one part in 50; `None` if one of them is faster throughout. Both are seconds at a factor.
///
/// # Errors
/// Those of `a` and `b`.
pub fn crossover(a: impl Fn(f64) -> Result<f64>, b: impl Fn(f64) -> Result<f64>) -> Result<Option<f64>> {
    let ahead = |factor: f64| Ok::<bool, Error>(a(factor)? < b(factor)?);
    let now = ahead(1.0)?;
    // The nearest power of two on either side at which it is the other way round.
    for step in 1..=12 {
        for sign in [-1, 1] {
            let far = 2f64.powi(sign * step);
            if ahead(far)? == now {
                continue;
            }
            let (mut same, mut other) = (2f64.powi(sign * (step - 1)), far);
            while (same / other).max(other / same) > 1.02 {
                let middle = (same * other).sqrt();
                *(if ahead(middle)? == now { &mut same } else { &mut other }) = middle;
            }
            return Ok(Some((same * other).sqrt()));
        }
    }
    Ok(None)
}
