//! Launches of `csrc/kernels/attention_sm90.cuh`: which variant, its shared memory, its tensor maps.
//!
//! Refuses head dims that are not multiples of 8 up to 128, and addresses and strides of q, k, v and
//! out that are not multiples of 16 bytes. Proof: `tests/emulated_attention_sm90.rs`.

use std::fmt;
use std::mem::offset_of;

use bytemuck::Zeroable;

use super::params::{SeqparAttention, SeqparAttentionSm90, SeqparTensorMap, SeqparView};
use super::runs::int;
use super::{Device, Launch, Swizzle, TensorMap, attention, half_name};
use crate::kernel::check::TensorView;
use crate::kernel::spec::Attention;

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
    /// Times that the machine is filled, the last one perhaps in part.
    pub waves: usize,
    /// Time of all waves, in rows of one SM at the fastest variant's rate.
    pub cost: f64,
}

impl fmt::Display for RowTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows: {} tiles, {} waves, cost {:.0}", self.rows, self.tiles, self.waves, self.cost)
    }
}

/// The row tiles that a launch may choose from, the best first. All give the same bits.
pub(super) fn row_tiles(spec: &Attention, device: &Device) -> Result<Vec<RowTile>, String> {
    let head = Head::of(spec.head_dim)?;
    let mut choices: Vec<RowTile> = head.variants.iter().map(|&(rows, rate)| {
        let per_head: usize = spec.queries.iter().map(|n| n.div_ceil(rows as usize)).sum();
        let tiles = spec.batch * spec.heads * per_head;
        let resident = head.blocks_per_sm(rows);
        let waves = tiles.div_ceil((resident * device.sms.max(1)) as usize);
        RowTile { rows, tiles, waves, cost: (waves as u32 * resident * rows) as f64 / rate }
    }).collect();
    choices.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    Ok(choices)
}

pub(super) fn attention(
    spec: &Attention,
    operands: &[Vec<TensorView>],
    device: &Device,
    row_tile: Option<u32>,
) -> Result<Vec<Launch>, String> {
    let head = Head::of(spec.head_dim)?;
    let rows = match row_tile {
        Some(rows) => rows,
        None => row_tiles(spec, device)?[0].rows,
    };
    if !head.variants.iter().any(|v| v.0 == rows) {
        return Err(format!("row tiles of {rows} at head dim {}", spec.head_dim));
    }
    let mut launches = Vec::new();
    for base in attention::parameters(spec, operands)? {
        let mut p = SeqparAttentionSm90 {
            base,
            masked: i32::from(spec.key_mask || spec.key_len),
            ..SeqparAttentionSm90::zeroed()
        };
        p.base.row_tiles = tile_rows(&mut p.base, rows)?;
        check_aligned(&p.base)?;
        let tiles = p.base.batch as usize * p.base.heads as usize * p.base.row_tiles as usize;
        int(tiles)?;
        if tiles == 0 {
            continue;
        }
        let blocks = (device.sms * head.blocks_per_sm(rows)).max(1) as usize;
        launches.push(Launch {
            symbol: format!("attn_fwd_sm90_{}_d{}_m{rows}", half_name(spec.dtype)?, head.dim),
            grid: [tiles.min(blocks) as u32, 1, 1],
            block: [128 + 2 * rows, 1, 1],
            shared_bytes: head.shared_bytes(rows),
            params: bytemuck::bytes_of(&p).to_vec(),
            maps: head.maps(&p.base, rows, spec.kv_heads),
        });
    }
    Ok(launches)
}

/// Sets where the tiles of each query segment begin; all of them.
fn tile_rows(p: &mut SeqparAttention, rows: u32) -> Result<i32, String> {
    let mut tiles = 0;
    for segment in &mut p.queries[..p.query_segments as usize] {
        segment.first_tile = int(tiles)?;
        tiles += (segment.rows as usize).div_ceil(rows as usize);
    }
    int(tiles)
}

fn check_aligned(p: &SeqparAttention) -> Result<(), String> {
    let half = |view: &SeqparView| {
        let strides = [view.batch, view.row, view.head];
        view.address.is_multiple_of(16) && strides.iter().all(|s| s % 8 == 0)
    };
    let pairs = |view: &SeqparView| {
        let strides = [view.batch, view.row, view.head];
        view.address.is_multiple_of(8) && strides.iter().all(|s| s % 2 == 0)
    };
    let queries = &p.queries[..p.query_segments as usize];
    let keys = &p.keys[..p.key_segments as usize];
    if !queries.iter().all(|s| half(&s.q) && half(&s.out) && pairs(&s.o)) || !keys.iter().all(|s| half(&s.k) && half(&s.v)) {
        return Err("an address or stride of q, k, v or out is not a multiple of 16 bytes: copy the operand first".into());
    }
    Ok(())
}

impl Head {
    fn of(dim: usize) -> Result<&'static Self, String> {
        let fits = HEADS.iter().find(|head| dim.is_multiple_of(8) && (1..=head.dim as usize).contains(&dim));
        fits.ok_or_else(|| format!("head dim {dim}: use a multiple of 8, 128 at most"))
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
        rows * row_bytes + stages * stage + barriers + keep + 4 + 1008
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
        for (i, s) in p.keys[..p.key_segments as usize].iter().enumerate() {
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
