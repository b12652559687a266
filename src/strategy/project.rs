//! Where q, k and v of a rank's tokens come from: given, or projected from x with a slice of the
//! weight, whose rows are ordered (q heads, k heads, v heads) and used in place.

use super::context::Context;
use super::heads::HeadSlice;
use crate::kernel::spec::{Epilogue, Gemm, Kernel, QkNormRope, RopePairs};
use crate::plan::View;
use crate::shard::IndexMap;

/// q, k and v of one segment on one rank.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // Two or three a plan, never stored in number.
pub(crate) enum Source {
    /// `q [B, n, H, D]`, `k`, `v [B, m, Hkv, D]`, already there.
    Given { q: View, k: View, v: View },
    /// To be projected from x.
    Project(Projection),
}

/// A projection to q, k and v.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    /// `[B, n, 1, C]`.
    pub(crate) x: View,
    pub(crate) weights: QkvWeights,
    /// Global index of each row, for the rotary table.
    pub(crate) map: IndexMap,
}

/// Weights of the projection, whole on every rank.
#[derive(Clone, Debug)]
pub(crate) struct QkvWeights {
    /// `[1, (H + 2·Hkv)·D, 1, C]`.
    pub(crate) weight: View,
    /// `[1, 1, 1, (H + 2·Hkv)·D]`.
    pub(crate) bias: Option<View>,
    /// eps, q weight and k weight `[1, 1, 1, D]`.
    pub(crate) norm: Option<(f32, View, View)>,
    /// Pairing, cos and sin `[1, N, 1, D/2]`.
    pub(crate) rope: Option<(RopePairs, View, View)>,
}

/// Where the projection of some heads goes; an empty list of views leaves that tensor out.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) heads: HeadSlice,
    pub(crate) q: Vec<View>,
    pub(crate) k: Vec<View>,
    pub(crate) v: Vec<View>,
}

/// Text and image sources of a rank.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) image: Source,
    pub(crate) text: Option<Source>,
}

impl Source {
    /// q of `heads`: the given tensor itself, or a new temporary that [`fill`] has to write.
    pub(crate) fn q(&self, cx: &mut Context, name: &str, heads: &HeadSlice) -> (View, Vec<View>) {
        match self {
            Self::Given { q, .. } => (q.heads(heads.q.clone()), Vec::new()),
            Self::Project(projection) => {
                let shape = [cx.problem.batch, projection.map.len(), heads.q.len(), cx.problem.head_dim];
                let q = cx.temp(name, shape);
                (q, vec![q])
            }
        }
    }
}

/// Writes the parts, by one packing kernel or one projection.
pub(crate) fn fill(cx: &mut Context, label: &str, source: &Source, parts: &[Part]) {
    match source {
        Source::Given { q, k, v } => {
            let mut copies = Vec::new();
            for part in parts {
                let slices = [
                    (q.heads(part.heads.q.clone()), &part.q),
                    (k.heads(part.heads.kv.clone()), &part.k),
                    (v.heads(part.heads.kv.clone()), &part.v),
                ];
                copies
                    .extend(slices.into_iter().filter(|(_, dst)| !dst.is_empty()).map(|(src, dst)| (src, dst.clone())));
            }
            let dtype = cx.problem.dtype;
            cx.pack(&format!("pack {label}"), dtype, dtype, &copies);
        }
        Source::Project(projection) => {
            let chunk = Chunk { x: projection.x, map: projection.map.clone(), parts: parts.to_vec() };
            project(cx, label, &projection.weights, &[chunk]);
        }
    }
}

/// Rows of x and where their projection goes.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) x: View,
    pub(crate) map: IndexMap,
    pub(crate) parts: Vec<Part>,
}

/// Projects chunks of rows in one kernel, piece by piece; every chunk has parts of the same heads.
pub(crate) fn project(cx: &mut Context, label: &str, weights: &QkvWeights, chunks: &[Chunk]) {
    let chunks: Vec<&Chunk> = chunks.iter().filter(|c| !c.map.is_empty()).collect();
    let Some(first) = chunks.first() else { return };
    let (heads, kv_heads, d) = (cx.problem.heads, cx.problem.kv_heads, cx.problem.head_dim);
    let mut operands = Vec::new();
    let mut columns = Vec::new();
    for part in &first.parts {
        let kv = &part.heads.kv;
        let rows = [
            (part.heads.q.start..part.heads.q.end, &part.q),
            (heads + kv.start..heads + kv.end, &part.k),
            (heads + kv_heads + kv.start..heads + kv_heads + kv.end, &part.v),
        ];
        for (range, _) in rows.iter().filter(|(range, dst)| !range.is_empty() && !dst.is_empty()) {
            let range = range.start * d..range.end * d;
            columns.push(range.len());
            operands.push(vec![weights.weight.rows(range.clone())]);
            operands.extend(weights.bias.map(|bias| vec![bias.cols(range)]));
        }
    }
    if columns.is_empty() {
        return;
    }
    for chunk in &chunks {
        operands.push(vec![chunk.x]);
        let outputs = chunk.parts.iter().flat_map(|part| [&part.q, &part.k, &part.v]);
        operands.extend(outputs.filter(|dst| dst.iter().any(|view| !view.is_empty())).cloned());
    }
    let spec = Gemm {
        dtype: cx.problem.dtype,
        out_dtype: cx.problem.dtype,
        batch: cx.problem.batch,
        chunks: chunks.iter().map(|chunk| chunk.map.len()).collect(),
        k: first.x.shape[2] * first.x.shape[3],
        parts: columns,
        bias: weights.bias.is_some(),
        epilogue: Epilogue::None,
    };
    let text = cx.label(&format!("project {label}"));
    cx.b.kernel(cx.compute, text, Kernel::Gemm(spec), &operands);
    for chunk in &chunks {
        for part in &chunk.parts {
            norm_and_rotate(cx, label, weights, &chunk.map, part);
        }
    }
}

fn norm_and_rotate(cx: &mut Context, label: &str, weights: &QkvWeights, map: &IndexMap, part: &Part) {
    let written = |views: &[View], heads: usize| if views.is_empty() { 0 } else { heads };
    let (heads, kv_heads) = (written(&part.q, part.heads.q.len()), written(&part.k, part.heads.kv.len()));
    if (weights.norm.is_none() && weights.rope.is_none()) || heads + kv_heads == 0 {
        return;
    }
    let spec = QkNormRope {
        dtype: cx.problem.dtype,
        batch: cx.problem.batch,
        rows: map.len(),
        heads,
        kv_heads,
        head_dim: cx.problem.head_dim,
        norm_eps: weights.norm.map(|(eps, ..)| eps),
        rope: weights.rope.map(|(pairs, ..)| pairs),
    };
    let mut operands = vec![part.q.clone(), part.k.clone()];
    if let Some((_, q_weight, k_weight)) = weights.norm {
        operands.extend([vec![q_weight], vec![k_weight]]);
    }
    if let Some((_, cos, sin)) = weights.rope {
        let rows = |table: View| map.runs().iter().map(|run| table.rows(run.start..run.start + run.len)).collect();
        operands.extend([rows(cos), rows(sin)]);
    }
    let text = cx.label(&format!("norm+rope {label}"));
    cx.b.kernel(cx.compute, text, Kernel::QkNormRope(spec), &operands);
}
