//! Launches of QK norm and rotary embedding.

use std::ops::Range;

use bytemuck::Zeroable;

use super::params::{SeqparQkNormRope, SeqparView};
use super::runs::{aligned, blocks, int, runs, view};
use super::variants::Block;
use super::{Device, Launch, half_name};
use crate::kernel::check::TensorView;
use crate::kernel::spec::{QkNormRope, RopePairs};

const THREADS: u32 = 256;
const HEADS_OF_BLOCK: usize = 64;

/// A block at one head dim.
pub(super) fn block(head_dim: usize) -> Block {
    Block { threads: THREADS, shared_bytes: (HEADS_OF_BLOCK * (head_dim / 2 + 4) * 4) as u32 }
}

pub(super) fn launches(
    spec: &QkNormRope,
    operands: &[Vec<TensorView>],
    device: &Device,
) -> Result<Vec<Launch>, String> {
    let dtype = half_name(spec.dtype)?;
    if !spec.head_dim.is_multiple_of(8) || spec.head_dim > 256 {
        return Err(format!("head dim {}: use a multiple of 8, 256 at most", spec.head_dim));
    }
    let [q, k] = [&operands[0], &operands[1]];
    let weights = spec.norm_eps.map(|_| [&operands[2], &operands[3]]);
    let turns = spec.rope.map(|_| {
        let first = if weights.is_some() { 4 } else { 2 };
        [&operands[first], &operands[first + 1]]
    });
    let mut cut: Vec<&[TensorView]> = Vec::new();
    cut.extend((spec.heads > 0).then_some(q.as_slice()));
    cut.extend((spec.kv_heads > 0).then_some(k.as_slice()));
    cut.extend(turns.iter().flatten().map(|t| t.as_slice()));
    let mut launches = Vec::new();
    for run in runs(&cut) {
        let heads = spec.batch * run.len() * (spec.heads + spec.kv_heads);
        if heads == 0 || spec.head_dim == 0 {
            continue;
        }
        int(heads)?;
        let mut p = SeqparQkNormRope {
            batch: int(spec.batch)?,
            rows: int(run.len())?,
            heads: int(spec.heads)?,
            kv_heads: int(spec.kv_heads)?,
            head_dim: int(spec.head_dim)?,
            halves: i32::from(spec.rope == Some(RopePairs::Halves)),
            eps: spec.norm_eps.unwrap_or(0.0),
            ..SeqparQkNormRope::zeroed()
        };
        if spec.heads > 0 {
            p.q = head_view("q", q, &run)?;
        }
        if spec.kv_heads > 0 {
            p.k = head_view("k", k, &run)?;
        }
        if let Some([q_weight, k_weight]) = weights {
            (p.q_weight, p.k_weight) = (view(q_weight, &(0..1))?.address, view(k_weight, &(0..1))?.address);
            if !p.q_weight.is_multiple_of(4) || !p.k_weight.is_multiple_of(4) {
                return Err("q_weight, k_weight: an address is not a multiple of 4 bytes".into());
            }
        }
        if let Some([cos, sin]) = turns {
            let (cos, sin) = (view(cos, &run)?, view(sin, &run)?);
            (p.cos, p.cos_row, p.sin, p.sin_row) = (cos.address, cos.row, sin.address, sin.row);
        }
        let block = block(spec.head_dim);
        launches.push(Launch {
            symbol: format!("qk_norm_rope_{dtype}"),
            grid: [blocks(heads, HEADS_OF_BLOCK, device), 1, 1],
            block: [block.threads, 1, 1],
            shared_bytes: block.shared_bytes,
            params: bytemuck::bytes_of(&p).to_vec(),
            maps: Vec::new(),
        });
    }
    Ok(launches)
}

fn head_view(name: &str, tensors: &[TensorView], rows: &Range<usize>) -> Result<SeqparView, String> {
    let v = view(tensors, rows)?;
    if aligned(&v, 2) && v.head % 8 == 0 {
        return Ok(v);
    }
    Err(format!("{name}: an address or stride is not a multiple of 16 bytes: copy it first"))
}
