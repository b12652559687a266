//! The CUDA executor over one device, on the mock driver with the emulated kernels behind its
//! launches: a whole layer by every strategy at 1 to 4 ranks, eager and as a graph, gates as
//! events and as flags, in every scheduling mode. No race is reported, the bits are those of one
//! rank where the strategy keeps them, and values are those of the host executor.
//!
//! `SEQPAR_SEEDS` sets the schedules a mode; above 1 every mode and schedule runs in all four ways.
//! By default each world runs in two modes and two ways, all of them in turn.
#![cfg(feature = "cuda")]

mod emulation;
mod mock;
mod support;

use std::time::Instant;

use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{prepare, run_tensors};
use seqpar::exec::host::{self, HostOptions};
use seqpar::plan::{Checked, Plan};

use mock::layers::{Way, kernels, layer, plans, seeds};
use mock::workload::context;
use mock::{MODES, Mock, on_mock};
use support::cases::{Case, layer_inputs};
use support::worlds::worlds;
use support::{Rng, Tensors, assert_same_bits};

fn run(mock: &Mock, plans: Vec<Checked<Plan>>, inputs: &Tensors, way: Way, what: &str) -> Tensors {
    let context = context();
    let kernels = kernels(&context);
    let prepared = prepare(context, kernels, plans, way.options()).unwrap_or_else(|e| panic!("{what}: {e}"));
    // A graph is launched again.
    let result = run_tensors(&prepared, inputs, 1 + usize::from(way.graph));
    mock.assert_clean(what);
    let (outputs, _) = result.unwrap_or_else(|e| panic!("{what}: {e}"));
    drop(prepared);
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
    outputs
}

fn schedules(world: usize) -> Vec<(&'static str, u64, Way)> {
    let ways = Way::all();
    if seeds() == 1 {
        return [world, world + 2].map(|i| (MODES[i % 4], (i - world) as u64, ways[(i + world / 4) % 4])).to_vec();
    }
    let all = MODES.into_iter().flat_map(|mode| (0..seeds()).map(move |seed| (mode, seed)));
    all.flat_map(|(mode, seed)| ways.map(|way| (mode, seed, way))).collect()
}

#[test]
fn every_strategy_is_clean_and_right() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = Case { text: 6, ..Case::plain(Dtype::Bf16, 22, 4, 64) };
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
        let mut reference: Option<Tensors> = None;
        let (mut runs, mut at, begin) = (0, 0, Instant::now());
        for ranks in 1..=4 {
            for world in worlds(ranks) {
                let on_host = {
                    let mut prepared = host::prepare(plans(&case, &world, ranks), HostOptions::default()).unwrap();
                    host::run_tensors(&mut prepared, &inputs).unwrap().0
                };
                let mut first: Option<Tensors> = None;
                for (mode, seed, way) in schedules(at) {
                    runs += 1;
                    mock.reset(mode, seed);
                    // Races within kernels are looked for in one schedule of each mode, and elsewhere.
                    mock.configure(&format!("check={}", u8::from(seed == 0)));
                    let what = format!("{} of {ranks} ranks, {mode}, seed {seed}, {way:?}", world.name());
                    let outputs = run(mock, plans(&case, &world, ranks), &inputs, way, &what);
                    assert_same_bits(&what, &outputs, first.get_or_insert(outputs.clone()));
                }
                if seeds() > 1 {
                    eprintln!(
                        "{} of {ranks} ranks: {runs} runs so far, {:.0} s",
                        world.name(),
                        begin.elapsed().as_secs_f64()
                    );
                }
                at += 1;
                let outputs = first.unwrap();
                if world.keeps_bits() {
                    assert_same_bits(&world.name(), &outputs, reference.get_or_insert(outputs.clone()));
                }
                for (name, tensor) in &outputs {
                    let want = on_host[name].to_f32();
                    for (i, (got, want)) in tensor.to_f32().iter().zip(&want).enumerate() {
                        // Outputs are near 1: a few roundings of bf16 lie between two executors.
                        assert!((got - want).abs() <= 0.06, "{} {name}[{i}]: {got}, not {want}", world.name());
                    }
                }
            }
        }
        println!("{runs} runs, graphs launched twice, {} schedules a mode", seeds());
    });
}

/// More ranks than heads: whoever has none adds nothing to sums, and the others are none the worse.
#[test]
fn a_rank_without_heads_is_one_of_the_world() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = Case { text: 5, ..Case::plain(Dtype::Bf16, 14, 2, 64) };
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(3));
        let mut ran = Vec::new();
        for world in worlds(3) {
            for (i, way) in Way::all().into_iter().enumerate() {
                let what = format!("{} {way:?}", world.name());
                mock.reset(MODES[i], 1);
                let mut on_host = host::prepare(plans(&case, &world, 3), HostOptions::default())
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                let (want, _) = host::run_tensors(&mut on_host, &inputs).unwrap();
                let got = run(mock, plans(&case, &world, 3), &inputs, way, &what);
                for (name, tensor) in &got {
                    for (i, (got, want)) in tensor.to_f32().iter().zip(&want[name].to_f32()).enumerate() {
                        assert!((got - want).abs() <= 0.06, "{what} {name}[{i}]: {got}, not {want}");
                    }
                }
            }
            ran.push(world.strategy.name());
        }
        assert!(ran.contains(&"megatron") && ran.contains(&"fastseq"), "{ran:?}");
    });
}

/// Every op has a span, eager and in a graph, whose times are those of its last launch.
#[test]
fn every_op_is_timed() {
    on_mock(|mock| {
        mock.configure("sms=4 check=0");
        let case = Case::plain(Dtype::Bf16, 16, 2, 64);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
        for world in worlds(2) {
            for way in Way::all() {
                let what = format!("{} {way:?}", world.name());
                mock.reset("random", 1);
                let context = context();
                let kernels = kernels(&context);
                let mut options = way.options();
                options.timed = true;
                let plans = plans(&case, &world, 2);
                let ops: usize = plans.iter().map(|plan| plan.ops.len()).sum();
                let prepared = prepare(context, kernels, plans, options).unwrap();
                let (_, report) = run_tensors(&prepared, &inputs, 2).unwrap_or_else(|e| panic!("{what}: {e}"));
                mock.assert_clean(&what);
                assert_eq!(report.spans.len(), ops, "{what}");
                for span in &report.spans {
                    let within = span.begin_ns <= span.end_ns && span.end_ns <= report.wall_ns;
                    assert!(within, "{what}: {span:?} of {} ns", report.wall_ns);
                }
                assert!(report.spans.iter().any(|span| span.end_ns > span.begin_ns), "{what}");
            }
        }
    });
}
