//! The `mma.sync` kernels: one block a row tile of one head.

use super::super::params::SeqparAttention;
use super::super::variants::Block;
use super::super::{Device, Launch};
use super::tile_rows;

/// Keys of a tile, as in `csrc/kernels/attention_sm80.cuh`.
fn tile_keys(dim: usize) -> usize {
    match dim {
        64 => 128,
        72 => 96,
        _ => 64,
    }
}

fn shared_bytes(dim: usize, rows: usize) -> usize {
    let row_bytes = ((dim / 8) | 1) * 16;
    let keys = tile_keys(dim);
    (rows + 2 * keys) * row_bytes + 4 * keys.div_ceil(32) + 4
}

/// A block of the variant for row tiles of `rows` rows.
pub(in super::super) fn block(dim: usize, rows: usize) -> Block {
    let warps = if dim == 128 && rows == 128 { 8 } else { 4 };
    Block { threads: 32 * warps, shared_bytes: shared_bytes(dim, rows) as u32 }
}

pub(super) fn launch(mut p: SeqparAttention, dtype: &str, dim: usize, device: &Device) -> Result<Launch, String> {
    let blocks = |rows: i32, p: &mut SeqparAttention| {
        tile_rows(p, rows);
        i64::from(p.row_tiles) * i64::from(p.heads) * i64::from(p.batch)
    };
    // Wide tiles read keys and values half as often; narrow ones fill the device sooner.
    let rows = if blocks(128, &mut p) >= i64::from(device.sms) { 128 } else { 64 };
    blocks(rows, &mut p);
    let block = block(dim, rows as usize);
    Ok(Launch {
        symbol: format!("attn_fwd_sm80_{dtype}_d{dim}_m{rows}"),
        grid: [p.row_tiles as u32, p.heads as u32, p.batch as u32],
        block: [block.threads, 1, 1],
        shared_bytes: block.shared_bytes,
        params: bytemuck::bytes_of(&p).to_vec(),
        maps: Vec::new(),
    })
}
