//! The executor over peers, a rank a thread: every strategy at 1 to 4 ranks, on one device and on
//! one each, eager and as a graph, gates as events and as flags. No race is reported, the bits are
//! those of loopback, bytes are the plan's; in every scheduling mode with 20 seeds (`SEQPAR_SEEDS`).

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use seqpar::comm::peer::Peers;
use seqpar::cuda::Context;
use seqpar::dtype::Dtype;
use seqpar::error::{Error, FailureKind, Result};
use seqpar::exec::Report;
use seqpar::exec::cuda::{
    CudaOptions, Kernels, Outputs, Transport, gathered, prepare, prepare_rank, run_local, run_tensors,
};
use seqpar::plan::{Checked, Plan, check_world};
use seqpar::rendezvous::{MemoryStore, Store};
use seqpar::strategy::{self, LayerProblem, Options};

use crate::exchange::DEADLINE;
use crate::mock::layers::schedules;
use crate::mock::{Mock, on_mock};
use crate::support::cases::{Case, layer_inputs};
use crate::support::worlds::{World, worlds};
use crate::support::{Rng, Tensors, assert_same_bits};

/// How long a rank waits for one that has left.
const PATIENCE: Duration = Duration::from_secs(15);

fn layer(case: &Case, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: 32,
        qkv_bias: true,
        proj_bias: true,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    }
}

pub(crate) fn small() -> (Case, Tensors) {
    let case = Case { text: 3, ..Case::plain(Dtype::Bf16, 9, 4, 32) };
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
    (case, inputs)
}

pub(crate) fn plans(case: &Case, world: &World, ranks: usize) -> Vec<Checked<Plan>> {
    let options = Options { gated: true, ..Options::default() };
    check_world(strategy::layer(&layer(case, ranks), world.strategy, &world.mesh, &options).unwrap()).unwrap()
}

pub(crate) fn kernels(context: &Context) -> Kernels {
    // SAFETY: the mock does not read images.
    unsafe { Kernels::load(context, &[b"any image"]) }.unwrap()
}

pub(crate) fn loopback(plans: Vec<Checked<Plan>>, inputs: &Tensors) -> Tensors {
    let context = Context::primary(0).unwrap();
    let kernels = kernels(&context);
    let prepared = prepare(context, kernels, plans, CudaOptions::default()).unwrap();
    run_tensors(&prepared, inputs, 1).unwrap().0
}

/// One rank of it.
pub(crate) fn rank(
    store: Arc<dyn Store>,
    plans: &[Checked<Plan>],
    rank: usize,
    device: i32,
    inputs: &Tensors,
    options: &CudaOptions,
    runs: usize,
) -> Result<(Outputs, Report)> {
    let context = Context::primary(device)?;
    let peers = Peers::join(store, "job", rank, plans.len(), &context, DEADLINE)?;
    let transport = Transport::peer(&peers, plans)?;
    let kernels = kernels(&context);
    let prepared = prepare_rank(context, kernels, plans[rank].clone(), transport, options.clone())?;
    run_local(&prepared, inputs, runs)
}

/// All ranks, as threads.
fn threads(
    mock: &Mock,
    plans: &[Checked<Plan>],
    inputs: &Tensors,
    options: &CudaOptions,
    runs: usize,
    devices: usize,
) -> Vec<Result<(Outputs, Report)>> {
    let store = Arc::new(MemoryStore::default());
    let gone = Barrier::new(plans.len());
    mock.ranks(plans.len(), |of| {
        // A context of its own, so that the driver's outlives all ranks' work.
        let device = (of % devices) as i32;
        let held = Context::primary(device).unwrap();
        let done = rank(store.clone(), plans, of, device, inputs, options, runs);
        gone.wait();
        drop(held);
        done
    })
}

/// Every strategy of so many ranks, in every schedule, on one device and on one each in turn.
fn every_strategy_has_the_bits_of_loopback(mock: &Mock, ranks: usize) {
    mock.configure("sms=4 devices=4 host=thread");
    let (case, inputs) = small();
    for world in worlds(ranks) {
        let plans = plans(&case, &world, ranks);
        mock.reset("late", 0);
        let want = loopback(plans.clone(), &inputs);
        for (mode, seed, gates, graph) in schedules() {
            let runs = if graph && seed == 0 { 20 } else { 2 };
            let devices = if seed / 2 % 2 == 0 { 1 } else { 4 };
            mock.reset(mode, seed);
            // Races within kernels are looked for by their own tests.
            mock.configure("check=0");
            let mut options = CudaOptions::default();
            (options.gates, options.graph, options.deadline) = (gates, graph, DEADLINE);
            let what =
                format!("{} of {ranks}, {mode} {seed}, {gates:?}, graph {graph}, {devices} devices", world.name());
            let results = threads(mock, &plans, &inputs, &options, runs, devices);
            mock.assert_clean(&what);
            assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
            let mut outputs = Vec::new();
            for (rank, result) in results.into_iter().enumerate() {
                let (own, report) = result.unwrap_or_else(|e| panic!("{what}: {e}"));
                outputs.extend(own);
                assert_eq!(report.bytes_sent[rank], plans[rank].bytes_sent(), "{what}");
            }
            let buffers: Vec<_> = plans.iter().map(|plan| plan.buffers.clone()).collect();
            assert_same_bits(&what, &gathered(&buffers, &outputs).unwrap(), &want);
        }
    }
}

mod worlds_of {
    crate::mock::on_one_to_four_ranks!(super::every_strategy_has_the_bits_of_loopback);
}

/// A rank that leaves after its first run, while the others go on.
#[test]
fn a_rank_that_does_not_come_is_an_error_on_all() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=3 host=thread");
        let (case, inputs) = small();
        let world = worlds(3).into_iter().find(|world| world.strategy.name() == "fastseq").unwrap();
        let plans = plans(&case, &world, 3);
        for (mode, graph) in [("late", true), ("threads", false)] {
            mock.reset(mode, 1);
            let store = Arc::new(MemoryStore::default());
            let gone = Barrier::new(3);
            let kinds = mock.ranks(3, |of| {
                // On a device of its own: to free memory waits for all work of a context.
                let held = Context::primary(of as i32).unwrap();
                let begin = Instant::now();
                let runs = if of == 2 { 1 } else { 3 };
                let mut options = CudaOptions::default();
                // Long enough for the first run on a busy machine.
                options.deadline = if of == 0 { PATIENCE } else { 10 * PATIENCE };
                options.graph = graph;
                let done = rank(store.clone(), &plans, of, of as i32, &inputs, &options, runs);
                gone.wait();
                drop(held);
                (done.map(|_| ()), begin.elapsed())
            });
            let what = format!("{mode}, graph {graph}: {kinds:?}");
            assert!(kinds[2].0.is_ok(), "{what}");
            for (of, (done, took)) in kinds.iter().enumerate().take(2) {
                let Err(Error::Between(failure)) = done else { panic!("{what}") };
                match &failure.kind {
                    FailureKind::Timeout { .. } => assert_eq!(of, 0, "{what}"),
                    FailureKind::Aborted { by } => assert!(of == 1 && by.starts_with("rank 0"), "{what}"),
                    _ => panic!("{what}"),
                }
                assert!(!failure.op.is_empty() && *took < 5 * PATIENCE, "{what}");
            }
            assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
        }
    });
}
