//! The CUDA executor over one device, on the mock driver with the emulated kernels behind its
//! launches: a whole layer by every strategy at 1 to 4 ranks, eager and as a graph, gates as
//! events and as flags, in every scheduling mode. No race is reported, the bits are those of one
//! rank where the strategy keeps them, and values are those of the host executor.
//!
//! `SEQPAR_SEEDS` sets the schedules a mode (1 by default).
#![cfg(feature = "cuda")]

mod emulation;
mod mock;
mod support;

use std::collections::BTreeMap;

use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{CudaOptions, Kernels, prepare, prepare_lowered, run_tensors};
use seqpar::exec::host::{self, HostOptions};
use seqpar::plan::lower::{Command, Gates, Lowered};
use seqpar::plan::{Checked, Plan, check_world};
use seqpar::strategy::{self, LayerProblem, Options};

use mock::workload::context;
use mock::{MODES, Mock, on_mock};
use support::cases::{Case, layer_inputs};
use support::worlds::{World, worlds};
use support::{Rng, Tensors, assert_same_bits};

const WAYS: [(Gates, bool); 3] = [(Gates::Events, false), (Gates::Flags, false), (Gates::Events, true)];

fn seeds() -> u64 {
    std::env::var("SEQPAR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

fn layer(case: &Case, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: 64,
        qkv_bias: true,
        proj_bias: true,
        text_weights: false,
        qk_norm: Some(1e-6),
        rope: Some(seqpar::kernel::spec::RopePairs::Interleaved),
        mlp: None,
    }
}

fn plans(case: &Case, world: &World, ranks: usize) -> Vec<Checked<Plan>> {
    let options = Options { gated: true, ..Options::default() };
    check_world(strategy::layer(&layer(case, ranks), world.strategy, &world.mesh, &options).unwrap()).unwrap()
}

fn kernels(context: &seqpar::cuda::Context) -> Kernels {
    // SAFETY: the mock does not read images.
    unsafe { Kernels::load(context, &[b"any image"]) }.unwrap()
}

fn run(mock: &Mock, plans: Vec<Checked<Plan>>, inputs: &Tensors, (gates, graph): (Gates, bool), what: &str) -> Tensors {
    let context = context();
    let kernels = kernels(&context);
    let mut options = CudaOptions::default();
    (options.gates, options.graph) = (gates, graph);
    let prepared = prepare(context, kernels, plans, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let result = run_tensors(&prepared, inputs, 2);
    mock.assert_clean(what);
    let (outputs, _) = result.unwrap_or_else(|e| panic!("{what}: {e}"));
    drop(prepared);
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
    outputs
}

#[test]
fn every_strategy_is_clean_and_right() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = Case { text: 6, ..Case::plain(Dtype::Bf16, 22, 4, 64) };
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
        let mut reference: Option<Tensors> = None;
        for ranks in 1..=4 {
            for world in worlds(ranks) {
                let on_host = {
                    let mut prepared = host::prepare(plans(&case, &world, ranks), HostOptions::default()).unwrap();
                    host::run_tensors(&mut prepared, &inputs).unwrap().0
                };
                let mut first: Option<Tensors> = None;
                for (i, mode) in MODES.into_iter().enumerate() {
                    for seed in 0..seeds() {
                        let ways = if seeds() > 1 { &WAYS[..] } else { &WAYS[i % 3..i % 3 + 1] };
                        for way in ways {
                            mock.reset(mode, seed);
                            let what = format!("{} of {ranks} ranks, {mode}, seed {seed}, {way:?}", world.name());
                            let outputs = run(mock, plans(&case, &world, ranks), &inputs, *way, &what);
                            assert_same_bits(&what, &outputs, first.get_or_insert(outputs.clone()));
                        }
                    }
                }
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
    });
}

/// Each wait of the lowered form dropped in turn: the mock reports it, or the streams' order
/// implies it on this device (a wait between streams that the law needs on any).
#[test]
fn a_dropped_wait_is_reported() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = Case::plain(Dtype::Bf16, 16, 2, 64);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(9));
        let (mut dropped, mut reported) = (0, 0);
        let mut silent: BTreeMap<String, usize> = BTreeMap::new();
        for world in worlds(2) {
            let whole: Vec<Lowered> = plans(&case, &world, 2).iter().map(|p| p.lowered(Gates::Events)).collect();
            for (stream, commands) in whole[0].streams.iter().enumerate() {
                let waits = commands.iter().enumerate().filter(|(_, c)| matches!(c, Command::Wait(_)));
                for (position, _) in waits {
                    let mut lowered = whole.clone();
                    lowered[0].streams[stream].remove(position);
                    let mut found = false;
                    for mode in MODES {
                        mock.reset(mode, 3);
                        let context = context();
                        let kernels = kernels(&context);
                        let options = CudaOptions::default();
                        let checked = plans(&case, &world, 2);
                        let prepared = prepare_lowered(context, kernels, checked, lowered.clone(), options).unwrap();
                        let _ = run_tensors(&prepared, &inputs, 2);
                        found |= !mock.reports().is_empty();
                        if found {
                            break;
                        }
                    }
                    dropped += 1;
                    reported += usize::from(found);
                    if !found {
                        *silent.entry(format!("{} stream {stream} command {position}", world.name())).or_default() += 1;
                    }
                }
            }
        }
        println!("{reported} of {dropped} dropped waits reported; silent: {silent:?}");
        assert!(dropped > 10, "{dropped} waits");
        assert_eq!(reported, dropped, "silent: {silent:?}");
    });
}
