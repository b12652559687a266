//! I9 and I10: what a ring carries, and how partial softmaxes merge.

use seqpar::exec::host::HostTensor;
use seqpar::mesh::Mesh;
use seqpar::plan::{BufferId, Checked, OpId, Plan, check_world};
use seqpar::shard::{IndexMap, Shard, TextShard};
use seqpar::strategy::{Options, Route, Strategy};

use crate::support::timing::linked;
use crate::support::worlds::{Given, World, expose, worlds};
use crate::support::{attention_f64, errors, f64s, options, run};
use crate::{counts, farthest, fresh, one};

#[test]
fn i09_every_chunk_of_the_ring_arrives_in_its_own_slot() {
    let mut rng = fresh();
    for ranks in [2, 3, 4, 8] {
        let tokens = 3 * ranks + 1;
        let given = Given::random(&mut rng, [2, tokens, 4, 4], 0);
        let (want, _) =
            given.run(one(), Shard::even(1, tokens, tokens, 0, false).unwrap(), &Options::default(), options(1));
        for (route, gated) in routes() {
            let split = counts(&mut rng, tokens, ranks);
            let shard = Shard::new(split.clone(), TextShard::None).unwrap();
            let world = World { strategy: Strategy::Fastseq, mesh: Mesh::new(ranks, 1).unwrap() };
            let strategy_options = Options { route, gated, ..Options::default() };
            let (mut plans, inputs) = given.plans(world, shard, &strategy_options);
            for (rank, plan) in plans.iter_mut().enumerate() {
                expose(plan, "gathered x", &format!("gathered on {rank}"));
            }
            // A link whose messages last as long as the kernels, and one that dawdles.
            let latency = [0.0, 3e-4 * rng.uniform()][rng.below(2)];
            let (got, _) = run(plans, &inputs, linked(1e8 * (0.2 + rng.uniform()), latency));
            let name = format!("{ranks} ranks, {route:?}, gated {gated}");
            let out = got["out"].to_f32();
            let width = given.problem.heads * given.problem.head_dim;
            let columns: Vec<f32> = out.chunks(3 * width).flat_map(|row| row[..width].to_vec()).collect();
            assert_eq!(columns, want["out"].to_f32(), "{name}");
            for rank in 0..ranks {
                let slots = got[&format!("gathered on {rank}")].to_f32();
                let chunks = (1..ranks).flat_map(|k| rows(&inputs["x"], split.map((rank + k) % ranks)));
                assert_eq!(slots, chunks.collect::<Vec<f32>>(), "{name}: slots of rank {rank}");
            }
        }
    }
}

fn routes() -> [(Route, bool); 4] {
    [(Route::Forwarded, false), (Route::Forwarded, true), (Route::Direct, false), (Route::Direct, true)]
}

/// The rows of `map` of every sample.
fn rows(x: &HostTensor, map: &IndexMap) -> Vec<f32> {
    let [batch, tokens, heads, d] = x.dims;
    let (width, values) = (heads * d, x.to_f32());
    let row = |b: usize, i: usize| values[(b * tokens + i) * width..][..width].to_vec();
    (0..batch).flat_map(|b| map.indices().flat_map(|i| row(b, i)).collect::<Vec<f32>>()).collect()
}

#[test]
fn i09_no_slot_is_overwritten_before_it_is_read() {
    for ranks in [2, 3, 4, 8] {
        for (route, gated) in routes() {
            let given = Given::new([2, 3 * ranks, 4, 4], 0, |_, _| 0.0);
            let world = World { strategy: Strategy::Fastseq, mesh: Mesh::new(ranks, 1).unwrap() };
            let shard = Shard::even(ranks, 3 * ranks, 3 * ranks, 0, false).unwrap();
            let (plans, _) = given.plans(world, shard, &Options { route, gated, ..Options::default() });
            for plan in check_world(plans).unwrap() {
                let slots = plan.buffer_named("gathered x").unwrap();
                assert!(!touching(&plan, slots).is_empty());
                let shared = shares_bytes(&plan, slots);
                for other in shared {
                    let (a, b) = (touching(&plan, slots), touching(&plan, other));
                    let all = |first: &[OpId], then: &[OpId]| {
                        first.iter().all(|&f| then.iter().all(|&t| plan.order().ends_before_start(f, t)))
                    };
                    assert!(all(&a, &b) || all(&b, &a), "{} meets the slots", plan.buffer(other).name);
                }
            }
        }
    }
}

/// Of as many rows a rank, a ring of 16 takes no more memory than one of 4: keys that are past make
/// room for those that come.
#[test]
fn i09_a_longer_ring_takes_no_more_memory() {
    for (ulysses, text) in [(1, 0), (1, 2), (2, 0), (2, 2)] {
        let arena = |ring: usize, uneven: usize| {
            let ranks = ulysses * ring;
            let tokens = 6 * ranks + uneven;
            let given = Given::new([2, tokens, 4, 4], text * ranks, |_, _| 0.0);
            let world = World { strategy: Strategy::Usp, mesh: Mesh::new(ulysses, ring).unwrap() };
            let shard = Shard::even(ranks, tokens, tokens, text * ranks, false).unwrap();
            let (plans, _) = given.plans(world, shard, &Options::default());
            check_world(plans).unwrap().iter().map(|plan| plan.memory().arena_bytes).max().unwrap()
        };
        assert_eq!(arena(16, 0), arena(4, 0), "{ulysses} x 16, {text} text rows");
        // Two numbers of rows: buffers of both, at most.
        assert!(arena(16, 3) <= 2 * arena(4, 0), "{ulysses} x 16 and 3 tokens, {text} text rows");
        assert!(arena(16, 3) <= arena(8, 3), "{ulysses} x 16 and 3 tokens, {text} text rows");
    }
}

fn touching(plan: &Plan, buffer: BufferId) -> Vec<OpId> {
    plan.op_ids().filter(|&id| plan.accesses(id).iter().any(|access| access.buffer == buffer)).collect()
}

/// The buffers whose place in the arena meets that of `buffer`.
fn shares_bytes(plan: &Checked<Plan>, buffer: BufferId) -> Vec<BufferId> {
    let place = |id: BufferId| {
        let start = plan.memory().offsets[id.0 as usize]?;
        Some(start..start + plan.buffer(id).bytes())
    };
    let Some(own) = place(buffer) else { return Vec::new() };
    let meets = |id: &BufferId| place(*id).is_some_and(|other| own.start < other.end && other.start < own.end);
    (0..plan.buffers.len() as u32).map(BufferId).filter(|id| *id != buffer).filter(meets).collect()
}

#[test]
fn i10_partial_softmaxes_of_any_size_merge() {
    // One key each side of ±2000: the larger side is all there is.
    for (ranks, low) in [(2, -2000.0), (2, 2000.0), (3, -2000.0), (4, 2000.0), (8, -2000.0)] {
        let tokens = 2 * ranks;
        let is_low = |s: usize| s < tokens / 2;
        let given = Given::new([1, tokens, 2, 1], 0, |name, [_, s, ..]| match name {
            "q" => 1.0,
            "k" => {
                if is_low(s) {
                    low
                } else {
                    0.0
                }
            }
            _ => {
                if is_low(s) {
                    3.0
                } else {
                    5.0
                }
            }
        });
        let want = if low > 0.0 { 3.0 } else { 5.0 };
        for world in worlds(ranks) {
            let shard = Shard::even(ranks, tokens, tokens, 0, false).unwrap();
            let (got, _) = given.run(world, shard, &Options::default(), options(1));
            assert!(farthest(&got, want) < 1e-5, "{}: {:?}", world.name(), got["out"].to_f32());
        }
    }
}

#[test]
fn i10_parts_without_a_key_give_zero_not_nan() {
    let mut rng = fresh();
    for ranks in [2, 3, 4, 8] {
        let tokens = 2 * ranks;
        // Sample 0 keeps the first token alone, sample 1 the last, sample 2 none.
        let keep = |b: usize, j: usize| b == 0 && j == 0 || b == 1 && j + 1 == tokens;
        let given = Given::random(&mut rng, [3, tokens, 2, 4], 0).masked(keep);
        let truth = attention_f64(&given.inputs, keep).out;
        for world in worlds(ranks) {
            let shard = Shard::even(ranks, tokens, tokens, 0, false).unwrap();
            let (plans, inputs) = given.plans(world, shard.clone(), &Options::default());
            let (raw, _) = run(plans, &inputs, options(1));
            if let Some(lse) = raw.get("lse") {
                let lse = lse.to_f32();
                assert!(lse[2 * lse.len() / 3..].iter().all(|&x| x == f32::NEG_INFINITY), "{}", world.name());
                assert!(lse[..2 * lse.len() / 3].iter().all(|x| x.is_finite()), "{}", world.name());
            }
            let (got, _) = given.run(world, shard, &Options::default(), options(1));
            let out = f64s(&got["out"]);
            assert!(out[2 * out.len() / 3..].iter().all(|&x| x == 0.0), "{}: sample 2", world.name());
            let (largest, _) = errors(&out, &truth);
            assert!(largest < 1e-5, "{}: {largest:e}", world.name());
        }
    }
}
