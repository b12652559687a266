//! The CUDA executor over one device, on the mock driver with the emulated kernels behind its
//! launches: a whole layer by every strategy at 1 to 4 ranks, eager and as a graph, gates as
//! events and as flags, in every scheduling mode with 20 seeds (`SEQPAR_SEEDS`). No race is
//! reported, the bits are those of one rank where the strategy keeps them, and values are those of
//! the host executor.
#![cfg(feature = "cuda")]

mod emulation;
mod mock;
mod support;

use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{prepare, run_tensors};
use seqpar::exec::host::{self, HostOptions};
use seqpar::plan::lower::Gates;
use seqpar::plan::{Checked, Plan};

use mock::layers::{Way, kernels, layer, plans, schedules};
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

/// Every strategy of so many ranks, in every schedule.
fn every_strategy_is_clean_and_right(mock: &Mock, ranks: usize) {
    mock.configure("sms=4");
    let case = Case { text: 6, ..Case::plain(Dtype::Bf16, 22, 4, 64) };
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
    let plain = Way { capability: 90, gates: Gates::Events, graph: false };
    let single = || plans(&case, &worlds(1)[0], 1);
    let of_one_rank = run(mock, single(), &inputs, plain, "one rank");
    let mut runs = 0;
    for world in worlds(ranks) {
        let mut on_host = host::prepare(plans(&case, &world, ranks), HostOptions::default()).unwrap();
        let on_host = host::run_tensors(&mut on_host, &inputs).unwrap().0;
        let mut first: Option<Tensors> = None;
        for (mode, seed, gates, graph) in schedules() {
            let way = Way { capability: 90, gates, graph };
            runs += 1;
            mock.reset(mode, seed);
            // Races within kernels are looked for in one seed of a mode, and by their own tests.
            mock.configure(&format!("check={}", u8::from(seed == 0 && mode == "random")));
            let what = format!("{} of {ranks} ranks, {mode}, seed {seed}, {way:?}", world.name());
            let outputs = run(mock, plans(&case, &world, ranks), &inputs, way, &what);
            assert_same_bits(&what, &outputs, first.get_or_insert(outputs.clone()));
        }
        let outputs = first.unwrap();
        if world.keeps_bits() {
            assert_same_bits(&world.name(), &outputs, &of_one_rank);
        }
        for (name, tensor) in &outputs {
            let want = on_host[name].to_f32();
            for (i, (got, want)) in tensor.to_f32().iter().zip(&want).enumerate() {
                // Outputs are near 1: a few roundings of bf16 lie between two executors.
                assert!((got - want).abs() <= 0.06, "{} {name}[{i}]: {got}, not {want}", world.name());
            }
        }
    }
    println!("{runs} runs of {ranks} ranks, graphs launched twice");
}

mod worlds_of {
    crate::mock::on_one_to_four_ranks!(super::every_strategy_is_clean_and_right);
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
