//! The simulator against the host executor: the same plans, the same link model, one of them under
//! a virtual clock. With real kernels where ranks have cores, with paced ones where they have not.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use seqpar::dtype::Dtype;
use seqpar::exec::host::{Clock, HostOptions, Link, Prepared, prepare, run_tensors};
use seqpar::exec::sim::{Measured, SimMachine, SimOptions, World, simulate};
use seqpar::exec::{Report, SpanKind, overlap};
use seqpar::machine::Machine;
use seqpar::mesh::Mesh;
use seqpar::plan::{Checked, Plan, check_world};
use seqpar::strategy::{self, LayerProblem, Options, Strategy};
use support::cases::{Case, layer_inputs};
use support::timing::PATIENCE;
use support::{Rng, Tensors, seed};

/// Time is measured: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Transfers that take this many times as long as the kernels.
const RATIOS: [f64; 4] = [0.1, 0.5, 1.0, 3.0];

const MOST_ERROR: f64 = 0.1;

/// An attention layer under a strategy on its mesh.
struct Layer {
    name: String,
    plans: Vec<Checked<Plan>>,
    inputs: Tensors,
}

fn worlds(ranks: usize, tokens: usize, head_dim: usize) -> Vec<Layer> {
    let heads = 16;
    let case = Case::plain(Dtype::F32, tokens, heads, head_dim);
    let problem = LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: heads * head_dim,
        qkv_bias: false,
        proj_bias: false,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    };
    let inputs = layer_inputs(&case, &problem, &mut Rng(seed()));
    let usp = if ranks == 2 { (1, 2) } else { (ranks / 2, 2) };
    [
        (Strategy::Fastseq, (ranks, 1)),
        (Strategy::Ulysses, (ranks, 1)),
        (Strategy::Ring, (1, ranks)),
        (Strategy::Usp, usp),
    ]
    .map(|(strategy, (u, r))| {
        let plans = strategy::layer(&problem, strategy, &Mesh::new(u, r).unwrap(), &Options::default()).unwrap();
        Layer {
            name: format!("{} {u} x {r}", strategy.name()),
            plans: check_world(plans).unwrap(),
            inputs: inputs.clone(),
        }
    })
    .into()
}

fn host(threads: usize, clock: Clock, link: Option<Link>) -> HostOptions {
    let mut options = HostOptions { threads, link, check_leases: false, poison: false, ..HostOptions::default() };
    options.clock = clock;
    options
}

impl Layer {
    fn prepare(&self, options: HostOptions) -> Prepared {
        prepare(self.plans.clone(), options).unwrap()
    }

    fn bytes_received(&self) -> f64 {
        self.plans.iter().map(|plan| plan.bytes_sent()).max().unwrap() as f64
    }
}

/// From the first issue to the last end, seconds.
fn seconds(report: &Report) -> f64 {
    let end = report.spans.iter().map(|span| span.end_ns).max().unwrap();
    let begin = report.spans.iter().map(|span| span.begin_ns).min().unwrap();
    (end - begin) as f64 / 1e9
}

/// The signed error of the nearest of a few runs; on a busy machine, where a neighbour can only add
/// time, of as many as [`PATIENCE`] holds.
fn nearest(mut error: impl FnMut() -> f64) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    for run in 0.. {
        let next = error();
        best = if next.abs() < best.abs() { next } else { best };
        let enough = best.abs() <= if run < 8 { MOST_ERROR / 2.0 } else { MOST_ERROR };
        if enough || run > 8 && start.elapsed() > PATIENCE {
            break;
        }
    }
    best
}

#[test]
fn four_and_eight_paced_ranks_take_the_simulated_time() {
    let _alone = alone();
    for ranks in [4, 8] {
        for world in worlds(ranks, 16 * ranks, 8) {
            let flops = world.plans[0].flops();
            for ratio in RATIOS {
                let compute_s = 0.1;
                let machine = Machine {
                    name: "slow".into(),
                    f32_flops: flops / compute_s,
                    half_flops: flops / compute_s,
                    memory_bytes_per_s: 1e12,
                    link_bytes_per_s: world.bytes_received() / (compute_s * ratio),
                    link_latency_s: 3e-4,
                    launch_s: 1e-4,
                };
                let link = Link { bytes_per_s: machine.link_bytes_per_s, latency_s: machine.link_latency_s };
                let simulated =
                    simulate(&world.plans, &SimMachine::host(machine.clone()), &SimOptions::default()).unwrap();
                let mut prepared = world.prepare(host(ranks, Clock::Paced(machine), Some(link)));
                let error = nearest(|| {
                    let measured = run_tensors(&mut prepared, &world.inputs).unwrap().1;
                    seconds(&simulated) / seconds(&measured) - 1.0
                });
                eprintln!(
                    "{:<13} {ranks} ranks, T_comm {ratio:>3} T_gemm: T_ovl {:>6.1} ms simulated, {:+.1} % off",
                    world.name,
                    seconds(&simulated) * 1e3,
                    error * 1e2
                );
                assert!(error.abs() <= MOST_ERROR, "{} over {ranks}, ratio {ratio}: {error}", world.name);
            }
        }
    }
}

/// Kernels last here as long as they did in the overlapped run itself: on a shared machine they
/// never take the same time twice. What is tested is everything else, when each of them may start.
/// Beside it, printed, the prediction from kernels that were timed with nothing to wait for.
#[test]
fn two_ranks_with_real_kernels_take_the_simulated_time() {
    let _alone = alone();
    for world in worlds(2, 768, 32) {
        let mut resident = world.prepare(host(2, Clock::Real, None));
        let alone: Vec<Report> = (0..4).map(|_| run_tensors(&mut resident, &world.inputs).unwrap().1).collect();
        let compute_s = alone[1..].iter().map(seconds).fold(f64::INFINITY, f64::min);
        for ratio in RATIOS {
            let bytes_per_s = world.bytes_received() / (compute_s * ratio);
            let machine = Machine { link_bytes_per_s: bytes_per_s, link_latency_s: 0.0, ..Machine::cpu() };
            let machine = SimMachine::host(machine);
            let simulated = |reports: &[Report]| {
                let measured = Measured::of(reports);
                let options = SimOptions { measured: Some(&measured), ..SimOptions::default() };
                seconds(&simulate(&world.plans, &machine, &options).unwrap())
            };
            let link = Some(Link { bytes_per_s, latency_s: 0.0 });
            let mut prepared = world.prepare(host(2, Clock::Real, link));
            run_tensors(&mut prepared, &world.inputs).unwrap();
            let predicted = simulated(&alone[1..]);
            let mut shortest = f64::INFINITY;
            let best = nearest(|| {
                let run = run_tensors(&mut prepared, &world.inputs).unwrap().1;
                shortest = shortest.min(seconds(&run));
                simulated(std::slice::from_ref(&run)) / seconds(&run) - 1.0
            });
            eprintln!(
                "{:<13} 2 ranks, T_comm {ratio:>3} T_gemm: {:+.1} % off, from kernels timed alone {:+.1} %",
                world.name,
                best * 1e2,
                (predicted / shortest - 1.0) * 1e2
            );
            assert!(best.abs() <= MOST_ERROR, "{} over 2, ratio {ratio}: {best}", world.name);
        }
    }
}

/// A machine on which kernels and transfers take round times.
fn round_machine() -> SimMachine {
    SimMachine::host(Machine {
        name: "round".into(),
        f32_flops: 1e9,
        half_flops: 1e9,
        memory_bytes_per_s: 1e9,
        link_bytes_per_s: 1e9,
        link_latency_s: 1e-6,
        launch_s: 0.0,
    })
}

#[test]
fn a_report_says_what_the_plan_does() {
    for world in worlds(4, 64, 8) {
        let machine = round_machine();
        let report = simulate(&world.plans, &machine, &SimOptions::default()).unwrap();
        let ops: usize = world.plans.iter().map(|plan| plan.ops.len()).sum();
        assert_eq!(report.spans.len(), ops, "{}", world.name);
        for (rank, plan) in world.plans.iter().enumerate() {
            assert_eq!(report.bytes_sent[rank], plan.bytes_sent());
            assert_eq!(report.peak_bytes[rank], plan.memory().peak_bytes);
        }
        for edge in world.plans.iter().flat_map(|plan| plan.edges().iter().map(move |edge| (plan, edge))) {
            let (plan, edge) = edge;
            let ends = |id| {
                let label = plan.label(id);
                let of = report.spans.iter().filter(|s| s.rank == plan.rank as usize && &*s.op == label);
                (of.clone().map(|s| s.begin_ns).min().unwrap(), of.map(|s| s.end_ns).max().unwrap())
            };
            if !edge.gate {
                assert!(ends(edge.from).1 <= ends(edge.to).0, "{}: {edge:?}", world.name);
            }
        }
        let bytes: u64 = report.spans.iter().filter(|s| s.kind == SpanKind::Comm).map(|s| s.bytes).sum();
        assert_eq!(bytes, report.bytes_sent.iter().sum::<u64>());
        assert_eq!(report, simulate(&world.plans, &machine, &SimOptions::default()).unwrap());
    }
}

#[test]
fn figures_are_those_of_the_report() {
    for world in worlds(4, 64, 8) {
        let machine = round_machine();
        let report = simulate(&world.plans, &machine, &SimOptions::default()).unwrap();
        let mut ranks = World::new(&machine, SimOptions::default());
        world.plans.iter().for_each(|plan| ranks.push(plan).unwrap());
        let figures = ranks.figures().unwrap();
        assert_eq!(figures.wall_ns, report.wall_ns);
        assert_eq!((figures.bytes_sent, figures.peak_bytes), (report.bytes_sent.clone(), report.peak_bytes.clone()));
        for (busy, overlap) in figures.busy.iter().zip(overlap(&report)) {
            let expected = (overlap.compute_ns, overlap.comm_ns, overlap.exposed_ns);
            assert_eq!((busy.compute_ns, busy.comm_ns, busy.exposed_ns), expected, "{}", world.name);
        }
    }
}

#[test]
fn a_world_that_is_not_whole_is_refused() {
    let world = worlds(4, 64, 8).remove(0);
    let machine = round_machine();
    let error = simulate(&world.plans[..3], &machine, &SimOptions::default()).unwrap_err().to_string();
    assert!(error.contains("3 plans of a world of 4") && error.contains("whole world"), "{error}");
    let error = simulate(&world.plans[1..], &machine, &SimOptions::default()).unwrap_err().to_string();
    assert!(error.contains("in order"), "{error}");
    let small = SimMachine { ranks: 2, ..machine };
    let error = simulate(&world.plans, &small, &SimOptions::default()).unwrap_err().to_string();
    assert!(error.contains("4 ranks") && error.contains("\"round\""), "{error}");
}
