//! Communication that is hidden, seen in spans and in times: with real kernels where ranks have
//! cores, with paced ones where they have not.
//!
//! The arrival bound is the largest, over the chunks i, of arrival_i plus the projections of
//! chunks i and later: no schedule that projects in order of arrival is faster.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, Prepared, prepare, run_tensors};
use seqpar::exec::{Overlap, Report, SpanKind, overlap};
use seqpar::kernel::spec::Kernel;
use seqpar::machine::Machine;
use seqpar::mesh::Mesh;
use seqpar::plan::{Direction, Plan, check_world};
use seqpar::strategy::{self, LayerProblem, Options, Route, Strategy};
use support::cases::{Case, layer_inputs};
use support::timing::{first_good, linked, paced, span, spans};
use support::{Rng, Tensors, options, run, seed};

/// Time is measured: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without biases, norm or rotary embedding: a projection is one kernel a chunk.
fn plain_layer(case: &Case, hidden: usize, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden,
        qkv_bias: false,
        proj_bias: false,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    }
}

fn plans(layer: &LayerProblem, strategy: Strategy, ranks: usize, options: &Options) -> Vec<Plan> {
    let mesh = if strategy == Strategy::Ring { Mesh::new(1, ranks) } else { Mesh::new(ranks, 1) };
    strategy::layer(layer, strategy, &mesh.unwrap(), options).unwrap()
}

/// When chunk k (k places on) arrived at `rank` and when its projection ran, in ns.
struct Chunk {
    arrived: u64,
    begin: u64,
    end: u64,
}

fn chunks(report: &Report, rank: usize, ranks: usize, gated: bool) -> Vec<Chunk> {
    let chunk = |k: usize| {
        let owner = (rank + k) % ranks;
        let arrived = if k == 0 { 0 } else { span(report, rank, &format!("chunk {owner} arrives")).end_ns };
        let projection = if gated {
            *spans(report, rank, "project chunks").iter().find(|s| s.piece == Some(k as u16)).unwrap()
        } else {
            span(report, rank, &format!("project chunk {owner}"))
        };
        Chunk { arrived, begin: projection.begin_ns, end: projection.end_ns }
    };
    (0..ranks).map(chunk).collect()
}

#[test]
fn a_chunk_is_projected_before_the_next_has_arrived() {
    let _alone = alone();
    let mut rng = Rng(seed());
    for ranks in [3, 4] {
        for (gated, route) in
            [(false, Route::Forwarded), (true, Route::Forwarded), (false, Route::Direct), (true, Route::Direct)]
        {
            let case = Case::plain(Dtype::F32, 32 * ranks, 4, 16);
            let layer = plain_layer(&case, 64, ranks);
            let inputs = layer_inputs(&case, &layer, &mut rng);
            let plans = plans(&layer, Strategy::Fastseq, ranks, &Options { gated, route, ..Options::default() });
            // 32 rows of 256 bytes in 8 ms.
            let late = first_good(Vec::is_empty, || {
                let (_, report) = run(plans.clone(), &inputs, linked(1.024e6, 1e-4));
                let mut late = Vec::new();
                for rank in 0..ranks {
                    let chunks = chunks(&report, rank, ranks, gated);
                    for (k, pair) in chunks.windows(2).enumerate() {
                        let name = format!("rank {rank} of {ranks}, gated {gated}, {route:?}, chunk {k}");
                        assert!(pair[1].begin >= pair[1].arrived, "{name}: the next is projected before it is there");
                        if pair[0].begin >= pair[1].arrived {
                            late.push(name);
                        }
                    }
                }
                late
            });
            assert!(late.is_empty(), "{late:?} wait for the next");
        }
    }
}

/// Time from the first issue to the end of the last projection, and the bound that the arrivals
/// and the given projection times leave, in seconds; the worst rank.
fn against_bound(report: &Report, ranks: usize, arrivals: impl Fn(usize) -> f64, gemm: &[Vec<f64>]) -> (f64, f64) {
    let mut worst = (0.0, 1.0);
    for (rank, gemm) in gemm.iter().enumerate() {
        let chunks = chunks(report, rank, ranks, false);
        let first_hop = span(report, rank, &format!("chunk {} arrives", (rank + 1) % ranks));
        let begin = chunks[0].begin.min(first_hop.begin_ns);
        let took = (chunks[ranks - 1].end - begin) as f64 / 1e9;
        let rest = |i: usize| gemm[i..].iter().sum::<f64>();
        let bound = (0..ranks).map(|i| arrivals(i) + rest(i)).fold(0.0, f64::max);
        if took / bound > worst.0 / worst.1 {
            worst = (took, bound);
        }
    }
    worst
}

/// A world prepared once and run many times; the first run, which touches its memory for the
/// first time, does not count.
struct Timed<'a> {
    prepared: Prepared,
    inputs: &'a Tensors,
}

impl<'a> Timed<'a> {
    fn new(plans: &[Plan], inputs: &'a Tensors, host: HostOptions) -> Self {
        let host = HostOptions { check_leases: false, poison: false, ..host };
        let prepared = prepare(check_world(plans.to_vec()).unwrap(), host).unwrap();
        let mut timed = Self { prepared, inputs };
        timed.run();
        timed
    }

    fn run(&mut self) -> Report {
        run_tensors(&mut self.prepared, self.inputs).unwrap().1
    }
}

#[test]
fn two_ranks_reach_the_arrival_bound_with_real_kernels() {
    let _alone = alone();
    let mut rng = Rng(seed());
    let case = Case::plain(Dtype::F32, 1536, 16, 48);
    let layer = plain_layer(&case, 768, 2);
    let inputs = layer_inputs(&case, &layer, &mut rng);
    let fastseq = plans(&layer, Strategy::Fastseq, 2, &Options::default());
    let chunk_bytes = (768 * 768 * 4) as f64;
    let mut resident = Timed::new(&fastseq, &inputs, options(2));
    let mut ratios = Vec::new();
    // The machine is shared: a neighbour may spoil a measurement, not all of them.
    for _ in 0..10 {
        // Both ranks compute at once, and nothing takes time to arrive.
        let gemm = projections(&[resident.run(), resident.run(), resident.run()], median);
        let transfer = (gemm.iter().flatten().sum::<f64>() / 4.0).max(0.010);
        let link = HostOptions { threads: 2, ..linked(chunk_bytes / transfer, 0.0) };
        let mut overlapped = Timed::new(&fastseq, &inputs, link);
        // Taken in turns, so that a busy neighbour meets both.
        let pairs = (0..7).map(|_| (resident.run(), overlapped.run()));
        let (resident_runs, overlapped_runs): (Vec<Report>, Vec<Report>) = pairs.unzip();
        for (name, of) in [("median", median as fn(Vec<f64>) -> f64), ("best", best)] {
            let gemm = projections(&resident_runs, of);
            let times: Vec<(f64, f64)> =
                overlapped_runs.iter().map(|run| against_bound(run, 2, |i| i as f64 * transfer, &gemm)).collect();
            let of_all = |figure: fn(&(f64, f64)) -> f64| of(times.iter().map(figure).collect());
            eprintln!(
                "{name} of 7: T_gemm {:.1} ms, T_comm {:.1} ms, T_ovl {:.1} ms, arrival bound {:.1} ms",
                gemm[0].iter().sum::<f64>() * 1e3,
                transfer * 1e3,
                of_all(|(took, _)| *took) * 1e3,
                of_all(|(_, bound)| *bound) * 1e3
            );
            ratios.push(of_all(|(took, bound)| took / bound));
        }
        if ratios.iter().any(|&ratio| ratio <= 1.1) {
            return;
        }
    }
    panic!("T_ovl over the arrival bound: {ratios:.2?}, at most 1.1");
}

/// Seconds of each rank's projections, chunk by chunk, over several runs.
fn projections(runs: &[Report], of: fn(Vec<f64>) -> f64) -> Vec<Vec<f64>> {
    let time = |run: &Report, rank: usize, k: usize| {
        let chunk = &chunks(run, rank, 2, false)[k];
        (chunk.end - chunk.begin) as f64 / 1e9
    };
    (0..2).map(|rank| (0..2).map(|k| of(runs.iter().map(|run| time(run, rank, k)).collect())).collect()).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn best(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

/// So slow that the real kernels are nothing: one chunk's projection and its transfer take about
/// `step_s`.
fn slow_machine(plans: &[Plan], step_s: f64) -> Machine {
    let kernels = plans[0].op_ids().filter_map(|id| plans[0].kernel(id));
    let projection = kernels.filter(|kernel| matches!(kernel, Kernel::Gemm(_))).map(|kernel| kernel.piece_flops(0));
    let flops = projection.fold(f64::INFINITY, f64::min);
    let sends = plans[0].op_ids().map(|id| plans[0].op_bytes_sent(id)).filter(|&bytes| bytes > 0);
    Machine {
        name: "slow".into(),
        f32_flops: flops / step_s,
        half_flops: flops / step_s,
        memory_bytes_per_s: 1e12,
        link_bytes_per_s: sends.max().unwrap_or(1) as f64 / step_s,
        link_latency_s: 0.0,
        launch_s: 0.0,
    }
}

fn paced_case(ranks: usize) -> (Case, LayerProblem, Tensors) {
    let case = Case::plain(Dtype::F32, 16 * ranks, 16, 8);
    let layer = plain_layer(&case, 128, ranks);
    let inputs = layer_inputs(&case, &layer, &mut Rng(seed()));
    (case, layer, inputs)
}

#[test]
fn four_and_eight_ranks_reach_the_arrival_bound_when_paced() {
    let _alone = alone();
    for ranks in [4, 8] {
        let (case, layer, inputs) = paced_case(ranks);
        let plans = plans(&layer, Strategy::Fastseq, ranks, &Options::default());
        for ratio in [0.5, 1.0, 2.0] {
            let step = 0.02;
            let mut machine = slow_machine(&plans, step);
            let chunk_bytes = (case.tokens / ranks * layer.hidden * 4) as f64;
            let transfer = step * ratio;
            machine.link_bytes_per_s = chunk_bytes / transfer;
            let gemm = vec![vec![projection_s(&plans[0], &machine); ranks]; ranks];
            let mut timed = Timed::new(&plans, &inputs, paced(&machine));
            let mut best = (f64::INFINITY, 1.0);
            let (took, bound) = first_good(
                |(took, bound)| *took <= 1.1 * bound,
                || {
                    let next = against_bound(&timed.run(), ranks, |i| i as f64 * transfer, &gemm);
                    best = if next.0 < best.0 { next } else { best };
                    best
                },
            );
            eprintln!(
                "{ranks} ranks, transfer/projection {ratio}: T_ovl {:.1} ms, bound {:.1} ms",
                took * 1e3,
                bound * 1e3
            );
            assert!(took <= 1.1 * bound, "{ranks} ranks, ratio {ratio}: {took} s, bound {bound} s");
            assert!(took >= 0.99 * bound, "{ranks} ranks, ratio {ratio}: {took} s beat the bound {bound} s");
        }
    }
}

/// Seconds that the machine takes for one chunk's projection.
fn projection_s(plan: &Plan, machine: &Machine) -> f64 {
    let id = plan.op_ids().find(|&id| plan.label(id).starts_with("project chunk")).unwrap();
    let cost = plan.kernel(id).unwrap().cost();
    machine.kernel_s(Dtype::F32, cost.flops, cost.bytes)
}

#[test]
fn ulysses_and_ring_hide_most_of_their_communication() {
    let _alone = alone();
    for (strategy, ranks) in [(Strategy::Ulysses, 4), (Strategy::Ulysses, 2), (Strategy::Ring, 4), (Strategy::Ring, 8)]
    {
        let (case, layer, mut inputs) = paced_case(ranks);
        let mut plans = plans(&layer, strategy, ranks, &Options::default());
        if strategy == Strategy::Ring {
            // A ring can hide behind attention alone.
            plans = strategy::attention(&layer.attention, strategy, &Mesh::new(1, ranks).unwrap(), &Options::default())
                .unwrap();
            inputs = case.attention_inputs(&mut Rng(seed()));
        }
        let machine = balanced_machine(&plans, 0.1);
        let hides = |figures: &Overlap| figures.exposed_ns * 10 <= figures.comm_ns * 6;
        let report =
            first_good(|report| overlap(report).iter().all(hides), || run(plans.clone(), &inputs, paced(&machine)).1);
        for figures in overlap(&report) {
            eprintln!(
                "{} over {ranks}, rank {}: communication {:.1} ms, exposed {:.1} ms",
                strategy.name(),
                figures.rank,
                figures.comm_ns as f64 / 1e6,
                figures.exposed_ns as f64 / 1e6
            );
            assert!(hides(&figures), "{}: {figures:?}", strategy.name());
        }
        let busy: u64 = report.spans.iter().filter(|s| s.rank == 0 && s.kind == SpanKind::Comm).map(|s| s.ns()).sum();
        assert!(busy > 10_000_000, "{}: {busy} ns of communication are too little to judge", strategy.name());
    }
}

/// All kernels of a rank together take `seconds`, and so do twice its transfers.
fn balanced_machine(plans: &[Plan], seconds: f64) -> Machine {
    let plan = &plans[0];
    let received = plan.op_ids().flat_map(|id| {
        let transfers = plan.comm(id).map(|comm| comm.transfers.as_slice()).unwrap_or_default();
        transfers
            .iter()
            .zip(plan.accesses(id))
            .filter(|(t, _)| t.direction == Direction::Recv)
            .map(|(_, a)| plan.access_bytes(a))
    });
    Machine {
        name: "balanced".into(),
        f32_flops: plan.flops() / seconds,
        half_flops: plan.flops() / seconds,
        memory_bytes_per_s: 1e12,
        link_bytes_per_s: received.sum::<usize>() as f64 / (seconds / 2.0),
        link_latency_s: 0.0,
        launch_s: 0.0,
    }
}
