//! Attention launches: query segments against key segments, whole or carried around a ring.

use super::context::{Context, part};
use super::heads::HeadSlice;
use crate::dtype::Dtype;
use crate::kernel::spec::{Attention, Kernel, KeySegment};
use crate::plan::{Role, View};
use crate::shard::IndexMap;

/// Queries of one owner and where their output goes.
#[derive(Clone, Debug)]
pub(crate) struct Queries {
    pub(crate) q: View,
    pub(crate) out: View,
    /// Global position of each row in `lse [B, H, 1, T+N]`.
    pub(crate) positions: IndexMap,
}

/// Keys and values of one stream (0 text, 1 image) in global order.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) k: View,
    pub(crate) v: View,
    /// Global tokens, ascending; each run becomes a segment.
    pub(crate) map: IndexMap,
    pub(crate) stream: usize,
}

/// Inputs that every launch may read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyLimits {
    /// `[B, T+M, 1, 1]`.
    pub(crate) mask: Option<View>,
    /// `[B, 2, 1, 1]`.
    pub(crate) len: Option<View>,
}

/// Running maximum, sum and output of each query segment between the steps of a ring.
pub(crate) struct Carry {
    state: Vec<[View; 3]>,
}

/// Positions of image rows behind the text in `lse`.
pub(crate) fn image_positions(cx: &Context, map: &IndexMap) -> IndexMap {
    let text = cx.problem.shard.text.len();
    IndexMap::from_runs(map.runs().iter().map(|run| crate::shard::Run { start: run.start + text, len: run.len }))
}

/// Which part of the softmax one launch computes.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    /// All keys at once.
    Whole,
    /// One step of a ring: `first` starts the carried state, `last` turns it into out and lse.
    Ring { carry: &'a Carry, first: bool, last: bool },
}

impl Carry {
    /// State for the given queries, in f32.
    pub(crate) fn new(cx: &mut Context, heads: &HeadSlice, queries: &[Queries]) -> Self {
        let (batch, d) = (cx.problem.batch, cx.problem.head_dim);
        let temp = |cx: &mut Context, name: &str, shape| {
            let name = cx.label(name);
            cx.b.temp(name, Dtype::F32, shape)
        };
        let mut state = Vec::new();
        for segment in queries {
            let rows = segment.positions.len();
            let row_state = [batch, heads.q.len(), 1, rows];
            state.push([
                temp(cx, "carry m", row_state),
                temp(cx, "carry l", row_state),
                temp(cx, "carry o", [batch, rows, heads.q.len(), d]),
            ]);
        }
        Self { state }
    }
}

/// One launch: the queries against the keys.
pub(crate) fn attend(
    cx: &mut Context,
    label: &str,
    heads: &HeadSlice,
    queries: &[Queries],
    keys: &[Keys],
    limits: KeyLimits,
    step: Step,
) {
    if heads.is_empty() || queries.iter().all(|segment| segment.positions.is_empty()) {
        return;
    }
    let (carry, carry_in, last) = match step {
        Step::Whole => (None, false, true),
        Step::Ring { carry, first, last } => (Some(carry), !first, last),
    };
    let carry_out = !last;
    let mut operands = Vec::new();
    let mut rows = Vec::new();
    for (i, segment) in queries.iter().enumerate().filter(|(_, s)| !s.positions.is_empty()) {
        rows.push(segment.positions.len());
        operands.push(vec![segment.q]);
        if last {
            operands.push(vec![segment.out]);
            operands.push(vec![lse(cx, label, heads, i, &segment.positions)]);
        }
        if carry_in || carry_out {
            operands.extend(carry.iter().flat_map(|carry| carry.state[i]).map(|view| vec![view]));
        }
    }
    let mut segments = Vec::new();
    for stream in keys {
        let mask_start = if stream.stream == 1 { cx.problem.shard.text.len() } else { 0 };
        let mut row = 0;
        for run in stream.map.runs() {
            segments.push(KeySegment { len: run.len, base: run.start, stream: stream.stream });
            operands.push(vec![stream.k.rows(row..row + run.len)]);
            operands.push(vec![stream.v.rows(row..row + run.len)]);
            let tokens = mask_start + run.start..mask_start + run.start + run.len;
            operands.extend(limits.mask.map(|mask| vec![mask.rows(tokens)]));
            row += run.len;
        }
    }
    operands.extend(limits.len.map(|len| vec![len]));
    let spec = Attention {
        dtype: cx.problem.dtype,
        batch: cx.problem.batch,
        heads: heads.q.len(),
        kv_heads: heads.kv.len(),
        head_dim: cx.problem.head_dim,
        first_head: heads.q.start,
        first_kv_head: heads.kv.start,
        group: cx.group(),
        scale: (1.0 / (cx.problem.head_dim as f64).sqrt()) as f32,
        queries: rows,
        keys: segments,
        key_mask: limits.mask.is_some(),
        key_len: limits.len.is_some(),
        carry_in,
        carry_out,
    };
    let text = cx.label(label);
    cx.b.kernel(cx.compute, text, Kernel::Attention(spec), &operands);
}

/// Where the log-sum-exp goes: it stays on the rank that computed it, whoever owns the token.
fn lse(cx: &mut Context, label: &str, heads: &HeadSlice, segment: usize, positions: &IndexMap) -> View {
    let rows = positions.len();
    let name = cx.label(&format!("lse {label}[{segment}]"));
    if !cx.lse_output {
        return cx.b.temp(name, Dtype::F32, [cx.problem.batch, heads.q.len(), 1, rows]);
    }
    let tokens = cx.problem.shard.text.len() + cx.problem.shard.image.len();
    let dims = [cx.problem.batch, cx.problem.heads, 1, tokens];
    let index = [None, part(heads.q.clone()), None, Some(positions.clone())];
    cx.bound_as(&name, Role::Output, "lse", Dtype::F32, dims, index, true)
}
