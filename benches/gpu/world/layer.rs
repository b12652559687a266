//! A whole layer of DiT-XL/2 (attention with its projections, MLP) by every strategy: as one graph
//! launch beside eager, and behind a link made slow, where the time that communication adds and
//! the part of it that compute hides are what matters.

use std::time::Instant;

use seqpar::cuda::{Context, Event};
use seqpar::dit::models::Model;
use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{CudaOptions, Link, Route, prepare, run_tensors, with_tensors};
use seqpar::exec::overlap;
use seqpar::plan::{Checked, Plan, check_world};
use seqpar::strategy::{self, Options};
use serde_json::json;

use crate::ground::{Done, Ground, median};
use crate::support::cases::{Case, layer_inputs};
use crate::support::worlds::worlds;
use crate::support::{Rng, Tensors};

/// Plans by name.
type Worlds = Vec<(String, Vec<Checked<Plan>>)>;

/// The plans of one layer, and what to feed them; `tokens` a sample.
fn problem(ground: &Ground, tokens: usize, ranks: usize) -> Done<(Worlds, Tensors)> {
    let model = Model::named("dit-xl/2")?;
    let mut sizes = model.sizes();
    // The mock computes on the host.
    let small = Model { hidden: 128, heads: 8, kv_heads: 8, head_dim: 16, mlp: 64, ..*model };
    let model = ground.pick(model, &small);
    (sizes.tokens, sizes.batch) = ground.pick((tokens, sizes.batch), (16, 1));
    let layer = |ranks| model.layer(&model.kinds[0], &sizes, ranks);
    let case = Case { batch: sizes.batch, ..Case::plain(Dtype::Bf16, sizes.tokens, model.heads, model.head_dim) };
    let inputs = layer_inputs(&case, &layer(1)?, &mut Rng(10));
    let mut list = Vec::new();
    for world in worlds(ranks) {
        let plans = strategy::layer(&layer(ranks)?, world.strategy, &world.mesh, &Options::default())?;
        list.push((world.name(), check_world(plans)?));
    }
    Ok((list, inputs))
}

pub(crate) fn layers(ground: &Ground) -> Done {
    let (warm_up, rounds) = ground.pick((10, 50), (0, 1));
    for ranks in [1, 2, 4, 8] {
        let (list, inputs) = problem(ground, 1024, ranks)?;
        for (name, plans) in list {
            let mut us = [f64::NAN; 2];
            let mut outputs = Vec::new();
            for graph in [false, true] {
                let context = Context::primary(0)?;
                let kernels = ground.kernels(&context)?;
                let mut options = CudaOptions::default();
                (options.graph, options.poison) = (graph, false);
                let prepared = prepare(context, kernels, plans.clone(), options)?;
                let (median_us, seen) = with_tensors(&prepared, &inputs, |bound, stream, outputs| {
                    let (begin, end) = (Event::new(true)?, Event::new(true)?);
                    let mut times = Vec::new();
                    for round in 0..warm_up + rounds {
                        begin.record(stream)?;
                        bound.run(stream)?;
                        end.record(stream)?;
                        bound.finish()?;
                        stream.synchronize()?;
                        if round >= warm_up {
                            times.push(f64::from(end.milliseconds_since(&begin)?) * 1e3);
                        }
                    }
                    Ok((median(times), outputs()?))
                })?;
                us[usize::from(graph)] = median_us;
                outputs.push(seen);
            }
            let ops: usize = plans.iter().map(|plan| plan.ops.len()).sum();
            let fields = json!({ "eager_us": us[0], "graph_us": us[1], "ops": ops, "graph_launches": 1 });
            ground.say(&format!("{name} of {ranks}"), outputs[0] == outputs[1], fields);
        }
    }
    Ok(())
}

/// Links in GB/s: an NVLink of 4 GPUs, and PCIe. All ranks share one device, so compute takes as
/// long as all ranks' together: the ratio of the two is what counts, not the time.
const LINKS_GB_PER_S: [f64; 2] = [380.0, 50.0];

pub(crate) fn overlaps(ground: &Ground) -> Done {
    let ranks = 4;
    let (list, inputs) = problem(ground, 4096, ranks)?;
    for (name, plans) in list {
        for (route, links) in [(Route::Device, &LINKS_GB_PER_S[..]), (Route::Pinned, &[])] {
            for link in std::iter::once(None).chain(links.iter().map(|gb| Some(*gb))) {
                let context = Context::primary(0)?;
                let kernels = ground.kernels(&context)?;
                let mut options = CudaOptions::default();
                (options.timed, options.poison, options.route) = (true, false, route);
                options.link = link.map(|gb| Link { bytes_per_s: gb * 1e9, latency_s: 5e-6 });
                // The two launches of a message need a place to run.
                options.sms = link.map(|_| ground.pick(128, 2));
                let begin = Instant::now();
                let prepared = prepare(context, kernels, plans.clone(), options)?;
                let what = format!(
                    "{name} of {ranks}, {route:?}, link {}",
                    link.map_or("none".into(), |gb| format!("{gb} GB/s"))
                );
                let report = match run_tensors(&prepared, &inputs, ground.pick(20, 1)) {
                    Ok((_, report)) => report,
                    Err(why) => {
                        ground.say(&what, false, json!({ "why": why.to_string() }));
                        continue;
                    }
                };
                let ranks = overlap(&report);
                let mean =
                    |of: fn(&seqpar::exec::Overlap) -> f64| ranks.iter().map(of).sum::<f64>() / ranks.len() as f64;
                let fields = json!({
                    "wall_us": report.wall_ns as f64 / 1e3,
                    "compute_us": mean(|rank| rank.compute_ns as f64 / 1e3),
                    "comm_us": mean(|rank| rank.comm_ns as f64 / 1e3),
                    "exposed_us": mean(|rank| rank.exposed_ns as f64 / 1e3),
                    "hidden": mean(|rank| rank.hidden),
                    "took_s": begin.elapsed().as_secs_f64(),
                });
                ground.say(&what, true, fields);
            }
        }
    }
    Ok(())
}
