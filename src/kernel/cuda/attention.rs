//! Launches of attention forward: operands as the kernels' parameter struct, cut where one launch
//! cannot hold them. Row runs of a query operand become query segments, up to four a launch; head
//! runs of lse, m or l become launches.
//!
//! Refuses keys, values and masks of one segment that lie in several tensors: a key tile would lie
//! in two.

use std::ops::Range;

use bytemuck::Zeroable;

use super::params::{
    SEQPAR_MAX_KEY_SEGMENTS, SEQPAR_MAX_QUERY_SEGMENTS, SeqparAttention, SeqparKeySegment, SeqparQuerySegment,
    SeqparView,
};
use super::runs::{int, runs};
use super::{Arch, Device, Launch, attention_sm90};
use crate::kernel::check::TensorView;
use crate::kernel::spec::Attention;

type Operands = [Vec<TensorView>];

/// `row_tile`: rows of a block; `None`: what the cost model says.
pub(super) fn attention(
    spec: &Attention,
    operands: &Operands,
    device: &Device,
    row_tile: Option<u32>,
) -> Result<Vec<Launch>, String> {
    match device.arch {
        Arch::Sm90 => attention_sm90::attention(spec, operands, device, row_tile),
        Arch::Sm80 => Err("there is no such kernel".into()),
    }
}

/// The launches' parameters, without what depends on the row tile.
pub(super) fn parameters(spec: &Attention, operands: &Operands) -> Result<Vec<SeqparAttention>, String> {
    if !(spec.scale >= 0.0 && spec.scale.is_finite()) {
        return Err(format!("a scale of {}: use a positive one", spec.scale));
    }
    let per_query = spec.query_operands();
    let (queries, keys) = operands.split_at(spec.queries.len() * per_query);
    let mut whole = SeqparAttention {
        batch: int(spec.batch)?,
        group: int(spec.group)?,
        head_dim: int(spec.head_dim)?,
        first_kv_head: int(spec.first_kv_head)?,
        carry_in: i32::from(spec.carry_in),
        carry_out: i32::from(spec.carry_out),
        scale_log2: (f64::from(spec.scale) * std::f64::consts::LOG2_E) as f32,
        ..SeqparAttention::zeroed()
    };
    set_keys(&mut whole, spec, keys)?;
    let mut launches = Vec::new();
    for heads in head_runs(spec, queries) {
        let mut segments = Vec::new();
        for (rows, own) in spec.queries.iter().zip(queries.chunks(per_query)) {
            let cut: Vec<&[TensorView]> = row_operands(spec, own).collect();
            for run in runs(&cut) {
                debug_assert!(run.end <= *rows);
                segments.push(query_segment(spec, own, &heads, &run)?);
            }
        }
        for chunk in segments.chunks(SEQPAR_MAX_QUERY_SEGMENTS as usize) {
            let mut base = SeqparAttention {
                query_segments: int(chunk.len())?,
                heads: int(heads.len())?,
                first_head: int(spec.first_head + heads.start)?,
                ..whole
            };
            base.queries[..chunk.len()].copy_from_slice(chunk);
            if spec.batch > 0 && !heads.is_empty() {
                launches.push(base);
            }
        }
    }
    Ok(launches)
}

/// q, and out or o: what has rows of its own.
fn row_operands<'a>(spec: &Attention, own: &'a Operands) -> impl Iterator<Item = &'a [TensorView]> {
    let out = (!spec.carry_out).then_some(1);
    let o = (spec.carry_in || spec.carry_out).then_some(spec.query_operands() - 1);
    [Some(0), out, o].into_iter().flatten().map(|i| own[i].as_slice())
}

/// lse, m and l, which are cut along the heads.
fn head_operands<'a>(spec: &Attention, own: &'a Operands) -> impl Iterator<Item = &'a [TensorView]> {
    let lse = (!spec.carry_out).then_some(2);
    let carried = spec.carry_in || spec.carry_out;
    let m = carried.then(|| spec.query_operands() - 3);
    [lse, m, m.map(|m| m + 1)].into_iter().flatten().map(|i| own[i].as_slice())
}

fn head_runs(spec: &Attention, queries: &Operands) -> Vec<Range<usize>> {
    let own = queries.chunks(spec.query_operands());
    let cut: Vec<&[TensorView]> = own.flat_map(|own| head_operands(spec, own)).filter(|t| !t.is_empty()).collect();
    runs(&cut)
}

fn query_segment(
    spec: &Attention,
    own: &Operands,
    heads: &Range<usize>,
    rows: &Range<usize>,
) -> Result<SeqparQuerySegment, String> {
    let mut own = own.iter();
    let mut next = || own.next().map_or(&[][..], Vec::as_slice);
    let mut s = SeqparQuerySegment { rows: int(rows.len())?, ..SeqparQuerySegment::zeroed() };
    s.q = head_view(next(), spec.heads, spec.head_dim, heads.start, rows)?;
    if !spec.carry_out {
        s.out = head_view(next(), spec.heads, spec.head_dim, heads.start, rows)?;
        (s.lse, s.lse_batch, s.lse_head) = scalars(next(), heads, rows)?;
    }
    if spec.carry_in || spec.carry_out {
        (s.m, s.m_batch, s.m_head) = scalars(next(), heads, rows)?;
        (s.l, s.l_batch, s.l_head) = scalars(next(), heads, rows)?;
        s.o = head_view(next(), spec.heads, spec.head_dim, heads.start, rows)?;
    }
    Ok(s)
}

fn set_keys(p: &mut SeqparAttention, spec: &Attention, operands: &Operands) -> Result<(), String> {
    let per_segment = spec.key_operands();
    let mut count = 0;
    for (key, own) in spec.keys.iter().zip(operands.chunks(per_segment)).filter(|(key, _)| key.len > 0) {
        let rows = 0..key.len;
        let view = |tensors: &[TensorView]| head_view(one(tensors)?, spec.kv_heads, spec.head_dim, 0, &rows);
        let slot = p.keys.get_mut(count).ok_or_else(|| {
            format!("more than {SEQPAR_MAX_KEY_SEGMENTS} key segments: attend to some of them in a launch of their own, carrying")
        })?;
        *slot = SeqparKeySegment {
            k: view(&own[0])?,
            v: view(&own[1])?,
            len: int(key.len)?,
            base: int(key.base)?,
            stream: int(key.stream)?,
            ..SeqparKeySegment::zeroed()
        };
        if spec.key_mask {
            let mask = head_view(one(&own[2])?, 1, 1, 0, &rows)?;
            (slot.mask, slot.mask_batch, slot.mask_row) = (mask.address, mask.batch, mask.row);
        }
        count += 1;
    }
    p.key_segments = int(count)?;
    if spec.key_len {
        let lengths = head_view(one(&operands[spec.keys.len() * per_segment])?, 1, 1, 0, &(0..2))?;
        (p.key_len, p.key_len_batch, p.key_len_row) = (lengths.address, lengths.batch, lengths.row);
    }
    Ok(())
}

/// The only tensor of an operand that has rows.
fn one(tensors: &[TensorView]) -> Result<&[TensorView], String> {
    let mut with_rows = tensors.iter().enumerate().filter(|(_, t)| t.shape[1] > 0);
    match (with_rows.next(), with_rows.next()) {
        (Some((i, _)), None) => Ok(&tensors[i..=i]),
        _ => Err("a key segment in several tensors: copy it into one, or make a segment of each".into()),
    }
}

/// Rows `rows` from head `head` on of `[B, rows, heads, dim]`, given so or as `[B, rows, 1, heads·dim]`.
fn head_view(
    tensors: &[TensorView],
    heads: usize,
    dim: usize,
    head: usize,
    rows: &Range<usize>,
) -> Result<SeqparView, String> {
    let (tensor, first) = tensor_of(tensors, rows)?;
    let stride = if tensor.shape[2] == heads { tensor.strides[2] } else { dim };
    let elems = (rows.start - first) * tensor.strides[1] + head * stride;
    Ok(SeqparView {
        address: tensor.address + (elems * tensor.dtype.bytes()) as u64,
        batch: signed(tensor.strides[0])?,
        row: signed(tensor.strides[1])?,
        head: signed(stride)?,
    })
}

/// Address, batch and head stride of f32 `[B, heads, 1, rows]` from the given head and row on.
fn scalars(
    tensors: &[TensorView],
    heads: &Range<usize>,
    rows: &Range<usize>,
) -> Result<(u64, i64, i64), String> {
    let (tensor, first) = tensor_of(tensors, heads)?;
    let elems = (heads.start - first) * tensor.strides[1] + rows.start;
    let address = tensor.address + (elems * tensor.dtype.bytes()) as u64;
    Ok((address, signed(tensor.strides[0])?, signed(tensor.strides[1])?))
}

fn tensor_of<'a>(tensors: &'a [TensorView], run: &Range<usize>) -> Result<(&'a TensorView, usize), String> {
    let mut first = 0;
    for tensor in tensors {
        if run.start < first + tensor.shape[1] {
            return Ok((tensor, first));
        }
        first += tensor.shape[1];
    }
    Err(format!("{run:?} of an operand of {first}"))
}

fn signed(elems: usize) -> Result<i64, String> {
    i64::try_from(elems).map_err(|_| format!("a stride of {elems} elements"))
}
