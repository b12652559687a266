//! Every strategy by loopback at 1, 2, 4 and 8 ranks, eager and as a graph, gates as events and as
//! flags: the bits of one rank where the strategy keeps them (R1), else errors of the order of one
//! rank's (R2). The reference of R2 is the host executor in f32 on the same values, whose own error
//! is a thousandth of what bf16 makes.

use seqpar::cuda::Context;
use seqpar::dtype::Dtype;
use seqpar::exec::HostTensor;
use seqpar::exec::cuda::{CudaOptions, prepare, run_tensors, with_tensors};
use seqpar::exec::host::{self, HostOptions};
use seqpar::kernel::spec::RopePairs;
use seqpar::plan::lower::Gates;
use seqpar::plan::{Checked, Plan, check_world};
use seqpar::strategy::{self, LayerProblem, Options};
use serde_json::json;

use crate::ground::{Done, Ground};
use crate::support::cases::{Case, layer_inputs};
use crate::support::worlds::{World, worlds};
use crate::support::{Rng, Tensors, errors};

/// Gates, graph.
const WAYS: [(Gates, bool); 4] =
    [(Gates::Events, false), (Gates::Events, true), (Gates::Flags, false), (Gates::Flags, true)];

/// Ragged: no tile divides the tokens.
pub(crate) fn small_case(mock: bool) -> Case {
    let (text, tokens, heads, head_dim) = if mock { (3, 9, 8, 32) } else { (77, 1022, 8, 72) };
    Case { text, ..Case::plain(Dtype::Bf16, tokens, heads, head_dim) }
}

pub(crate) fn layer(case: &Case, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        // Small where the case is: the mock computes on the host.
        hidden: (case.heads * case.head_dim).min(8 * case.tokens),
        qkv_bias: true,
        proj_bias: true,
        text_weights: false,
        qk_norm: Some(1e-6),
        rope: Some(RopePairs::Interleaved),
        mlp: None,
    }
}

/// With gates where the strategy has any.
pub(crate) fn plans(case: &Case, world: &World, ranks: usize) -> Done<Vec<Checked<Plan>>> {
    let options = Options { gated: true, ..Options::default() };
    Ok(check_world(strategy::layer(&layer(case, ranks), world.strategy, &world.mesh, &options)?)?)
}

pub(crate) fn world_named(ranks: usize, name: &str) -> Done<World> {
    let found = worlds(ranks).into_iter().find(|world| world.name() == name || world.strategy.name() == name);
    found.ok_or_else(|| format!("no world {name} of {ranks} ranks").into())
}

pub(crate) fn run(ground: &Ground, plans: Vec<Checked<Plan>>, inputs: &Tensors, options: CudaOptions) -> Done<Tensors> {
    let context = Context::primary(0)?;
    let kernels = ground.kernels(&context)?;
    let times = 1 + usize::from(options.graph);
    let options = poisoned(options);
    let prepared = prepare(context, kernels, plans, options)?;
    Ok(run_tensors(&prepared, inputs, times)?.0)
}

/// What is read and was not written shows.
pub(crate) fn poisoned(mut options: CudaOptions) -> CudaOptions {
    options.poison = true;
    options
}

/// Root mean square and largest difference over all outputs, and the largest output.
fn distance(outputs: &Tensors, want: &Tensors) -> (f64, f64, f64) {
    let values = |tensors: &Tensors| -> Vec<f64> {
        tensors.values().flat_map(|tensor| tensor.to_f32()).map(f64::from).collect()
    };
    let want = values(want);
    let (largest, rms) = errors(&values(outputs), &want);
    (rms, largest, want.iter().fold(0.0, |most: f64, x| most.max(x.abs())))
}

/// The same values in f32, through the host executor, on one rank.
fn exact(case: &Case, inputs: &Tensors) -> Done<Tensors> {
    let case = Case { dtype: Dtype::F32, ..case.clone() };
    let widened = |tensor: &HostTensor| match tensor.dtype {
        Dtype::Bf16 => HostTensor::from_f32(Dtype::F32, tensor.dims, &tensor.to_f32()),
        _ => Ok(tensor.clone()),
    };
    let inputs: Tensors =
        inputs.iter().map(|(name, tensor)| Ok((name.clone(), widened(tensor)?))).collect::<seqpar::Result<_>>()?;
    let plans = plans(&case, &world_named(1, "single")?, 1)?;
    Ok(host::run_tensors(&mut host::prepare(plans, HostOptions::default())?, &inputs)?.0)
}

pub(crate) fn strategies(ground: &Ground) -> Done {
    let case = small_case(ground.mock);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
    let exact = exact(&case, &inputs)?;
    let mut single: Option<Tensors> = None;
    for ranks in [1, 2, 4, 8] {
        for world in worlds(ranks) {
            let name = format!("{} of {ranks}", world.name());
            let plans = match plans(&case, &world, ranks) {
                Ok(plans) => plans,
                Err(why) => {
                    ground.skip(&name, &why.to_string());
                    continue;
                }
            };
            let mut first: Option<Tensors> = None;
            for (gates, graph) in WAYS {
                let what = format!("{name}, gates {gates:?}, graph {graph}");
                let mut options = CudaOptions::default();
                (options.gates, options.graph) = (gates, graph);
                // Copies within a device may need an SM; a kernel that waits must leave some.
                options.sms = (gates == Gates::Flags).then_some(ground.pick(120, 2));
                let outputs = match run(ground, plans.clone(), &inputs, options) {
                    Ok(outputs) => outputs,
                    Err(why) => {
                        ground.say(&what, false, json!({ "why": why.to_string() }));
                        continue;
                    }
                };
                let same = outputs == *first.get_or_insert_with(|| outputs.clone());
                if !same || gates != Gates::Events || graph {
                    ground.say(&what, same, json!({ "bits": if same { "those of events, eager" } else { "differ" } }));
                    continue;
                }
                let reference = single.get_or_insert_with(|| outputs.clone());
                let (rms, largest, scale) = distance(&outputs, &exact);
                let (rms_of_one, largest_of_one, _) = distance(reference, &exact);
                let ulp = 2f64.powf(scale.log2().floor() - 7.0);
                let (rule, ok) = match world.keeps_bits() {
                    true => ("R1", outputs == *reference && rms < 0.05 * scale),
                    false => ("R2", rms <= 1.5 * rms_of_one && largest <= 2.0 * largest_of_one + ulp),
                };
                ground.say(
                    &what,
                    ok,
                    json!({ "rule": rule, "rms": rms, "largest": largest, "rms_of_one": rms_of_one }),
                );
            }
        }
    }
    Ok(())
}

/// B3: replays of one graph have the bits of its first run, all of them.
pub(crate) fn replays(ground: &Ground) -> Done {
    // Fewer under a sanitizer.
    let asked = std::env::var("SEQPAR_BUNDLE_REPLAYS").ok().and_then(|times| times.parse().ok());
    replay_for(ground, asked.unwrap_or(ground.pick(1000, 5)))
}

pub(crate) fn replay_for(ground: &Ground, times: usize) -> Done {
    let case = small_case(ground.mock);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(8));
    for name in ["fastseq", "ulysses", "ring", "usp 2x2"] {
        let plans = plans(&case, &world_named(4, name)?, 4)?;
        let context = Context::primary(0)?;
        let kernels = ground.kernels(&context)?;
        let mut options = CudaOptions::default();
        options.graph = true;
        let prepared = prepare(context, kernels, plans, poisoned(options))?;
        let differing = with_tensors(&prepared, &inputs, |bound, stream, outputs| {
            let (mut first, mut differing) = (None, 0);
            for _ in 0..times {
                bound.run(stream)?;
                bound.finish()?;
                let seen = outputs()?;
                differing += usize::from(*first.get_or_insert_with(|| seen.clone()) != seen);
            }
            Ok(differing)
        })?;
        ground.say(name, differing == 0, json!({ "replays": times, "differing": differing }));
    }
    Ok(())
}
