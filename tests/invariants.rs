//! The fourteen ways in which sequence-parallel systems have given another picture on another
//! number of ranks, as tests over every strategy to which they apply. I8 and I9 also have
//! gradient parts, which come with training.

mod support;

use seqpar::dit::{self, Config, DitProblem};
use seqpar::dtype::Dtype;
use seqpar::exec::host::HostTensor;
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel, Modulation, Norm, NormModulate, RopePairs};
use seqpar::mesh::Mesh;
use seqpar::plan::{BufferId, Builder, Checked, OpId, Placement, Plan, Role, View, check_world};
use seqpar::shard::{IndexMap, Shard, Split, TextShard};
use seqpar::strategy::{self, LayerProblem, Options, Route, Strategy};
use support::cases::{Case, layer_inputs};
use support::timing::linked;
use support::worlds::{Given, World, expose, filled, random_inputs, worlds};
use support::{
    Rng, Tensors, assert_same_bits, attention_f64, bytes, errors, f64s, floats, integers, options, run, seed,
};

const SINGLE: Strategy = Strategy::Single;

fn one() -> World {
    World { strategy: SINGLE, mesh: Mesh::new(1, 1).unwrap() }
}

fn fresh() -> Rng {
    let seed = seed();
    eprintln!("SEQPAR_TEST_SEED={seed}");
    Rng(seed)
}

/// Largest distance of any element from `want`.
fn farthest(got: &Tensors, want: f32) -> f32 {
    got.values().flat_map(HostTensor::to_f32).fold(0.0, |far, x| {
        let distance = (x - want).abs();
        if distance.is_nan() { f32::INFINITY } else { f32::max(far, distance) }
    })
}

fn counts(rng: &mut Rng, len: usize, ranks: usize) -> Split {
    let mut counts = vec![1; ranks];
    for _ in ranks..len {
        counts[rng.below(ranks)] += 1;
    }
    Split::counts(&counts)
}

#[test]
fn i01_all_to_all_keeps_the_batch_outermost() {
    let value = |[b, s, h, _]: [usize; 4]| (100 * b + 10 * s + h) as f32;
    let given = Given::new([2, 4, 2, 1], 0, |name, at| if name == "v" { value(at) } else { 0.0 });
    let world = World { strategy: Strategy::Ulysses, mesh: Mesh::new(2, 1).unwrap() };
    let shard = Shard::even(2, 4, 4, 0, false).unwrap();
    let (mut plans, inputs) = given.plans(world, shard, &Options { head_groups: 1, ..Options::default() });
    for (rank, plan) in plans.iter_mut().enumerate() {
        expose(plan, "v image[0]", &format!("v on {rank}"));
    }
    let (got, _) = run(plans, &inputs, options(1));
    assert_eq!(got["v on 0"].to_f32(), [0.0, 10.0, 20.0, 30.0, 100.0, 110.0, 120.0, 130.0]);
    assert_eq!(got["v on 1"].to_f32(), [1.0, 11.0, 21.0, 31.0, 101.0, 111.0, 121.0, 131.0]);
}

/// Each query's own key outweighs the others by exp(−large) = 0: what returns is v, in place.
#[test]
fn i01_what_is_scattered_and_gathered_comes_back() {
    let mut rng = fresh();
    for (batch, ranks) in [(1, 2), (2, 3), (3, 4), (2, 8)] {
        let tokens = rng.within(ranks, 12);
        let given = Given::new([batch, tokens, 4, 12], 0, |name, [b, s, h, d]| match name {
            "v" => (1000 * d + 100 * b + 10 * s + h) as f32,
            _ => {
                if s == d {
                    200.0
                } else {
                    0.0
                }
            }
        });
        for world in worlds(ranks) {
            let shard = Shard::new(counts(&mut rng, tokens, ranks), TextShard::None).unwrap();
            let (got, _) = given.run(world, shard, &Options::default(), options(1));
            assert_eq!(got["out"].to_f32(), given.inputs["v"].to_f32(), "{} batch {batch}", world.name());
        }
    }
}

#[test]
fn i02_text_is_counted_once() {
    for (ranks, tokens, text) in [(1, 4, 1), (2, 4, 1), (3, 4, 1), (4, 4, 1), (8, 8, 2)] {
        let given = Given::new([1, tokens, 4, 2], text, |name, _| f32::from(name == "text_v"));
        let want = text as f32 / (tokens + text) as f32;
        for world in worlds(ranks) {
            for replicate in [false, true] {
                let shard = Shard::even(ranks, tokens, tokens, text, replicate).unwrap();
                let (got, _) = given.run(world, shard, &Options::default(), options(1));
                assert_eq!(got.len(), 2, "out and text_out");
                let off = farthest(&got, want);
                assert!(off < 1e-6, "{}, replicated {replicate}: {off} from {want}", world.name());
            }
        }
    }
}

#[test]
fn i03_a_ring_counts_replicated_text_once() {
    for (u, r, tokens) in [(1, 2, 2), (1, 3, 3), (2, 2, 4), (1, 4, 5), (2, 4, 8)] {
        let given = Given::new([1, tokens, 2, 1], 1, |name, _| f32::from(name == "text_v"));
        let strategy = if u == 1 { Strategy::Ring } else { Strategy::Usp };
        let world = World { strategy, mesh: Mesh::new(u, r).unwrap() };
        let shard = Shard::even(u * r, tokens, tokens, 1, true).unwrap();
        let (got, _) = given.run(world, shard, &Options::default(), options(1));
        let want = 1.0 / (1 + tokens) as f32;
        assert!(farthest(&got, want) < 1e-6, "{}: {:?} is not {want}", world.name(), got["out"].to_f32());
    }
}

#[test]
fn i04_an_embedding_follows_the_global_index() {
    let split = Split::latent_rows(2, 4, 2, 2);
    assert_eq!(split.map(0).indices().collect::<Vec<_>>(), [0, 1, 2, 3, 8, 9, 10, 11]);
    let mut rng = fresh();
    let mut inputs = Tensors::new();
    for (name, dims) in
        [("x", [2, 16, 1, 8]), ("weight", [1, 24, 1, 8]), ("bias", [1, 1, 1, 24]), ("pos", [1, 16, 1, 24])]
    {
        inputs.insert(name.into(), rng.tensor(Dtype::F32, dims, 1.0));
    }
    let embed = |split: &Split| (0..split.ranks()).map(|rank| embed_plan(split, rank)).collect();
    let (whole, _) = run(embed(&Split::even(16, 1)), &inputs, options(1));
    for split in [split, Split::latent_rows(2, 4, 2, 4), Split::even(16, 3), Split::latent_rows(4, 2, 2, 2)] {
        let (got, _) = run(embed(&split), &inputs, options(1));
        assert_same_bits(&format!("{split:?}"), &got, &whole);
    }
}

/// Patch embedding with the positional embedding as its residual, both placed by the split.
fn embed_plan(split: &Split, rank: usize) -> Plan {
    let mut b = Builder::new(rank, split.ranks());
    let stream = b.stream("compute");
    let map = split.map(rank);
    let mut bound = |role, name: &str, dims: [usize; 4], cut: bool| {
        let index = [None, cut.then(|| map.clone()), None, None];
        let local = [dims[0], if cut { map.len() } else { dims[1] }, dims[2], dims[3]];
        b.buffer(name, role, Dtype::F32, local, Some(Placement { tensor: name.into(), dims, index }))
    };
    let x = bound(Role::Input, "x", [2, 16, 1, 8], true);
    let weight = bound(Role::Input, "weight", [1, 24, 1, 8], false);
    let bias = bound(Role::Input, "bias", [1, 1, 1, 24], false);
    let pos = bound(Role::Input, "pos", [1, 16, 1, 24], true);
    let out = bound(Role::Output, "out", [2, 16, 1, 24], true);
    let spec = Gemm::linear(Dtype::F32, 2, map.len(), 8, 24, true, Epilogue::Residual);
    b.kernel(stream, "embed", Kernel::Gemm(spec), &[vec![weight], vec![bias], vec![x], vec![out], vec![pos]]);
    b.finish()
}

fn tiny() -> Config {
    Config {
        depth: 2,
        hidden: 24,
        heads: 4,
        mlp: 40,
        patch: 2,
        channels: 4,
        out_channels: 8,
        input_size: 8,
        classes: 10,
        frequencies: 16,
    }
}

fn dit_plans(batch: usize, image: Split, strategy: Strategy, mesh: &Mesh) -> Vec<Plan> {
    let problem = DitProblem { config: tiny(), dtype: Dtype::F32, batch, image };
    dit::plan(&problem, strategy, mesh, &Options::default()).unwrap()
}

#[test]
fn i04_a_denoiser_gives_the_same_bits_under_every_split() {
    let mut rng = fresh();
    let whole = dit_plans(2, Split::even(16, 1), SINGLE, &one().mesh);
    let inputs = random_inputs(&whole, &mut rng, 11);
    let (want, _) = run(whole, &inputs, options(1));
    for strategy in [Strategy::Fastseq, Strategy::Ulysses, Strategy::KvGather] {
        for split in [Split::latent_rows(2, 4, 2, 2), Split::even(16, 2), Split::latent_rows(4, 4, 1, 4)] {
            let mesh = Mesh::new(split.ranks(), 1).unwrap();
            let (got, _) = run(dit_plans(2, split.clone(), strategy, &mesh), &inputs, options(1));
            assert_same_bits(&format!("{} {split:?}", strategy.name()), &got, &want);
        }
    }
}

#[test]
fn i05_any_common_permutation_gives_the_permuted_output() {
    let mut rng = fresh();
    for (ranks, rope) in [(2, RopePairs::Interleaved), (3, RopePairs::Halves), (4, RopePairs::Interleaved)] {
        let mut case = Case::plain(Dtype::F32, 4 * ranks + 1, 4, 8);
        case.batch = 2;
        let problem = |shard| LayerProblem {
            attention: case.problem(shard),
            hidden: 16,
            qkv_bias: true,
            proj_bias: false,
            text_weights: false,
            qk_norm: Some(1e-6),
            rope: Some(rope),
            mlp: Some(24),
        };
        let whole = problem(case.even(1));
        let inputs = layer_inputs(&case, &whole, &mut rng);
        let plans = strategy::layer(&whole, SINGLE, &one().mesh, &Options::default()).unwrap();
        let (want, _) = run(plans, &inputs, options(1));
        for world in worlds(ranks) {
            let shard = Shard::new(permuted(&mut rng, case.tokens, ranks), TextShard::None).unwrap();
            let plans = strategy::layer(&problem(shard), world.strategy, &world.mesh, &Options::default()).unwrap();
            let (got, _) = run(plans, &inputs, options(1));
            if world.keeps_bits() {
                assert_same_bits(&world.name(), &got, &want);
            } else {
                let (largest, _) = errors(&f64s(&got["out"]), &f64s(&want["out"]));
                assert!(largest < 1e-4, "{}: {largest:e}", world.name());
            }
        }
    }
}

/// The tokens in random order, dealt to the ranks in unequal hands.
fn permuted(rng: &mut Rng, len: usize, ranks: usize) -> Split {
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let hands = counts(rng, len, ranks);
    let maps = (0..ranks).map(|r| IndexMap::from_indices(hands.map(r).indices().map(|i| order[i])));
    Split::from_maps(len, maps.collect()).unwrap()
}

#[test]
fn i06_padding_is_never_there() {
    for (ranks, tokens) in [(2, 3), (3, 4), (3, 5), (4, 5), (4, 7), (8, 9), (8, 15)] {
        // Padding would enter with a score of 0 and a value of 0.
        let given = Given::new([2, tokens, 3, 2], 0, |name, _| f32::from(name == "v"));
        for world in worlds(ranks) {
            let shard = Shard::even(ranks, tokens, tokens, 0, false).unwrap();
            let (got, _) = given.run(world, shard, &Options::default(), options(1));
            let off = farthest(&got, 1.0);
            assert!(off < 1e-6, "{} with {tokens} tokens: {off} from 1", world.name());
        }
    }
}

#[test]
fn i06_uneven_tokens_give_the_one_rank_output() {
    let mut rng = fresh();
    for (ranks, tokens) in [(2, 3), (3, 7), (4, 9), (8, 13)] {
        let given = Given::random(&mut rng, [2, tokens, 3, 8], 0);
        let (want, _) =
            given.run(one(), Shard::even(1, tokens, tokens, 0, false).unwrap(), &Options::default(), options(1));
        let truth = attention_f64(&given.inputs, |_, _| true).out;
        for world in worlds(ranks) {
            let shard = Shard::new(counts(&mut rng, tokens, ranks), TextShard::None).unwrap();
            let (got, _) = given.run(world, shard, &Options::default(), options(1));
            if world.keeps_bits() {
                assert_same_bits(&world.name(), &got, &want);
            }
            let (largest, _) = errors(&f64s(&got["out"]), &truth);
            assert!(largest < 1e-5, "{}: {largest:e}", world.name());
        }
    }
}

#[test]
fn i07_replicated_text_is_equal_on_every_rank() {
    let mut rng = fresh();
    for (ranks, text) in [(2, 5), (3, 2), (4, 7), (8, 3)] {
        let given = Given::random(&mut rng, [2, 11, 5, 8], text);
        let whole = Shard::even(1, 11, 11, text, true).unwrap();
        let (want, _) = given.run(one(), whole, &Options::default(), options(1));
        for world in worlds(ranks) {
            let shard = Shard::even(ranks, 11, 11, text, true).unwrap();
            let (mut plans, inputs) = given.plans(world, shard, &Options::default());
            for (rank, plan) in plans.iter_mut().enumerate() {
                expose(plan, "text_out", &format!("text on {rank}"));
            }
            let (got, _) = run(plans, &inputs, options(1));
            let on = |rank: usize| &got[&format!("text on {rank}")];
            for rank in 1..ranks {
                assert_eq!(on(rank).bytes, on(0).bytes, "{}: rank {rank} differs from rank 0", world.name());
            }
            let width = want["text_out"].dims[2] * want["text_out"].dims[3];
            let hidden = on(0).dims[2] * on(0).dims[3];
            let values: Vec<f32> = on(0).to_f32().chunks(hidden).flat_map(|row| row[..width].to_vec()).collect();
            let one_rank = want["text_out"].to_f32();
            if world.keeps_bits() {
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                assert_eq!(bits(&values), bits(&one_rank), "{}", world.name());
            } else {
                let off = values.iter().zip(&one_rank).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-5, "{}: {off:e}", world.name());
            }
        }
    }
}

/// The forward part: a loss summed over the ranks' own rows is the loss of one rank, and a mean
/// weighted by the ranks' shares is its mean, however uneven they are.
#[test]
fn i08_a_loss_over_the_ranks_own_rows_is_the_whole_loss() {
    let mut rng = fresh();
    let tokens = 13;
    let given = Given::random(&mut rng, [2, tokens, 4, 8], 0);
    let (want, _) =
        given.run(one(), Shard::even(1, tokens, tokens, 0, false).unwrap(), &Options::default(), options(1));
    let whole = f64s(&want["out"]);
    let (sum, mean) = (whole.iter().sum::<f64>(), whole.iter().sum::<f64>() / whole.len() as f64);
    for ranks in [2, 3, 4, 8] {
        for world in worlds(ranks).into_iter().filter(|world| !world.strategy.needs_weights()) {
            let split = counts(&mut rng, tokens, ranks);
            let shard = Shard::new(split.clone(), TextShard::None).unwrap();
            let (mut plans, inputs) = given.plans(world, shard, &Options::default());
            for (rank, plan) in plans.iter_mut().enumerate() {
                expose(plan, "out", &format!("out on {rank}"));
            }
            let (got, _) = run(plans, &inputs, options(1));
            let local: Vec<Vec<f64>> = (0..ranks).map(|rank| f64s(&got[&format!("out on {rank}")])).collect();
            let total: f64 = local.iter().flatten().sum();
            let share = |rank: usize| split.count(rank) as f64 / tokens as f64;
            let weighted: f64 =
                local.iter().enumerate().map(|(r, out)| share(r) * out.iter().sum::<f64>() / out.len() as f64).sum();
            assert!((total - sum).abs() < 1e-4, "{}: {total} is not {sum}", world.name());
            assert!((weighted - mean).abs() < 1e-6, "{}: {weighted} is not {mean}", world.name());
        }
    }
}

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

#[test]
fn i11_replicas_never_meet() {
    let mut rng = fresh();
    for (strategy, u, r) in [
        (Strategy::Fastseq, 2, 1),
        (Strategy::Ulysses, 2, 1),
        (Strategy::Ring, 1, 2),
        (Strategy::Usp, 2, 2),
        (Strategy::Megatron, 2, 1),
        (Strategy::KvGather, 2, 1),
    ] {
        let mesh = Mesh::with_replicas(2, 1, u, r).unwrap();
        let case = Case::plain(Dtype::F32, 9, 4, 8);
        let mut layer = case.layer(&mut rng, case.even(u * r));
        layer.mlp = Some(24);
        let plans = strategy::layer(&layer, strategy, &mesh, &Options::default()).unwrap();
        let replica = |rank: u32| rank as usize / mesh.sequence();
        for plan in &plans {
            let own = replica(plan.rank);
            assert!(plan.groups.iter().flatten().all(|&rank| replica(rank) == own), "{}: group", strategy.name());
            let mut peers = plan.comms.iter().flat_map(|comm| &comm.transfers).map(|transfer| transfer.peer);
            assert!(peers.all(|peer| replica(peer) == own), "{}: transfer", strategy.name());
        }
        let mut inputs = random_inputs(&plans, &mut rng, 1);
        let (before, _) = run(plans.clone(), &inputs, options(1));
        let x = &inputs["x"];
        let mut values = x.to_f32();
        let half = values.len() / 2;
        values[half..].iter_mut().for_each(|x| *x = 7.0 - *x);
        inputs.insert("x".into(), floats(Dtype::F32, inputs["x"].dims, &values));
        let (after, _) = run(plans, &inputs, options(1));
        let (before, after) = (&before["out"].bytes, &after["out"].bytes);
        assert_eq!(before[..before.len() / 2], after[..after.len() / 2], "{}: replica 0", strategy.name());
        assert_ne!(before[before.len() / 2..], after[after.len() / 2..], "{}: replica 1", strategy.name());
    }
}

#[test]
fn i12_modulation_belongs_to_its_sample_frame_and_token() {
    let mut rng = fresh();
    for norm in [Norm::Layer, Norm::Rms] {
        for modulation in [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken] {
            for rows in [1, 5] {
                let inputs = modulated_inputs(&mut rng, modulation, rows);
                let truth = norm_modulate_f64(&inputs, norm, modulation);
                let mut bits = None;
                for ranks in [1, 2, 3] {
                    if ranks > rows {
                        continue;
                    }
                    let split = counts(&mut rng, rows, ranks);
                    let plans = (0..ranks).map(|rank| modulate_plan(&split, rank, norm, modulation)).collect();
                    let (got, _) = run(plans, &inputs, options(1));
                    let name = format!("{norm:?} {modulation:?}, {rows} rows over {ranks}");
                    let (largest, _) = errors(&f64s(&got["y"]), &truth);
                    assert!(largest < 2e-5, "{name}: {largest:e}");
                    let first = bits.get_or_insert_with(|| got.clone());
                    assert_same_bits(&name, &got, first);
                }
            }
        }
    }
}

const HIDDEN: usize = 1152;

fn modulated_inputs(rng: &mut Rng, modulation: Modulation, rows: usize) -> Tensors {
    let mut inputs = Tensors::new();
    let vector_rows = if modulation == Modulation::PerToken { rows } else { 1 };
    inputs.insert("x".into(), rng.tensor(Dtype::F32, [3, rows, 1, HIDDEN], 2.0));
    let per_frame = modulation == Modulation::PerFrame;
    for name in if per_frame { &["shift", "scale", "shift0", "scale0"][..] } else { &["shift", "scale"] } {
        inputs.insert(name.to_string(), rng.tensor(Dtype::F32, [3, vector_rows, 1, HIDDEN], 1.0));
    }
    if per_frame {
        let frame: Vec<u8> = (0..3 * rows).map(|i| u8::from(i % 2 == 0)).collect();
        inputs.insert("frame".into(), bytes([3, rows, 1, 1], &frame));
    }
    inputs
}

fn modulate_plan(split: &Split, rank: usize, norm: Norm, modulation: Modulation) -> Plan {
    let mut b = Builder::new(rank, split.ranks());
    let stream = b.stream("compute");
    let map = split.map(rank);
    let (tokens, per_token) = (split.len(), modulation == Modulation::PerToken);
    let mut bound = |role, name: &str, dtype, rows: usize, width: usize| {
        let cut = rows > 1 || tokens == 1 || name == "x" || name == "y" || name == "frame";
        let index = [None, cut.then(|| map.clone()), None, None];
        let placement = Placement { tensor: name.into(), dims: [3, rows, 1, width], index };
        let local = if cut { map.len() } else { rows };
        vec![b.buffer(name, role, dtype, [3, local, 1, width], Some(placement))]
    };
    let vector_rows = if per_token { tokens } else { 1 };
    let mut operands: Vec<Vec<View>> = vec![
        bound(Role::Input, "x", Dtype::F32, tokens, HIDDEN),
        bound(Role::Output, "y", Dtype::F32, tokens, HIDDEN),
        bound(Role::Input, "shift", Dtype::F32, vector_rows, HIDDEN),
        bound(Role::Input, "scale", Dtype::F32, vector_rows, HIDDEN),
    ];
    if modulation == Modulation::PerFrame {
        operands.push(bound(Role::Input, "shift0", Dtype::F32, vector_rows, HIDDEN));
        operands.push(bound(Role::Input, "scale0", Dtype::F32, vector_rows, HIDDEN));
        operands.push(bound(Role::Input, "frame", Dtype::U8, tokens, 1));
    }
    let rows = map.len();
    let spec = NormModulate { dtype: Dtype::F32, batch: 3, rows, hidden: HIDDEN, norm, eps: 1e-6, modulation };
    b.kernel(stream, "norm+modulate", Kernel::NormModulate(spec), &operands);
    b.finish()
}

fn norm_modulate_f64(inputs: &Tensors, norm: Norm, modulation: Modulation) -> Vec<f64> {
    let [batch, rows, _, hidden] = inputs["x"].dims;
    let tensor = |name: &str| inputs.get(name).map(f64s).unwrap_or_default();
    let (x, frame) = (tensor("x"), tensor("frame"));
    let (first, second) = ((tensor("shift"), tensor("scale")), (tensor("shift0"), tensor("scale0")));
    let mut y = Vec::new();
    for (b, i) in (0..batch).flat_map(|b| (0..rows).map(move |i| (b, i))) {
        let row = &x[(b * rows + i) * hidden..][..hidden];
        let mean = if norm == Norm::Layer { row.iter().sum::<f64>() / hidden as f64 } else { 0.0 };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
        let takes_second = frame.get(b * rows + i) == Some(&0.0);
        let (shift, scale) = if takes_second { &second } else { &first };
        let at = if modulation == Modulation::PerToken { b * rows + i } else { b } * hidden;
        let value = |c: usize| (row[c] - mean) / (variance + 1e-6).sqrt() * (1.0 + scale[at + c]) + shift[at + c];
        y.extend((0..hidden).map(value));
    }
    y
}

#[test]
fn i13_guidance_on_two_groups_equals_one_after_the_other() {
    let mut rng = fresh();
    let batch = 2;
    for (strategy, u, r) in [
        (SINGLE, 1, 1),
        (Strategy::Fastseq, 2, 1),
        (Strategy::Ulysses, 2, 1),
        (Strategy::KvGather, 3, 1),
        (Strategy::Ring, 1, 2),
        (Strategy::Usp, 2, 2),
        (Strategy::Megatron, 2, 1),
    ] {
        let split = || Split::even(16, u * r);
        let together = dit_plans(batch, split(), strategy, &Mesh::with_replicas(1, 2, u, r).unwrap());
        let mut inputs = random_inputs(&together, &mut rng, 10);
        // The same latents and timesteps in both halves; the second is unconditional.
        for name in ["patches", "timestep"] {
            let tensor = &inputs[name];
            let values = tensor.to_f32();
            let half = &values[..values.len() / 2];
            let twice = floats(Dtype::F32, tensor.dims, &[half, half].concat());
            inputs.insert(name.into(), twice);
        }
        inputs.insert("class".into(), integers([2 * batch, 1, 1, 1], &[3, 7, 10, 10]));
        let (got, _) = run(together, &inputs, options(1));
        let got = got["out"].to_f32();
        for (half, classes) in [[3, 7], [10, 10]].into_iter().enumerate() {
            let mut own = inputs.clone();
            own.insert("class".into(), integers([batch, 1, 1, 1], &classes));
            for name in ["patches", "timestep"] {
                let [_, rest @ ..] = inputs[name].dims;
                let values = inputs[name].to_f32();
                let dims = [batch, rest[0], rest[1], rest[2]];
                own.insert(name.into(), floats(Dtype::F32, dims, &values[..values.len() / 2]));
            }
            let plans = dit_plans(batch, split(), strategy, &Mesh::new(u, r).unwrap());
            let (alone, _) = run(plans, &own, options(1));
            let (alone, n) = (alone["out"].to_f32(), got.len() / 2);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got[half * n..(half + 1) * n]), bits(&alone), "{} half {half}", strategy.name());
        }
    }
}

#[test]
fn i14_repeated_runs_have_equal_bits() {
    let mut rng = fresh();
    let case = Case { text: 5, replicate: true, mask: true, batch: 2, ..Case::plain(Dtype::F32, 23, 6, 8) };
    let mut layer = case.layer(&mut rng, case.even(1));
    layer.mlp = Some(24);
    let inputs = layer_inputs(&case, &layer, &mut rng);
    let worlds: Vec<World> = worlds(4).into_iter().chain(worlds(3)).collect();
    let runs_each = 100usize.div_ceil(worlds.len());
    for world in worlds {
        layer.attention.shard = case.even(world.mesh.world());
        let mut first = None;
        for i in 0..runs_each {
            let gated = i % 2 == 1;
            let plan_options = Options { gated, ..Options::default() };
            let plans = strategy::layer(&layer, world.strategy, &world.mesh, &plan_options).unwrap();
            let mut host = linked(1e7 + 1e9 * rng.uniform(), 2e-4 * rng.uniform());
            host.threads = [1, 4, 8][rng.below(3)];
            let (got, _) = run(plans, &inputs, host);
            let first = first.get_or_insert_with(|| got.clone());
            assert_same_bits(&format!("{} run {i}", world.name()), &got, first);
        }
    }
}

#[test]
fn filled_tensors_are_row_major() {
    let tensor = filled([2, 1, 2, 3], |[b, _, h, d]| (100 * b + 10 * h + d) as f32);
    assert_eq!(tensor.to_f32()[4..9], [11.0, 12.0, 100.0, 101.0, 102.0]);
}
