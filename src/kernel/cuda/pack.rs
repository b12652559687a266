//! Launches of strided copies: the widest unit that every run of D, address and stride allows.

use bytemuck::Zeroable;

use super::params::{SEQPAR_MAX_PACK_COPIES, SeqparCopy, SeqparPack, SeqparView};
use super::runs::{blocks, int, runs, view};
use super::{Device, Launch};
use crate::kernel::check::TensorView;
use crate::kernel::spec::Pack;

pub(super) const THREADS: u32 = 256;

pub(super) fn launches(spec: &Pack, operands: &[Vec<TensorView>], device: &Device) -> Result<Vec<Launch>, String> {
    let mut copies = Vec::new();
    for (shape, pair) in spec.copies.iter().zip(operands.chunks(2)) {
        for run in runs(&[&pair[0], &pair[1]]) {
            if shape[0] * run.len() * shape[2] * shape[3] == 0 {
                continue;
            }
            copies.push(SeqparCopy {
                src: view(&pair[0], &run)?,
                dst: view(&pair[1], &run)?,
                batch: int(shape[0])?,
                rows: int(run.len())?,
                heads: int(shape[2])?,
                dim: int(shape[3])?,
            });
        }
    }
    let symbol = if spec.src_dtype == spec.dst_dtype {
        let bytes = spec.src_dtype.bytes();
        let unit = copies.iter().map(|copy| unit_bytes(copy, bytes)).min().unwrap_or(bytes);
        copies.iter_mut().for_each(|copy| in_units(copy, bytes, unit));
        format!("pack_{unit}_byte{}", if unit == 1 { "" } else { "s" })
    } else {
        format!("pack_{}_to_{}", spec.src_dtype, spec.dst_dtype)
    };
    copies
        .chunks(SEQPAR_MAX_PACK_COPIES as usize)
        .map(|group| {
            let mut p = SeqparPack { count: int(group.len())?, ..SeqparPack::zeroed() };
            p.copies[..group.len()].copy_from_slice(group);
            let units = group.iter().map(|c| [c.batch, c.rows, c.heads, c.dim].iter().map(|&n| n as usize).product());
            let most: usize = units.max().unwrap_or(0);
            int(most)?;
            Ok(Launch {
                symbol: symbol.clone(),
                grid: [blocks(most, THREADS as usize, device), group.len() as u32, 1],
                block: [THREADS, 1, 1],
                shared_bytes: 0,
                params: bytemuck::bytes_of(&p).to_vec(),
                maps: Vec::new(),
            })
        })
        .collect()
}

/// The widest of 16, 4, 2 and 1 bytes that divides everything of a copy of elements of `bytes`.
fn unit_bytes(copy: &SeqparCopy, bytes: usize) -> usize {
    let elems = |n: i64| n as u64 * bytes as u64;
    let of_view = |v: &SeqparView| v.address | elems(v.batch) | elems(v.row) | elems(v.head);
    let all = of_view(&copy.src) | of_view(&copy.dst) | elems(i64::from(copy.dim));
    [16, 4, 2].into_iter().find(|&unit| all.is_multiple_of(unit)).unwrap_or(1) as usize
}

/// Strides and D in units of `unit` bytes instead of elements.
fn in_units(copy: &mut SeqparCopy, bytes: usize, unit: usize) {
    for v in [&mut copy.src, &mut copy.dst] {
        for stride in [&mut v.batch, &mut v.row, &mut v.head] {
            *stride = *stride * bytes as i64 / unit as i64;
        }
    }
    copy.dim = (copy.dim as usize * bytes / unit) as i32;
}
