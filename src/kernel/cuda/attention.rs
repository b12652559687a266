//! Launches of attention forward: parameters, row tiles, tensor maps.
//!
//! Any number of query segments and tensors of them: a launch takes the first
//! `SEQPAR_MAX_QUERY_SEGMENTS` pieces, the next launch the others (rows are alone). A key segment
//! must be one tensor, because key tiles are cut from its start: pack it first where it is not.

pub(super) mod sm80;
pub(super) mod sm90;

use bytemuck::Zeroable;

use super::params::{
    SEQPAR_MAX_KEY_SEGMENTS, SEQPAR_MAX_QUERY_SEGMENTS, SeqparAttention, SeqparGate, SeqparKeySegment,
    SeqparQuerySegment,
};
use super::runs::{aligned, int, runs, view};
use super::{Arch, AttentionOptions, Device, Launch, half_name};
use crate::kernel::check::TensorView;
use crate::kernel::spec::Attention;

pub use sm90::RowTile;

type Operands = [Vec<TensorView>];

/// The smallest head dim of the kernels that holds `head_dim`.
fn padded(head_dim: usize) -> Result<usize, String> {
    if !head_dim.is_multiple_of(8) {
        return Err(format!("head dim {head_dim}: use a multiple of 8"));
    }
    let fits = |dim: &usize| *dim >= head_dim;
    [64, 72, 96, 128].into_iter().find(fits).ok_or_else(|| format!("head dim {head_dim}: 128 at most"))
}

/// See [`super::attention_row_tiles`].
pub(super) fn row_tiles(spec: &Attention, device: &Device) -> Result<Vec<RowTile>, String> {
    sm90::row_tiles(spec.batch * spec.heads, &spec.queries, padded(spec.head_dim)?, device)
}

pub(super) fn launches(
    spec: &Attention,
    operands: &Operands,
    device: &Device,
    options: &AttentionOptions,
) -> Result<Vec<Launch>, String> {
    if !(spec.scale.is_finite() && spec.scale > 0.0) {
        return Err(format!("scale {}: use a positive one", spec.scale));
    }
    let dtype = half_name(spec.dtype)?;
    let dim = padded(spec.head_dim)?;
    let keys = keys(spec, operands, options)?;
    let queries = queries(spec, operands)?;
    let mut launches = Vec::new();
    for group in queries.chunks(SEQPAR_MAX_QUERY_SEGMENTS as usize) {
        let mut p = SeqparAttention {
            query_segments: int(group.len())?,
            key_segments: int(keys.len())?,
            batch: int(spec.batch)?,
            heads: int(spec.heads)?,
            first_head: int(spec.first_head)?,
            first_kv_head: int(spec.first_kv_head)?,
            group: int(spec.group)?,
            head_dim: int(spec.head_dim)?,
            carry_in: i32::from(spec.carry_in),
            carry_out: i32::from(spec.carry_out),
            status: options.status,
            timeout_ns: options.timeout_ns,
            scale_log2: (f64::from(spec.scale) * std::f64::consts::LOG2_E) as f32,
            ..SeqparAttention::zeroed()
        };
        p.queries[..group.len()].copy_from_slice(group);
        p.keys[..keys.len()].copy_from_slice(&keys);
        if let (true, Some(lengths)) = (spec.key_len, operands.last()) {
            let lengths = view(lengths, &(0..1))?;
            (p.key_len, p.key_len_batch, p.key_len_row) = (lengths.address, lengths.batch, lengths.row);
        }
        if spec.heads > 0 && spec.batch > 0 {
            launches.push(match device.arch {
                Arch::Sm80 => sm80::launch(p, dtype, dim, device)?,
                Arch::Sm90 => sm90::launch(p, dtype, dim, spec.kv_heads, device, options.row_tile)?,
            });
        }
    }
    Ok(launches)
}

/// The pieces of all query segments that are one tensor in every operand.
fn queries(spec: &Attention, operands: &Operands) -> Result<Vec<SeqparQuerySegment>, String> {
    let per_segment = spec.query_operands();
    let mut list = Vec::new();
    for (i, _) in spec.queries.iter().enumerate() {
        let own = &operands[i * per_segment..(i + 1) * per_segment];
        let (out, lse, carry) = match (spec.carry_out, spec.carry_in) {
            (true, _) => (None, None, Some(&own[1..4])),
            (false, true) => (Some(&own[1]), Some(&own[2]), Some(&own[3..6])),
            (false, false) => (Some(&own[1]), Some(&own[2]), None),
        };
        let mut cut: Vec<&[TensorView]> = vec![&own[0]];
        cut.extend(out.map(Vec::as_slice));
        cut.extend(carry.map(|carry| carry[2].as_slice()));
        for run in runs(&cut) {
            let mut s = SeqparQuerySegment { q: view(&own[0], &run)?, rows: int(run.len())?, ..Zeroable::zeroed() };
            require_aligned("q", &s.q, 2)?;
            if let Some(out) = out {
                s.out = view(out, &run)?;
                require_aligned("out", &s.out, 2)?;
            }
            if let Some(lse) = lse {
                (s.lse, s.lse_batch, s.lse_head) = row_scalars("lse", lse, spec.heads, run.start)?;
            }
            if let Some([m, l, o]) = carry {
                (s.m, s.m_batch, s.m_head) = row_scalars("m", m, spec.heads, run.start)?;
                (s.l, s.l_batch, s.l_head) = row_scalars("l", l, spec.heads, run.start)?;
                s.o = view(o, &run)?;
                if !s.o.address.is_multiple_of(8) || (s.o.batch | s.o.row | s.o.head) % 2 != 0 {
                    return Err("o: an address or stride is not a multiple of 8 bytes".into());
                }
            }
            list.push(s);
        }
    }
    Ok(list)
}

/// One f32 a row, `[B, H, 1, rows]`, from row `first` on: address and distances of samples, heads.
fn row_scalars(name: &str, tensors: &[TensorView], heads: usize, first: usize) -> Result<(u64, i64, i64), String> {
    let [tensor] = tensors else {
        return Err(format!("{name} in {} tensors: give it as one", tensors.len()));
    };
    if tensor.shape[1] != heads || tensor.shape[2] != 1 {
        return Err(format!("{name} as {:?}: give it as [B, {heads}, 1, rows]", tensor.shape));
    }
    let v = view(tensors, &(0..heads))?;
    Ok((v.address + 4 * first as u64, v.batch, v.row))
}

fn keys(spec: &Attention, operands: &Operands, options: &AttentionOptions) -> Result<Vec<SeqparKeySegment>, String> {
    if !options.gates.is_empty() && options.gates.len() != spec.keys.len() {
        return Err(format!("{} gates for {} key segments", options.gates.len(), spec.keys.len()));
    }
    if spec.keys.len() > SEQPAR_MAX_KEY_SEGMENTS as usize {
        return Err(format!("{} key segments: {SEQPAR_MAX_KEY_SEGMENTS} at most", spec.keys.len()));
    }
    let first = spec.queries.len() * spec.query_operands();
    let mut list = Vec::new();
    for (i, key) in spec.keys.iter().enumerate() {
        let own = &operands[first + i * spec.key_operands()..];
        let mut s = SeqparKeySegment {
            len: int(key.len)?,
            base: int(key.base)?,
            stream: int(key.stream)?,
            ..SeqparKeySegment::zeroed()
        };
        if let Some(Some(gate)) = options.gates.get(i) {
            s.gate = SeqparGate { flag: gate.flag, epoch: gate.epoch, reserved: 0 };
        }
        if key.len > 0 {
            s.k = one_tensor("k", &own[0], key.len)?;
            s.v = one_tensor("v", &own[1], key.len)?;
            require_aligned("k", &s.k, 2)?;
            require_aligned("v", &s.v, 2)?;
            if spec.key_mask {
                let mask = one_tensor("mask", &own[2], key.len)?;
                (s.mask, s.mask_batch, s.mask_row) = (mask.address, mask.batch, mask.row);
            }
        }
        list.push(s);
    }
    Ok(list)
}

fn one_tensor(name: &str, tensors: &[TensorView], rows: usize) -> Result<super::params::SeqparView, String> {
    let filled: Vec<TensorView> = tensors.iter().filter(|t| t.shape[1] > 0).copied().collect();
    if filled.len() > 1 {
        return Err(format!("{name} in {} tensors: pack the segment into one first", filled.len()));
    }
    view(&filled, &(0..rows))
}

fn require_aligned(name: &str, view: &super::params::SeqparView, elem_bytes: usize) -> Result<(), String> {
    let heads = view.head % (16 / elem_bytes as i64) == 0;
    if aligned(view, elem_bytes) && heads {
        return Ok(());
    }
    Err(format!("{name}: an address or stride is not a multiple of 16 bytes: copy it first"))
}

/// Fills `first_tile` and `row_tiles` for tiles of `rows` rows.
fn tile_rows(p: &mut SeqparAttention, rows: i32) {
    p.row_tiles = 0;
    for s in &mut p.queries[..p.query_segments as usize] {
        s.first_tile = p.row_tiles;
        p.row_tiles += (s.rows + rows - 1) / rows;
    }
}
