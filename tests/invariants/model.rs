//! I4 and I13: embeddings by global index, and guidance, on the whole denoiser.

use seqpar::dit::{self, Config, DitProblem};
use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};
use seqpar::mesh::Mesh;
use seqpar::plan::{Builder, Placement, Plan, Role};
use seqpar::shard::Split;
use seqpar::strategy::{Options, Strategy};

use crate::support::worlds::random_inputs;
use crate::support::{Tensors, assert_same_bits, floats, integers, options, run};
use crate::{SINGLE, fresh, one};

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
