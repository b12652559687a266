//! The sum of a reducing communication between ranks whose memory the device can read.

use bytemuck::Zeroable;

use super::params::{SEQPAR_MAX_SUM_PARTS, SeqparSum};
use super::runs::blocks;
use super::{Device, Launch};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

pub(super) const THREADS: u32 = 256;

/// `out = ((parts[0] + parts[1]) + …)` in f32, rounded once; runs of `elems` elements of `dtype`
/// at these addresses, `out` beside all of them or one of them.
///
/// # Errors
/// A dtype that is no float, no part or more than 64.
pub fn sum(dtype: Dtype, parts: &[u64], out: u64, elems: usize, device: &Device) -> Result<Launch> {
    let most = SEQPAR_MAX_SUM_PARTS as usize;
    if !dtype.is_float() || parts.is_empty() || parts.len() > most {
        return Err(Error::Unsupported(format!(
            "a sum of {} parts of {dtype} on CUDA: 1 to {most} of bf16, f16 or f32",
            parts.len()
        )));
    }
    let mut p = SeqparSum { out, elems: elems as i64, count: parts.len() as i32, ..SeqparSum::zeroed() };
    p.parts[..parts.len()].copy_from_slice(parts);
    Ok(Launch {
        symbol: format!("sum_{dtype}"),
        grid: [blocks(elems, THREADS as usize, device), 1, 1],
        block: [THREADS, 1, 1],
        shared_bytes: 0,
        params: bytemuck::bytes_of(&p).to_vec(),
        maps: Vec::new(),
    })
}
