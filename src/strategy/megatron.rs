//! Megatron-style tensor parallelism with sequence-parallel ends: AllGather of x, column-parallel
//! linears, row-parallel linears whose partial sums travel in f32, ReduceScatter of the result.
//! A baseline: it reorders sums (R2) and hides nothing. Korthikanti et al., arXiv 2205.05198.

use std::ops::Range;

use super::attend::{KeyLimits, Queries, Step, attend, image_positions};
use super::context::{Context, Tokens};
use super::fastseq::{Layer, project_whole_text, room, slots};
use super::project::project;
use super::weights::{LayerWeights, Linear};
use crate::dtype::Dtype;
use crate::kernel::spec::{Epilogue, Gemm, Kernel};
use crate::plan::{CommKind, Direction, View};
use crate::shard::{IndexMap, even_range};

/// Attention and output projection of the layer into `out [B, n, 1, C]`.
pub(super) fn attention_layer(
    cx: &mut Context,
    layer: &Layer,
    weights: &LayerWeights,
    text_weights: Option<&LayerWeights>,
    limits: KeyLimits,
    out: &Tokens,
) {
    let ranks = cx.ranks.len();
    let heads = cx.heads(ranks, cx.me);
    let order: Vec<usize> = (0..ranks).map(|k| (cx.me + k) % ranks).collect();
    let slots = slots(cx, layer, &order);
    all_gather(cx, "all-gather x", &order, &slots);
    let mut room = room(cx, layer, &heads, &order, &slots);
    project_whole_text(cx, layer, &heads, &mut room.projected);
    if let Some(text) = &layer.text {
        project(cx, "text chunks", &text.weights, &room.text);
    }
    project(cx, "chunks", &layer.image.weights, &room.image);

    let d = cx.problem.head_dim;
    let head_rows =
        |cx: &mut Context, name: &str, rows: usize| cx.temp(name, [cx.problem.batch, rows, heads.q.len(), d]);
    let mut queries = Vec::new();
    let mut whole_text = None;
    if let Some((q, rows)) = room.projected.whole_text {
        let text = head_rows(cx, "text head out", rows);
        queries.push(Queries { q, out: text, positions: IndexMap::contiguous(0..rows) });
        whole_text = Some(text);
    }
    let mut inputs = Vec::new();
    for (s, q, text_q) in room.projected.queries {
        let image = head_rows(cx, &format!("head out {s}"), cx.image_map(s).len());
        let text = text_q.map(|q| {
            let positions = cx.text_map(s);
            let text = head_rows(cx, &format!("text head out {s}"), positions.len());
            queries.push(Queries { q, out: text, positions });
            text
        });
        queries.push(Queries { q, out: image, positions: image_positions(cx, cx.image_map(s)) });
        inputs.push((s, Tokens { image, text }));
    }
    attend(cx, "attention", &heads, &queries, &room.projected.keys, limits, Step::Whole);
    let columns = heads.q.start * d..heads.q.end * d;
    let linears = (&weights.proj, text_weights.map(|w| &w.proj));
    row_parallel(cx, "proj", &inputs, whole_text, linears, columns, out);
}

/// The MLP: column-parallel first linear, row-parallel second.
pub(super) fn mlp(
    cx: &mut Context,
    x: &Tokens,
    first: (&Linear, Option<&Linear>),
    second: (&Linear, Option<&Linear>),
    out: &Tokens,
) {
    let ranks = cx.ranks.len();
    let order: Vec<usize> = (0..ranks).map(|k| (cx.me + k) % ranks).collect();
    let split_text = x.text.filter(|_| cx.replicated_text() == 0);
    let hidden = x.image.shape[2] * x.image.shape[3];
    let width = first.0.weight.shape[1];
    let columns = even_range(width, ranks, cx.me);
    let shape = |cx: &Context, rows: usize, cols: usize| [cx.problem.batch, rows, 1, cols];
    let mut slots = vec![[x.image].into_iter().chain(split_text).collect::<Vec<View>>()];
    let shapes = order[1..].iter().map(|&s| {
        let text = split_text.map(|_| shape(cx, cx.text_map(s).len(), hidden));
        [shape(cx, cx.image_map(s).len(), hidden)].into_iter().chain(text).collect()
    });
    let shapes: Vec<Vec<[usize; 4]>> = shapes.collect();
    slots.extend(cx.slots("gathered mlp x", cx.problem.dtype, &shapes).into_iter().map(|slot| slot.parts));
    all_gather(cx, "all-gather mlp x", &order, &slots);

    let mut inputs = Vec::new();
    let (mut image_chunks, mut text_chunks) = (Vec::new(), Vec::new());
    for (slot, &s) in slots.iter().zip(&order) {
        let image = cx.temp(&format!("mlp hidden {s}"), shape(cx, cx.image_map(s).len(), columns.len()));
        image_chunks.push((slot[0], image));
        let text = slot.get(1).map(|&x| {
            let out = cx.temp(&format!("mlp text hidden {s}"), shape(cx, cx.text_map(s).len(), columns.len()));
            text_chunks.push((x, out));
            out
        });
        inputs.push((s, Tokens { image, text }));
    }
    let whole_text = x.text.filter(|_| cx.replicated_text() > 0).map(|x| {
        let out = cx.temp("mlp text hidden", shape(cx, x.shape[1], columns.len()));
        text_chunks.push((x, out));
        out
    });
    column_parallel(cx, "mlp fc1", first.0, &image_chunks, &columns);
    if let Some(linear) = first.1 {
        column_parallel(cx, "mlp fc1 text", linear, &text_chunks, &columns);
    }
    row_parallel(cx, "mlp fc2", &inputs, whole_text, second, columns, out);
}

fn all_gather(cx: &mut Context, label: &str, order: &[usize], slots: &[Vec<View>]) {
    let members: Vec<usize> = (0..order.len()).collect();
    for (part, name) in ["", " text"].iter().enumerate().take(slots[0].len()) {
        let sends = order[1..].iter().map(|&s| (Direction::Send, s, slots[0][part]));
        let recvs = order.iter().zip(slots).skip(1).map(|(&s, slot)| (Direction::Recv, s, slot[part]));
        let transfers: Vec<_> = sends.chain(recvs).collect();
        cx.communicate(&format!("{label}{name}"), CommKind::AllGather, &members, cx.problem.dtype, &transfers);
    }
}

/// `gelu(x·W[columns]ᵀ + bias[columns])` of every chunk.
fn column_parallel(cx: &mut Context, label: &str, linear: &Linear, chunks: &[(View, View)], columns: &Range<usize>) {
    let chunks: Vec<_> = chunks.iter().filter(|(x, out)| !x.is_empty() && !out.is_empty()).collect();
    if chunks.is_empty() {
        return;
    }
    let mut operands = vec![vec![linear.weight.rows(columns.clone())]];
    operands.extend(linear.bias.map(|bias| vec![bias.cols(columns.clone())]));
    operands.extend(chunks.iter().flat_map(|(x, out)| [vec![*x], vec![*out]]));
    let spec = Gemm {
        chunks: chunks.iter().map(|(x, _)| x.shape[1]).collect(),
        ..Gemm::linear(
            cx.problem.dtype,
            cx.problem.batch,
            0,
            linear.weight.shape[3],
            columns.len(),
            linear.bias.is_some(),
            Epilogue::Gelu,
        )
    };
    let label = cx.label(label);
    cx.b.kernel(cx.compute, label, Kernel::Gemm(spec), &operands);
}

/// Partial sums over this rank's `columns` of the weight, for the rows of every rank; each rank
/// receives the sum of its own rows, in group order, and rounds once. The first rank adds the
/// bias.
fn row_parallel(
    cx: &mut Context,
    label: &str,
    inputs: &[(usize, Tokens)],
    whole_text: Option<View>,
    linears: (&Linear, Option<&Linear>),
    columns: Range<usize>,
    out: &Tokens,
) {
    let hidden = linears.0.weight.shape[1];
    let shape = |rows: usize| [cx.problem.batch, rows, 1, hidden];
    let shapes_of = |tokens: &Tokens| {
        [Some(tokens.image), tokens.text].iter().flatten().map(|view| shape(view.shape[1])).collect::<Vec<_>>()
    };
    let shapes: Vec<_> = inputs.iter().map(|(_, tokens)| shapes_of(tokens)).collect();
    let own_shapes: Vec<_> = inputs.iter().filter(|(s, _)| *s == cx.me).map(|(_, tokens)| shapes_of(tokens)).collect();
    let partial = cx.slots(&format!("{label} partial"), Dtype::F32, &shapes);
    let sum = cx.slots(&format!("{label} sum"), Dtype::F32, &own_shapes);
    let image: Vec<_> = inputs.iter().zip(&partial).map(|((_, tokens), slot)| (tokens.image, slot.parts[0])).collect();
    partial_linear(cx, label, linears.0, &image, &columns);
    if let Some(linear) = linears.1 {
        let split =
            inputs.iter().zip(&partial).filter_map(|((_, tokens), slot)| Some((tokens.text?, *slot.parts.get(1)?)));
        let split: Vec<_> = split.collect();
        partial_linear(cx, &format!("{label} text"), linear, &split, &columns);
    }
    let members: Vec<usize> = (0..cx.ranks.len()).collect();
    let mut transfers: Vec<_> =
        inputs.iter().zip(&partial).map(|((s, _), slot)| (Direction::Send, *s, slot.whole)).collect();
    transfers.push((Direction::Recv, cx.me, sum[0].whole));
    cx.communicate(&format!("reduce-scatter {label}"), CommKind::ReduceScatter, &members, Dtype::F32, &transfers);
    let mut copies = vec![(sum[0].parts[0], vec![out.image])];
    if let (Some(&text), Some(out)) = (sum[0].parts.get(1), out.text) {
        copies.push((text, vec![out]));
    }
    if let (Some(text), Some(linear), Some(out)) = (whole_text, linears.1, out.text) {
        let name = cx.label(&format!("{label} text partial"));
        let partial = cx.b.temp(name, Dtype::F32, shape(out.shape[1]));
        let name = cx.label(&format!("{label} text sum"));
        let sum = cx.b.temp(name, Dtype::F32, partial.shape);
        partial_linear(cx, &format!("{label} text"), linear, &[(text, partial)], &columns);
        let mut transfers: Vec<_> = members.iter().map(|&s| (Direction::Send, s, partial)).collect();
        transfers.push((Direction::Recv, cx.me, sum));
        cx.communicate(&format!("all-reduce {label} text"), CommKind::AllReduce, &members, Dtype::F32, &transfers);
        copies.push((sum, vec![out]));
    }
    cx.pack(&format!("round {label}"), Dtype::F32, cx.problem.dtype, &copies);
}

fn partial_linear(cx: &mut Context, label: &str, linear: &Linear, chunks: &[(View, View)], columns: &Range<usize>) {
    let chunks: Vec<_> = chunks.iter().filter(|(_, out)| !out.is_empty()).collect();
    if chunks.is_empty() {
        return;
    }
    let bias = linear.bias.filter(|_| cx.me == 0);
    let hidden = linear.weight.shape[1];
    let mut operands = vec![vec![linear.weight.cols(columns.clone())]];
    operands.extend(bias.map(|bias| vec![bias]));
    operands.extend(chunks.iter().flat_map(|(x, out)| [vec![*x], vec![*out]]));
    let spec = Gemm {
        out_dtype: Dtype::F32,
        chunks: chunks.iter().map(|(_, out)| out.shape[1]).collect(),
        ..Gemm::linear(cx.problem.dtype, cx.problem.batch, 0, columns.len(), hidden, bias.is_some(), Epilogue::None)
    };
    let label = cx.label(&format!("{label} partial"));
    cx.b.kernel(cx.compute, label, Kernel::Gemm(spec), &operands);
}
