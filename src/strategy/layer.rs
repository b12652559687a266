//! The attention layer and the MLP of a transformer under any strategy.

use super::attend::KeyLimits;
use super::context::{Context, Tokens};
use super::problem::Strategy;
use super::project::{Projection, Source, Sources};
use super::weights::{Linear, Weights};
use super::{fastseq, kv_gather, megatron, usp};
use crate::kernel::spec::{Epilogue, Gemm, Kernel};
use crate::plan::View;

/// From `x [B, n, 1, C]` to the output projection in `out [B, n, 1, C]`.
pub(crate) fn attention_layer(
    cx: &mut Context,
    strategy: Strategy,
    x: &Tokens,
    weights: &Weights,
    limits: KeyLimits,
    out: &Tokens,
) {
    let image = Projection { x: x.image, weights: weights.image.qkv.clone(), map: cx.image_map(cx.me).clone() };
    let text = x.text.zip(weights.text.as_ref()).map(|(x, weights)| Projection {
        x,
        weights: weights.qkv.clone(),
        map: cx.problem.shard.text.map(cx.me),
    });
    let alone = cx.ranks.len() == 1;
    if strategy == Strategy::Megatron && !alone {
        let layer = fastseq::Layer { image, text };
        return megatron::attention_layer(cx, &layer, &weights.image, weights.text.as_ref(), limits, out);
    }
    let (heads, d) = (cx.problem.heads, cx.problem.head_dim);
    let mut head_rows = |name: &str, view: View| cx.temp(name, [view.shape[0], view.shape[1], heads, d]);
    let heads_out =
        Tokens { image: head_rows("head out", x.image), text: x.text.map(|text| head_rows("text head out", text)) };
    match strategy {
        Strategy::Fastseq if !alone => fastseq::attention(cx, &fastseq::Layer { image, text }, limits, &heads_out),
        _ => {
            let sources = Sources { image: Source::Project(image), text: text.map(Source::Project) };
            attention(cx, strategy, &sources, limits, &heads_out);
        }
    }
    linear(cx, "proj", heads_out.image, &weights.image.proj, Epilogue::None, out.image);
    if let (Some(x), Some(weights), Some(out)) = (heads_out.text, &weights.text, out.text) {
        linear(cx, "proj text", x, &weights.proj, Epilogue::None, out);
    }
}

/// Attention of given or projected sources into `out [B, n, H, D]`.
pub(crate) fn attention(cx: &mut Context, strategy: Strategy, sources: &Sources, limits: KeyLimits, out: &Tokens) {
    match strategy {
        Strategy::KvGather => kv_gather::attention(cx, sources, limits, out),
        _ => usp::attention(cx, sources, limits, out),
    }
}

/// Linear, tanh-GELU, linear, on this rank's rows; nothing moves but under megatron.
pub(crate) fn mlp(cx: &mut Context, strategy: Strategy, x: &Tokens, weights: &Weights, out: &Tokens) {
    let Some(image) = weights.image.mlp else { return };
    let text = weights.text.as_ref().and_then(|weights| weights.mlp);
    if strategy == Strategy::Megatron && cx.ranks.len() > 1 {
        let first = (&image.0, text.as_ref().map(|(first, _)| first));
        let second = (&image.1, text.as_ref().map(|(_, second)| second));
        return megatron::mlp(cx, x, first, second, out);
    }
    let segments = [
        Some(("", x.image, image, out.image)),
        x.text.zip(text).zip(out.text).map(|((x, w), out)| (" text", x, w, out)),
    ];
    for (name, x, (first, second), out) in segments.into_iter().flatten() {
        let hidden = cx.temp(&format!("mlp hidden{name}"), [x.shape[0], x.shape[1], 1, first.weight.shape[1]]);
        linear(cx, &format!("mlp fc1{name}"), x, &first, Epilogue::Gelu, hidden);
        linear(cx, &format!("mlp fc2{name}"), hidden, &second, Epilogue::None, out);
    }
}

/// `out = epilogue(x·Wᵀ + bias)` on this rank's rows, for epilogues without operands.
pub(crate) fn linear(cx: &mut Context, label: &str, x: View, linear: &Linear, epilogue: Epilogue, out: View) {
    linear_with(cx, label, x, linear, epilogue, &[], out);
}

/// [`linear`] with the operands that the epilogue reads.
pub(crate) fn linear_with(
    cx: &mut Context,
    label: &str,
    x: View,
    linear: &Linear,
    epilogue: Epilogue,
    extra: &[View],
    out: View,
) {
    if x.is_empty() {
        return;
    }
    let [_, cols, _, k] = linear.weight.shape;
    let spec = Gemm::linear(cx.problem.dtype, x.shape[0], x.shape[1], k, cols, linear.bias.is_some(), epilogue);
    let mut operands = vec![vec![linear.weight]];
    operands.extend(linear.bias.map(|bias| vec![bias]));
    operands.extend([vec![x], vec![out]]);
    operands.extend(extra.iter().map(|view| vec![*view]));
    let label = cx.label(label);
    cx.b.kernel(cx.compute, label, Kernel::Gemm(spec), &operands);
}
