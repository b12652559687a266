//! The TMA and wgmma kernels, `csrc/kernels/attention_sm90.cuh`: which variant, its shared memory,
//! its tensor maps. Persistent: at most as many blocks as the device holds at once.

use std::fmt;
use std::mem::offset_of;

use bytemuck::Zeroable;

use super::super::params::{SeqparAttention, SeqparAttentionSm90, SeqparTensorMap, SeqparView};
use super::super::runs::int;
use super::super::variants::Block;
use super::super::{Device, Launch, Swizzle, TensorMap};
use super::tile_rows;

/// A head dim in shared memory, as `csrc/tile/head_sm90.cuh` says it.
struct Head {
    dim: u32,
    /// Key-tile width: part of the result (R1 rule 5).
    keys: u32,
    /// Columns of q and k past the last whole block of 64.
    tail: u32,
    value_columns: u32,
    value_block: u32,
    /// Rows of a block, and how fast a variant is per row where it fills the machine. The figures
    /// follow the bounds of the published kernels, not a measurement.
    variants: &'static [(u32, f64)],
}

const HEADS: [Head; 4] = [
    Head { dim: 64, keys: 128, tail: 0, value_columns: 64, value_block: 64, variants: THREE },
    Head { dim: 72, keys: 112, tail: 16, value_columns: 80, value_block: 16, variants: THREE },
    Head { dim: 96, keys: 96, tail: 32, value_columns: 96, value_block: 32, variants: THREE },
    Head { dim: 128, keys: 176, tail: 0, value_columns: 128, value_block: 64, variants: TWO },
];
const THREE: &[(u32, f64)] = &[(192, 1.0), (128, 0.93), (64, 0.85)];
const TWO: &[(u32, f64)] = &[(128, 1.0), (64, 0.6)];

/// One choice of the cost model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowTile {
    /// Query rows of a block.
    pub rows: u32,
    /// Blocks' worth of work.
    pub tiles: usize,
    /// The most of them that one SM gets.
    pub of_an_sm: usize,
    /// Its time for them, in rows at the fastest variant's rate.
    pub cost: f64,
}

impl fmt::Display for RowTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows: {} tiles, {} an SM, cost {:.0}", self.rows, self.tiles, self.of_an_sm, self.cost)
    }
}

/// The row tiles for query segments of `rows` rows under `heads` heads of all samples, the best
/// first. All give the same bits.
pub(super) fn row_tiles(heads: usize, rows: &[usize], dim: usize, device: &Device) -> Result<Vec<RowTile>, String> {
    let head = Head::of(dim)?;
    let choice = |&(tile_rows, rate): &(u32, f64)| {
        let tiles = heads * rows.iter().map(|n| n.div_ceil(tile_rows as usize)).sum::<usize>();
        let of_an_sm = tiles.div_ceil(device.sms.max(1) as usize);
        RowTile { rows: tile_rows, tiles, of_an_sm, cost: of_an_sm as f64 * f64::from(tile_rows) / rate }
    };
    let mut choices: Vec<RowTile> = head.variants.iter().map(choice).collect();
    choices.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    Ok(choices)
}

/// A block of the variant for row tiles of `rows` rows; `None`: no kernel of this head dim.
pub(in super::super) fn block(dim: usize, rows: u32) -> Option<Block> {
    let head = Head::of(dim).ok()?;
    Some(Block { threads: 128 + 2 * rows, shared_bytes: head.shared_bytes(rows) })
}

/// Columns that are multiplied for a score, and for a row of the output.
pub(in super::super) fn multiplied_columns(dim: usize) -> Option<[u32; 2]> {
    let head = Head::of(dim).ok()?;
    Some([64 * (head.dim / 64) + head.tail, head.value_columns])
}

/// `rows`: of a block; `None`: the best by the cost model.
pub(super) fn launch(
    base: SeqparAttention,
    dtype: &str,
    dim: usize,
    kv_heads: usize,
    device: &Device,
    rows: Option<u32>,
) -> Result<Launch, String> {
    let head = Head::of(dim)?;
    let segments: Vec<usize> = base.queries[..base.query_segments as usize].iter().map(|s| s.rows as usize).collect();
    let choices = row_tiles((base.batch * base.heads) as usize, &segments, dim, device)?;
    let choice = choices.iter().find(|choice| rows.is_none_or(|rows| choice.rows == rows));
    let rows = choice.ok_or_else(|| format!("no row tiles of {rows:?} rows at head dim {dim}"))?.rows;
    let keys = &base.keys[..base.key_segments as usize];
    let masked = base.key_len != 0 || keys.iter().any(|s| s.mask != 0);
    let mut p = SeqparAttentionSm90 { base, masked: i32::from(masked), ..SeqparAttentionSm90::zeroed() };
    tile_rows(&mut p.base, rows as i32);
    let tiles = [p.base.batch, p.base.heads, p.base.row_tiles].iter().map(|&n| n as usize).product::<usize>();
    int(tiles)?;
    let blocks = (device.sms * head.blocks_per_sm(rows)).max(1) as usize;
    let block = block(dim, rows).ok_or_else(|| format!("no kernel of head dim {dim}"))?;
    Ok(Launch {
        symbol: format!("attn_fwd_sm90_{dtype}_d{dim}_m{rows}"),
        grid: [tiles.min(blocks) as u32, 1, 1],
        block: [block.threads, 1, 1],
        shared_bytes: block.shared_bytes,
        params: bytemuck::bytes_of(&p).to_vec(),
        maps: head.maps(&p.base, rows, kv_heads),
    })
}

impl Head {
    fn of(dim: usize) -> Result<&'static Self, String> {
        HEADS.iter().find(|head| head.dim as usize == dim).ok_or_else(|| format!("no kernel of head dim {dim}"))
    }

    /// Blocks that share an SM.
    fn blocks_per_sm(&self, rows: u32) -> u32 {
        if rows == 64 && self.dim < 128 { 2 } else { 1 }
    }

    fn stages(&self, rows: u32) -> u32 {
        if rows == 64 || self.dim == 128 { 2 } else { 4 }
    }

    /// `kSharedBytes` of the variant.
    fn shared_bytes(&self, rows: u32) -> u32 {
        let row_bytes = 128 * (self.dim / 64) + 2 * self.tail;
        let stage = self.keys * (row_bytes + 2 * self.value_columns);
        let stages = self.stages(rows);
        let barriers = 8 * (2 + 5 * stages);
        let keep = 4 * stages * self.keys.div_ceil(32);
        rows * row_bytes + stages * stage + barriers + keep + 4 * stages + 1008
    }

    fn maps(&self, p: &SeqparAttention, rows: u32, kv_heads: usize) -> Vec<(usize, TensorMap)> {
        let mut maps = Vec::new();
        let mut add = |list: usize, i: usize, view: &SeqparView, extent: [usize; 2], columns: u32, box_rows: u32| {
            let [n, heads] = extent;
            let dims = [p.head_dim as u64, n as u64, heads as u64, p.batch as u64, 1];
            maps.push((list + i * size_of::<SeqparTensorMap>(), map(view, dims, columns, box_rows)));
        };
        for (i, s) in p.queries[..p.query_segments as usize].iter().enumerate() {
            let extent = [s.rows as usize, p.heads as usize];
            add(offset_of!(SeqparAttentionSm90, q), i, &s.q, extent, 64, rows);
            if self.tail > 0 {
                add(offset_of!(SeqparAttentionSm90, q_tail), i, &s.q, extent, self.tail, rows);
            }
        }
        for (i, s) in p.keys[..p.key_segments as usize].iter().enumerate().filter(|(_, s)| s.len > 0) {
            let extent = [s.len as usize, kv_heads];
            add(offset_of!(SeqparAttentionSm90, k), i, &s.k, extent, 64, self.keys);
            if self.tail > 0 {
                add(offset_of!(SeqparAttentionSm90, k_tail), i, &s.k, extent, self.tail, self.keys);
            }
            add(offset_of!(SeqparAttentionSm90, v), i, &s.v, extent, self.value_block, self.keys);
        }
        maps
    }
}

/// Boxes of `columns` by `box_rows` of `[B, rows, heads, D]`, dims innermost first.
fn map(view: &SeqparView, dims: [u64; 5], columns: u32, box_rows: u32) -> TensorMap {
    // What has one element has no stride of its own: one that the encoder takes.
    let stride = |i: usize, elems: i64| if dims[i] > 1 { elems as u64 * 2 } else { 16 };
    TensorMap {
        address: view.address,
        rank: 4,
        dims,
        strides_bytes: [stride(1, view.row), stride(2, view.head), stride(3, view.batch), 0],
        boxes: [columns, box_rows, 1, 1, 1],
        swizzle: match columns {
            64 => Swizzle::B128,
            32 => Swizzle::B64,
            _ => Swizzle::B32,
        },
    }
}
