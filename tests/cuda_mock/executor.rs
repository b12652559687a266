//! The executor on the mock, in short: `tests/cuda_executor.rs` has all of it.

use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{CudaOptions, Kernels, prepare, run_tensors};
use seqpar::plan::check_world;
use seqpar::plan::lower::Gates;
use seqpar::strategy::{self, Options};

use crate::mock::workload::context;
use crate::mock::{MODES, on_mock};
use crate::support::cases::Case;
use crate::support::worlds::worlds;
use crate::support::{Rng, assert_same_bits};

#[test]
fn attention_of_two_ranks_is_clean_and_has_one_result() {
    on_mock(|mock| {
        mock.configure("sms=2");
        let case = Case::plain(Dtype::Bf16, 40, 2, 64);
        let inputs = case.attention_inputs(&mut Rng(11));
        let mut want = None;
        for world in worlds(2).into_iter().filter(|world| !world.strategy.needs_weights() && world.keeps_bits()) {
            for mode in MODES {
                for (gates, graph) in [(Gates::Events, false), (Gates::Flags, false), (Gates::Events, true)] {
                    mock.reset(mode, 1);
                    let context = context();
                    // SAFETY: the mock does not read images.
                    let kernels = unsafe { Kernels::load(&context, &[b"any image"]) }.unwrap();
                    let plans = strategy::attention(
                        &case.problem(case.even(2)),
                        world.strategy,
                        &world.mesh,
                        &Options::default(),
                    );
                    let plans = check_world(plans.unwrap()).unwrap();
                    let mut options = CudaOptions::default();
                    (options.gates, options.graph) = (gates, graph);
                    let prepared = prepare(context, kernels, plans, options).unwrap();
                    let at = format!("{} {mode} {gates:?} graph {graph}", world.name());
                    let result = run_tensors(&prepared, &inputs, 2);
                    mock.assert_clean(&at);
                    let (outputs, _) = result.unwrap();
                    assert_same_bits(&at, &outputs, want.get_or_insert(outputs.clone()));
                    drop(prepared);
                    assert_eq!(mock.leaks(), Vec::<String>::new(), "{at}");
                    mock.assert_clean(&at);
                }
            }
        }
        assert!(want.is_some());
    });
}
