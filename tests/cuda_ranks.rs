//! The CUDA executor with a rank a thread, over NCCL: the unmodified executor and NCCL layer on the
//! mock driver and the mock NCCL. Every strategy at 1 to 4 ranks, eager and as a graph, gates as
//! events and as flags, in every scheduling mode: no race is reported, the bits are those of
//! loopback, bytes are the plan's, and a rank that goes away is an error that names the op.
//!
//! By default each world is run in one mode and way, in turn; `SEQPAR_SEEDS=n` runs n schedules of
//! every mode and way.
#![cfg(feature = "nccl")]

mod emulation;
mod mock;
mod support;

use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config, Library};
use seqpar::cuda::{Context, Priority, Stream};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Failure, FailureKind};
use seqpar::exec::cuda::{CudaOptions, Kernels, Nccl, RankThreads, prepare, prepare_rank, run_tensors};
use seqpar::exec::host::{self, HostOptions};
use seqpar::exec::{HostTensor, Report, SpanKind};
use seqpar::plan::lower::{Command, Gates, Lowered};
use seqpar::plan::{Checked, Plan, Role, check_world};
use seqpar::strategy::{self, LayerProblem, Options};

use mock::{MODES, Mock, on_mock};
use support::cases::{Case, layer_inputs};
use support::worlds::{World, worlds};
use support::{Rng, Tensors, assert_same_bits};

/// Gates, graph, several runs.
const WAYS: [(Gates, bool); 3] = [(Gates::Events, false), (Gates::Events, true), (Gates::Flags, false)];
const DEVICES: [i32; 4] = [0, 1, 2, 3];
const DEADLINE: Duration = Duration::from_secs(20);

fn layer(case: &Case, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: 32,
        qkv_bias: true,
        proj_bias: true,
        text_weights: false,
        qk_norm: None,
        rope: Some(seqpar::kernel::spec::RopePairs::Interleaved),
        mlp: None,
    }
}

fn plans(case: &Case, world: &World, ranks: usize) -> Vec<Checked<Plan>> {
    let options = Options { gated: true, ..Options::default() };
    check_world(strategy::layer(&layer(case, ranks), world.strategy, &world.mesh, &options).unwrap()).unwrap()
}

/// The same, with communication in f32 to sum.
fn world_named(ranks: usize, name: &str) -> World {
    worlds(ranks).into_iter().find(|world| world.strategy.name() == name).unwrap()
}

fn kernels(context: &Context) -> seqpar::Result<Kernels> {
    // SAFETY: the mock does not read images.
    unsafe { Kernels::load(context, &[b"any image"]) }
}

fn loopback(plans: Vec<Checked<Plan>>, inputs: &Tensors) -> Tensors {
    let context = Context::primary(0).unwrap();
    let kernels = kernels(&context).unwrap();
    let prepared = prepare(context, kernels, plans, CudaOptions::default()).unwrap();
    run_tensors(&prepared, inputs, 1).unwrap().0
}

struct Setting {
    library: Library,
    options: CudaOptions,
    config: Config,
    native_sums: bool,
}

impl Setting {
    fn new((gates, graph): (Gates, bool)) -> Self {
        let mut options = CudaOptions::default();
        (options.gates, options.graph, options.deadline) = (gates, graph, DEADLINE);
        options.sms = (gates == Gates::Flags).then_some(2);
        let config = Config { op_deadline: DEADLINE, ..Config::default() };
        Self { library: Library::load(None).unwrap(), options, config, native_sums: false }
    }

    fn threads(&self, ranks: usize) -> RankThreads<'_> {
        RankThreads {
            library: &self.library,
            devices: &DEVICES[..ranks],
            kernels: &kernels,
            options: &self.options,
            config: &self.config,
            native_sums: self.native_sums,
            deadline: DEADLINE,
        }
    }

    fn run(&self, plans: &[Checked<Plan>], inputs: &Tensors, times: usize) -> seqpar::Result<(Tensors, Report)> {
        self.threads(plans.len()).run_tensors(plans, inputs, times)
    }
}

/// Runs it, and holds the mock to have nothing to say.
fn clean(
    mock: &Mock,
    setting: &Setting,
    plans: &[Checked<Plan>],
    inputs: &Tensors,
    times: usize,
    what: &str,
) -> (Tensors, Report) {
    let result = setting.run(plans, inputs, times);
    mock.assert_clean(what);
    let result = result.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
    result
}

/// (mode, seed, way) of the `nth` world.
fn schedules(nth: usize) -> Vec<(&'static str, u64, (Gates, bool))> {
    let seeds: Option<u64> = std::env::var("SEQPAR_SEEDS").ok().and_then(|s| s.parse().ok());
    let Some(seeds) = seeds else { return vec![(MODES[nth % 4], nth as u64, WAYS[nth % 3])] };
    let all = MODES.iter().flat_map(|mode| (0..seeds).flat_map(move |seed| WAYS.map(|way| (*mode, seed, way))));
    all.collect()
}

#[test]
fn every_strategy_has_the_bits_of_loopback() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case { text: 3, ..Case::plain(Dtype::Bf16, 13, 4, 32) };
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
        let mut of_one_rank: Option<Tensors> = None;
        let mut nth = 0;
        for ranks in 1..=4 {
            for world in worlds(ranks) {
                let plans = plans(&case, &world, ranks);
                let mut on_host = host::prepare(plans.clone(), HostOptions::default()).unwrap();
                let on_host = host::run_tensors(&mut on_host, &inputs).unwrap().0;
                mock.reset("late", 1);
                let by_loopback = loopback(plans.clone(), &inputs);
                for (mode, seed, way) in schedules(nth) {
                    let what = format!("{} of {ranks} ranks, {mode}, seed {seed}, {way:?}", world.name());
                    mock.reset(mode, seed);
                    let begin = Instant::now();
                    let (outputs, report) = clean(mock, &Setting::new(way), &plans, &inputs, 2, &what);
                    println!("{what}: {:?}", begin.elapsed());
                    assert_same_bits(&what, &outputs, &by_loopback);
                    let bytes: Vec<u64> = plans.iter().map(|plan| plan.bytes_sent()).collect();
                    assert_eq!(report.bytes_sent, bytes, "{what}");
                }
                nth += 1;
                if world.keeps_bits() {
                    let first = of_one_rank.get_or_insert(by_loopback.clone());
                    assert_same_bits(&world.name(), &by_loopback, first);
                }
                assert_near(&world.name(), &by_loopback, &on_host);
            }
        }
    });
}

fn assert_near(what: &str, outputs: &Tensors, want: &Tensors) {
    for (name, tensor) in outputs {
        for (i, (got, want)) in tensor.to_f32().iter().zip(&want[name].to_f32()).enumerate() {
            // Outputs are near 1: a few roundings of bf16 lie between two executors.
            assert!((got - want).abs() <= 0.06, "{what} {name}[{i}]: {got}, not {want}");
        }
    }
}
