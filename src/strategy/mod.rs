//! Strategies: pure functions from a problem to one plan a rank.
//!
//! Each file reads like its paper: it names streams and says what every op reads and writes;
//! [`crate::plan`] derives the dependencies. All strategies take token-sharded input and return
//! token-sharded output, for any batch, uneven token and head counts, joint text (split or
//! replicated), masks and key lengths per sample, grouped-query heads and any index map.
//!
//! `single`, `fastseq`, `ulysses` and `kv_gather` keep the bits of the one-rank run (R1); `ring`,
//! `usp` with a ring and `megatron` reorder sums (R2). Tests: `tests/bits.rs`,
//! `tests/invariants`, `tests/strategies.rs`.

mod alike;
mod attend;
pub(crate) mod context;
mod exchange;
mod fastseq;
mod heads;
mod kv_gather;
pub(crate) mod layer;
mod megatron;
mod problem;
pub(crate) mod project;
mod usp;
mod validate;
pub(crate) mod weights;

pub use alike::alike;
pub(crate) use attend::KeyLimits;
pub use problem::{AttentionProblem, LayerProblem, Options, Route, Strategy};
pub(crate) use validate::validate;

use self::context::{Context, Tokens};
use self::project::{QkvWeights, Source, Sources};
use self::weights::{LayerWeights, Linear, Weights};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mesh::Mesh;
use crate::plan::{Plan, Role};
use crate::shard::IndexMap;

/// The plans of all ranks for one attention: `out = softmax(q·kᵀ/√D)·v`.
///
/// Global tensors (see [`crate::plan::Placement`]): inputs `q [B, N, H, D]`,
/// `k`, `v [B, M, Hkv, D]`, with text `text_q [B, T, H, D]`, `text_k`, `text_v [B, T, Hkv, D]`,
/// with a mask `key_mask [B, T+M, 1, 1]` u8, with lengths `key_len [B, 2, 1, 1]` i32 (text,
/// image); outputs `out [B, N, H, D]`, `text_out [B, T, H, D]`, `lse [B, H, 1, T+N]` f32. The
/// log-sum-exp stays on the rank that computed it.
///
/// # Errors
/// A problem, mesh or strategy that contradict each other; fastseq and megatron, which need the
/// layer's weights.
pub fn attention(problem: &AttentionProblem, strategy: Strategy, mesh: &Mesh, options: &Options) -> Result<Vec<Plan>> {
    (0..mesh.world()).map(|rank| attention_rank(problem, strategy, mesh, options, rank)).collect()
}

/// [`attention`] for one rank.
///
/// # Errors
/// As [`attention`].
pub fn attention_rank(
    problem: &AttentionProblem,
    strategy: Strategy,
    mesh: &Mesh,
    options: &Options,
    rank: usize,
) -> Result<Plan> {
    if strategy.needs_weights() {
        return Err(Error::Unsupported(format!(
            "{} gathers x and projects it, so it needs the layer's weights: plan a layer, or use ulysses, ring, usp or kv-gather",
            strategy.name()
        )));
    }
    validate(problem, strategy, mesh, options)?;
    let mut context = Context::new(problem, *mesh, rank, *options);
    let cx = &mut context;
    cx.lse_output = true;
    let (shard, h, hkv, d) = (&problem.shard, problem.heads, problem.kv_heads, problem.head_dim);
    let (image, keys) = (cx.image_map(cx.me), cx.key_map(cx.me));
    let source = Source::Given {
        q: cx.rows(Role::Input, "q", shard.image.len(), image, h, d),
        k: cx.rows(Role::Input, "k", shard.keys.len(), keys, hkv, d),
        v: cx.rows(Role::Input, "v", shard.keys.len(), keys, hkv, d),
    };
    let out = cx.rows(Role::Output, "out", shard.image.len(), image, h, d);
    let (mut text, mut text_out) = (None, None);
    if !shard.text.is_empty() {
        let (len, map) = (shard.text.len(), shard.text.map(cx.me));
        text = Some(Source::Given {
            q: cx.rows(Role::Input, "text_q", len, &map, h, d),
            k: cx.rows(Role::Input, "text_k", len, &map, hkv, d),
            v: cx.rows(Role::Input, "text_v", len, &map, hkv, d),
        });
        text_out = Some(cx.rows(Role::Output, "text_out", len, &map, h, d));
    }
    let limits = key_limits(cx);
    let sources = Sources { image: source, text };
    layer::attention(cx, strategy, &sources, limits, &Tokens { image: out, text: text_out });
    Ok(context.b.finish())
}

/// The plans of all ranks for one layer: projection to q, k, v, attention, output projection and,
/// where the problem has one, the MLP.
///
/// Global tensors: inputs `x [B, N, 1, C]`, `qkv_weight [1, (H+2·Hkv)·D, 1, C]` (rows q, k, v,
/// each by head), `qkv_bias [1, 1, 1, (H+2·Hkv)·D]`, `proj_weight [1, C, 1, H·D]`,
/// `proj_bias [1, 1, 1, C]`, `q_norm`, `k_norm [1, 1, 1, D]`, `rope_cos`, `rope_sin
/// [1, N, 1, D/2]` f32, `fc1_weight [1, F, 1, C]`, `fc1_bias`, `fc2_weight [1, C, 1, F]`,
/// `fc2_bias`; with text `text_x [B, T, 1, C]` and, with weights of its own, all of these with
/// the prefix `text_`; `key_mask` and `key_len` as in [`attention`]. Outputs `out [B, N, 1, C]`,
/// `text_out [B, T, 1, C]`.
///
/// # Errors
/// A problem, mesh or strategy that contradict each other.
pub fn layer(problem: &LayerProblem, strategy: Strategy, mesh: &Mesh, options: &Options) -> Result<Vec<Plan>> {
    (0..mesh.world()).map(|rank| layer_rank(problem, strategy, mesh, options, rank)).collect()
}

/// [`layer`] for one rank.
///
/// # Errors
/// As [`layer`].
pub fn layer_rank(
    problem: &LayerProblem,
    strategy: Strategy,
    mesh: &Mesh,
    options: &Options,
    rank: usize,
) -> Result<Plan> {
    let attention = &problem.attention;
    validate(attention, strategy, mesh, options)?;
    validate::validate_layer(problem)?;
    let mut context = Context::new(attention, *mesh, rank, *options);
    let cx = &mut context;
    let (shard, hidden) = (&attention.shard, problem.hidden);
    let image = cx.image_map(cx.me);
    let text_map = shard.text.map(cx.me);
    let has_text = !shard.text.is_empty();
    let mut rows = |role: Role, name: &str, len: usize, map: &IndexMap| cx.rows(role, name, len, map, 1, hidden);
    let x = Tokens {
        image: rows(Role::Input, "x", shard.image.len(), image),
        text: has_text.then(|| rows(Role::Input, "text_x", shard.text.len(), &text_map)),
    };
    let out = Tokens {
        image: rows(Role::Output, "out", shard.image.len(), image),
        text: has_text.then(|| rows(Role::Output, "text_out", shard.text.len(), &text_map)),
    };
    let image_weights = layer_weights(cx, problem, "");
    let text = has_text.then(|| {
        let mut weights =
            if problem.text_weights { layer_weights(cx, problem, "text_") } else { image_weights.clone() };
        weights.qkv.rope = None;
        weights
    });
    let weights = Weights { image: image_weights, text };
    let limits = key_limits(cx);
    if problem.mlp.is_none() {
        layer::attention_layer(cx, strategy, &x, &weights, limits, &out);
    } else {
        let attended = Tokens {
            image: cx.temp("attended", x.image.shape),
            text: x.text.map(|text| cx.temp("attended text", text.shape)),
        };
        layer::attention_layer(cx, strategy, &x, &weights, limits, &attended);
        layer::mlp(cx, strategy, &attended, &weights, &out);
    }
    Ok(context.b.finish())
}

fn layer_weights(cx: &mut Context, problem: &LayerProblem, prefix: &str) -> LayerWeights {
    let a = &problem.attention;
    let (hidden, d) = (problem.hidden, a.head_dim);
    let qkv_rows = (a.heads + 2 * a.kv_heads) * d;
    let mut input = |name: &str, dtype: Dtype, dims: [usize; 4]| {
        cx.bound(Role::Input, &format!("{prefix}{name}"), dtype, dims, [None, None, None, None], false)
    };
    let mut linear = |name: &str, cols: usize, k: usize, bias: bool| Linear {
        weight: input(&format!("{name}_weight"), a.dtype, [1, cols, 1, k]),
        bias: bias.then(|| input(&format!("{name}_bias"), a.dtype, [1, 1, 1, cols])),
    };
    let qkv = linear("qkv", qkv_rows, hidden, problem.qkv_bias);
    let proj = linear("proj", hidden, a.heads * d, problem.proj_bias);
    let mlp = problem.mlp.map(|width| (linear("fc1", width, hidden, true), linear("fc2", hidden, width, true)));
    let norm = problem
        .qk_norm
        .map(|eps| (eps, input("q_norm", a.dtype, [1, 1, 1, d]), input("k_norm", a.dtype, [1, 1, 1, d])));
    let table = [1, a.shard.image.len(), 1, d / 2];
    let rope = problem
        .rope
        .filter(|_| prefix.is_empty())
        .map(|pairs| (pairs, input("rope_cos", Dtype::F32, table), input("rope_sin", Dtype::F32, table)));
    LayerWeights { qkv: QkvWeights { weight: qkv.weight, bias: qkv.bias, norm, rope }, proj, mlp }
}

/// The mask and key lengths, whole on every rank: they are small.
fn key_limits(cx: &mut Context) -> KeyLimits {
    let (batch, shard) = (cx.problem.batch, &cx.problem.shard);
    let keys = shard.text.len() + shard.keys.len();
    let (masked, bounded) = (cx.problem.key_mask, cx.problem.key_len);
    let mut input = |name: &str, dtype: Dtype, dims: [usize; 4]| {
        cx.bound(Role::Input, name, dtype, dims, [None, None, None, None], true)
    };
    KeyLimits {
        mask: masked.then(|| input("key_mask", Dtype::U8, [batch, keys, 1, 1])),
        len: bounded.then(|| input("key_len", Dtype::I32, [batch, 2, 1, 1])),
    }
}
