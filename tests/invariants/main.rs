//! The fourteen ways in which sequence-parallel systems have given another picture on another
//! number of ranks, as tests over every strategy to which they apply. I8 and I9 also have
//! gradient parts, which come with training.

mod adaln;
mod model;
mod ring;
#[path = "../support/mod.rs"]
mod support;

use seqpar::dtype::Dtype;
use seqpar::exec::host::HostTensor;
use seqpar::kernel::spec::RopePairs;
use seqpar::mesh::Mesh;
use seqpar::shard::{IndexMap, Shard, Split, TextShard};
use seqpar::strategy::{self, LayerProblem, Options, Strategy};
use support::cases::{Case, layer_inputs};
use support::timing::linked;
use support::worlds::{Given, World, expose, filled, random_inputs, worlds};
use support::{Rng, Tensors, assert_same_bits, attention_f64, errors, f64s, floats, options, run, seed};

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
