//! B2: each wait of a lowered world left out, one at a time, on the device, where messages are slow and
//! temporaries are poisoned. A device may be in order by luck: that some show says that the comparison
//! of bits would see a wait that is missing. That each is needed is proven in `tests/cuda_ordering`.

use seqpar::cuda::Context;
use seqpar::exec::cuda::{CudaOptions, Link, prepare_lowered, run_tensors};
use seqpar::plan::lower::{Gates, Lowered};
use serde_json::json;

use crate::change::Change;
use crate::ground::{Done, Ground};
use crate::loopback::{layer, plans, poisoned, small_case};
use crate::support::cases::layer_inputs;
use crate::support::worlds::worlds;
use crate::support::{Rng, Tensors};

const RANKS: usize = 2;

pub(crate) fn waits(ground: &Ground) -> Done {
    let case = small_case(ground.mock);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(13));
    for world in worlds(RANKS) {
        let plans = plans(&case, &world, RANKS)?;
        let whole: Vec<Lowered> = plans.iter().map(|plan| plan.lowered(Gates::Events)).collect();
        let run = |lowered: Vec<Lowered>| -> Done<Tensors> {
            let context = Context::primary(0)?;
            let kernels = ground.kernels(&context)?;
            let mut options = poisoned(CudaOptions::default());
            options.link = Some(Link { bytes_per_s: 1e9, latency_s: ground.pick(2e-3, 1e-5) });
            let prepared = prepare_lowered(context, kernels, plans.clone(), lowered, options)?;
            Ok(run_tensors(&prepared, &inputs, 1)?.0)
        };
        let want = run(whole.clone())?;
        let (mut dropped, mut shown) = (0, 0);
        for rank in 0..RANKS {
            for change in Change::all(&whole[rank]) {
                if !matches!(change, Change::NoWait { .. }) {
                    continue;
                }
                let mut lowered = whole.clone();
                change.apply(&mut lowered[rank]);
                dropped += 1;
                shown += usize::from(run(lowered)? != want);
            }
        }
        let ok = shown > 0 && run(whole)? == want;
        let fields = json!({ "dropped": dropped, "shown": shown, "hidden_by_timing": dropped - shown });
        ground.say(&format!("waits left out: {} of {RANKS}", world.name()), ok, fields);
    }
    Ok(())
}
