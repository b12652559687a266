//! Random attention and layer problems, their tensors and their cuts.
#![allow(dead_code, unreachable_pub)]

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::RopePairs;
use seqpar::shard::{IndexMap, Shard, Split, TextShard};
use seqpar::strategy::{AttentionProblem, LayerProblem, Options, Route};

use super::{Rng, Tensors, bytes, floats, integers};

/// Sizes of a problem, independent of how it is cut.
#[derive(Clone, Debug)]
pub struct Case {
    pub dtype: Dtype,
    pub batch: usize,
    pub tokens: usize,
    pub keys: usize,
    pub text: usize,
    pub replicate: bool,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mask: bool,
    pub lengths: bool,
}

impl Case {
    pub fn plain(dtype: Dtype, tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self {
            dtype,
            batch: 1,
            tokens,
            keys: tokens,
            text: 0,
            replicate: false,
            heads,
            kv_heads: heads,
            head_dim,
            mask: false,
            lengths: false,
        }
    }

    /// Ragged sizes, grouped-query heads, text, masks: anything the strategies promise.
    pub fn random(rng: &mut Rng, dtype: Dtype, ranks: usize, cross: bool) -> Self {
        let kv_heads = rng.within(1, 5);
        let most = if rng.chance(25) { 300 } else { 60 };
        let tokens = rng.within(ranks, most);
        Self {
            dtype,
            batch: rng.within(1, 3),
            tokens,
            keys: if cross { rng.within(1, 40) } else { tokens },
            text: if rng.chance(50) { rng.within(1, 20) } else { 0 },
            replicate: rng.chance(50),
            heads: kv_heads * rng.within(1, 3),
            kv_heads,
            head_dim: [4, 8, 20, 64, 72][rng.below(5)],
            mask: rng.chance(40),
            lengths: rng.chance(30),
        }
    }

    pub fn problem(&self, shard: Shard) -> AttentionProblem {
        AttentionProblem {
            dtype: self.dtype,
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            shard,
            key_mask: self.mask,
            key_len: self.lengths,
        }
    }

    pub fn even(&self, ranks: usize) -> Shard {
        Shard::even(ranks, self.tokens, self.keys, self.text, self.replicate).unwrap()
    }

    /// An even, uneven, row-wise or arbitrary cut; keys are cut as the image in self-attention.
    pub fn cut(&self, rng: &mut Rng, ranks: usize, cross: bool) -> Shard {
        let image = random_split(rng, self.tokens, ranks, 1);
        let keys = if cross { random_split(rng, self.keys, ranks, 0) } else { image.clone() };
        let text = match (self.text, self.replicate) {
            (0, _) => TextShard::None,
            (len, true) => TextShard::Replicated(len),
            (len, false) => TextShard::Split(random_split(rng, len, ranks, 0)),
        };
        Shard::cross(image, keys, text).unwrap()
    }

    pub fn attention_inputs(&self, rng: &mut Rng) -> Tensors {
        let (b, h, hkv, d) = (self.batch, self.heads, self.kv_heads, self.head_dim);
        let mut tensors = Tensors::new();
        let mut add = |name: &str, rows: usize, heads: usize| {
            tensors.insert(name.into(), rng.tensor(self.dtype, [b, rows, heads, d], 1.0));
        };
        add("q", self.tokens, h);
        add("k", self.keys, hkv);
        add("v", self.keys, hkv);
        if self.text > 0 {
            add("text_q", self.text, h);
            add("text_k", self.text, hkv);
            add("text_v", self.text, hkv);
        }
        self.limits(rng, &mut tensors);
        tensors
    }

    /// A mask that differs per sample, sometimes with no key left, and lengths.
    pub fn limits(&self, rng: &mut Rng, tensors: &mut Tensors) {
        let keys = self.text + self.keys;
        if self.mask {
            let mut mask = Vec::new();
            for _ in 0..self.batch {
                let keep = [0, 30, 90][rng.below(3)];
                mask.extend((0..keys).map(|_| u8::from(rng.chance(keep))));
            }
            tensors.insert("key_mask".into(), bytes([self.batch, keys, 1, 1], &mask));
        }
        if self.lengths {
            let mut lengths = Vec::new();
            for _ in 0..self.batch {
                lengths.push(rng.within(0, self.text) as i32);
                lengths.push(rng.within(0, self.keys) as i32);
            }
            tensors.insert("key_len".into(), integers([self.batch, 2, 1, 1], &lengths));
        }
    }

    /// Whether key `j` (text first) of sample `b` counts.
    pub fn keeps(&self, inputs: &Tensors, b: usize, j: usize) -> bool {
        let keys = self.text + self.keys;
        let kept = inputs.get("key_mask").is_none_or(|mask| mask.bytes[b * keys + j] == 1);
        let within = inputs.get("key_len").is_none_or(|len| {
            let len: Vec<i32> = len.to_f32().iter().map(|&x| x as i32).collect();
            if j < self.text { (j as i32) < len[2 * b] } else { ((j - self.text) as i32) < len[2 * b + 1] }
        });
        kept && within
    }

    pub fn layer(&self, rng: &mut Rng, shard: Shard) -> LayerProblem {
        LayerProblem {
            attention: self.problem(shard),
            hidden: [16, 40, 72][rng.below(3)],
            qkv_bias: rng.chance(50),
            proj_bias: rng.chance(50),
            text_weights: rng.chance(50),
            qk_norm: rng.chance(40).then_some(1e-6),
            rope: match rng.below(3) {
                0 => None,
                1 => Some(RopePairs::Interleaved),
                _ => Some(RopePairs::Halves),
            },
            mlp: rng.chance(40).then_some(48),
        }
    }
}

/// A layer's inputs; weights are scaled so that activations stay near 1.
pub fn layer_inputs(case: &Case, layer: &LayerProblem, rng: &mut Rng) -> Tensors {
    let (c, d, dtype) = (layer.hidden, case.head_dim, case.dtype);
    let rows = (case.heads + 2 * case.kv_heads) * d;
    let mut tensors = Tensors::new();
    tensors.insert("x".into(), rng.tensor(dtype, [case.batch, case.tokens, 1, c], 1.0));
    if case.text > 0 {
        tensors.insert("text_x".into(), rng.tensor(dtype, [case.batch, case.text, 1, c], 1.0));
    }
    for prefix in ["", "text_"] {
        if !prefix.is_empty() && (!layer.text_weights || case.text == 0) {
            continue;
        }
        let mut add = |name: &str, dims: [usize; 4], scale: f32| {
            tensors.insert(format!("{prefix}{name}"), rng.tensor(dtype, dims, scale));
        };
        let scale = |k: usize| 1.0 / (k as f32).sqrt();
        add("qkv_weight", [1, rows, 1, c], scale(c));
        add("proj_weight", [1, c, 1, case.heads * d], scale(case.heads * d));
        if layer.qkv_bias {
            add("qkv_bias", [1, 1, 1, rows], 0.1);
        }
        if layer.proj_bias {
            add("proj_bias", [1, 1, 1, c], 0.1);
        }
        if layer.qk_norm.is_some() {
            add("q_norm", [1, 1, 1, d], 1.0);
            add("k_norm", [1, 1, 1, d], 1.0);
        }
        if let Some(width) = layer.mlp {
            add("fc1_weight", [1, width, 1, c], scale(c));
            add("fc1_bias", [1, 1, 1, width], 0.1);
            add("fc2_weight", [1, c, 1, width], scale(width));
            add("fc2_bias", [1, 1, 1, c], 0.1);
        }
    }
    if layer.rope.is_some() {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for i in 0..case.tokens {
            for j in 0..d / 2 {
                let angle = i as f64 * 10000f64.powf(-(j as f64) / (d / 2) as f64);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        let dims = [1, case.tokens, 1, d / 2];
        tensors.insert("rope_cos".into(), floats(Dtype::F32, dims, &cos));
        tensors.insert("rope_sin".into(), floats(Dtype::F32, dims, &sin));
    }
    case.limits(rng, &mut tensors);
    tensors
}

/// Cuts `len` tokens over `ranks`, each with at least `least`.
pub fn random_split(rng: &mut Rng, len: usize, ranks: usize, least: usize) -> Split {
    match rng.below(4) {
        0 => Split::even(len, ranks),
        1 if len.is_multiple_of(2) && len / 2 >= ranks => Split::latent_rows(2, len / 2, 1, ranks),
        2 => {
            // Any owner for every token.
            let mut owners: Vec<usize> = (0..ranks * least).map(|i| i % ranks.max(1)).collect();
            owners.extend((owners.len()..len).map(|_| rng.below(ranks)));
            for i in (1..owners.len()).rev() {
                owners.swap(i, rng.below(i + 1));
            }
            let of = |r: usize| IndexMap::from_indices((0..len).filter(|&i| owners[i] == r));
            Split::from_maps(len, (0..ranks).map(of).collect()).unwrap()
        }
        _ => {
            let mut counts = vec![least; ranks];
            for _ in 0..len - ranks * least {
                counts[rng.below(ranks)] += 1;
            }
            Split::counts(&counts)
        }
    }
}

pub fn random_options(rng: &mut Rng) -> Options {
    Options {
        route: if rng.chance(50) { Route::Forwarded } else { Route::Direct },
        gated: rng.chance(50),
        head_groups: rng.within(1, 4),
    }
}
