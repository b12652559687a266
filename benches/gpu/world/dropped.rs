//! B2: each wait of a lowered world left out, one at a time, on the device, where messages are slow and
//! temporaries are poisoned. Where an independent proof says that order remains, the bits must too;
//! elsewhere they may differ, and do where the timing of this device lets them.

use seqpar::cuda::Context;
use seqpar::exec::cuda::{CudaOptions, Link, prepare_lowered, run_tensors};
use seqpar::plan::Plan;
use seqpar::plan::lower::{Gates, Lowered};
use serde_json::json;

use crate::change::Change;
use crate::ground::{Done, Ground};
use crate::loopback::{layer, plans, small_case};
use crate::order::{Between, World};
use crate::support::cases::layer_inputs;
use crate::support::worlds::worlds;
use crate::support::{Rng, Tensors};

const RANKS: usize = 2;

pub(crate) fn waits(ground: &Ground) -> Done {
    let case = small_case(ground.mock);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(13));
    for world in worlds(RANKS) {
        let checked = plans(&case, &world, RANKS)?;
        let memory: Vec<_> = checked.iter().map(|plan| plan.memory().clone()).collect();
        let whole: Vec<Lowered> = checked.iter().map(|plan| plan.lowered(Gates::Events)).collect();
        let bare: Vec<Plan> = checked.iter().cloned().map(Plan::from).collect();
        let proof = World::new(&bare, &memory, Between::Loopback { inside: false });
        let run = |lowered: Vec<Lowered>| -> Done<Tensors> {
            let context = Context::primary(0)?;
            let kernels = ground.kernels(&context)?;
            let mut options = CudaOptions::default();
            (options.poison, options.gates) = (true, Gates::Events);
            options.link = Some(Link { bytes_per_s: 1e9, latency_s: ground.pick(2e-3, 1e-5) });
            let prepared = prepare_lowered(context, kernels, checked.clone(), lowered, options)?;
            Ok(run_tensors(&prepared, &inputs, 1)?.0)
        };
        let want = run(whole.clone())?;
        let (mut dropped, mut shown, mut hidden, mut needless, mut wrong) = (0, 0, 0, 0, Vec::new());
        for rank in 0..RANKS {
            for change in Change::all(&whole[rank]) {
                if !matches!(change, Change::NoWait { .. }) {
                    continue;
                }
                let mut lowered = whole.clone();
                change.apply(&mut lowered[rank]);
                let ordered = proof.unordered(&lowered).is_none();
                let same = run(lowered)? == want;
                dropped += 1;
                match (ordered, same) {
                    (true, true) => needless += 1,
                    (true, false) => wrong.push(format!("rank {rank}: {change:?}")),
                    (false, true) => hidden += 1,
                    (false, false) => shown += 1,
                }
            }
        }
        let ok = wrong.is_empty() && run(whole)? == want;
        let fields = json!({
            "dropped": dropped, "shown": shown, "hidden_by_timing": hidden, "needless": needless, "unexplained": wrong,
        });
        ground.say(&format!("waits left out: {} of {RANKS}", world.name()), ok, fields);
    }
    Ok(())
}
