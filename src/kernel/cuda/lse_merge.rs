//! Merge of two attention results over disjoint keys: no plan needs it (launches carry their
//! state), frameworks that hold two results do.

use super::params::SeqparLseMerge;
use super::runs::{aligned, blocks, int, view};
use super::{Device, Launch, half_name};
use crate::error::{Error, Result};
use crate::kernel::check::TensorView;

pub(super) const THREADS: u32 = 256;

/// Operands: results `[B, rows, H, D]` in bf16 or f16, log-sum-exps `[B, H, 1, rows]` in f32 with
/// equal strides. `out` and `lse` may be those of `a` or `b`.
#[derive(Clone, Copy, Debug)]
pub struct LseMerge {
    /// First result.
    pub out_a: TensorView,
    /// Its log-sum-exp.
    pub lse_a: TensorView,
    /// Second result.
    pub out_b: TensorView,
    /// Its log-sum-exp.
    pub lse_b: TensorView,
    /// Result over both.
    pub out: TensorView,
    /// Its log-sum-exp.
    pub lse: TensorView,
}

/// The launch that merges.
///
/// # Errors
/// Shapes that differ, f32 results, addresses or strides that are not multiples of 16 bytes.
pub fn lse_merge(operands: &LseMerge, device: &Device) -> Result<Launch> {
    build(operands, device).map_err(|why| Error::Unsupported(format!("lse_merge on CUDA: {why}")))
}

fn build(operands: &LseMerge, device: &Device) -> Result<Launch, String> {
    let LseMerge { out_a, lse_a, out_b, lse_b, out, lse } = *operands;
    let [batch, rows, heads, dim] = out.shape;
    if out_a.shape != out.shape || out_b.shape != out.shape || !dim.is_multiple_of(8) {
        return Err(format!("results {:?} and {:?} to {:?}: give equal shapes", out_a.shape, out_b.shape, out.shape));
    }
    for l in [lse_a, lse_b, lse] {
        if l.shape != [batch, heads, 1, rows] || l.strides != lse.strides {
            return Err(format!("lse {:?}: give [{batch}, {heads}, 1, {rows}] of equal strides", l.shape));
        }
    }
    let whole = |t: &TensorView| {
        let v = view(std::slice::from_ref(t), &(0..t.shape[1]))?;
        let fits = t.dtype == out.dtype && aligned(&v, 2) && v.head % 8 == 0;
        if fits { Ok(v) } else { Err("an address or stride is not a multiple of 16 bytes".to_string()) }
    };
    let p = SeqparLseMerge {
        out_a: whole(&out_a)?,
        out_b: whole(&out_b)?,
        out: whole(&out)?,
        lse_a: lse_a.address,
        lse_b: lse_b.address,
        lse: lse.address,
        lse_batch: lse.strides[0] as i64,
        lse_head: lse.strides[1] as i64,
        batch: int(batch)?,
        rows: int(rows)?,
        heads: int(heads)?,
        head_dim: int(dim)?,
    };
    let runs = batch * rows * heads;
    int(runs)?;
    Ok(Launch {
        symbol: format!("lse_merge_{}", half_name(out.dtype)?),
        grid: [blocks(runs, 8, device), 1, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
        params: bytemuck::bytes_of(&p).to_vec(),
        maps: Vec::new(),
    })
}
