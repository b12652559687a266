//! Operands that come as several tensors: runs of rows for which each of them is one tensor.

use std::ops::Range;

use super::Device;
use super::params::SeqparView;
use crate::kernel::check::TensorView;

/// The runs of rows between all cuts of the given operands (concatenated along dimension 1).
pub(super) fn runs(operands: &[&[TensorView]]) -> Vec<Range<usize>> {
    let mut cuts = vec![0];
    for tensors in operands {
        let mut row = 0;
        for tensor in *tensors {
            row += tensor.shape[1];
            cuts.push(row);
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// Rows `rows`, which no cut divides, as one view in the kernels' terms.
pub(super) fn view(tensors: &[TensorView], rows: &Range<usize>) -> Result<SeqparView, String> {
    let mut first = 0;
    for tensor in tensors {
        if rows.start < first + tensor.shape[1] {
            let offset = (rows.start - first) * tensor.strides[1] * tensor.dtype.bytes();
            return Ok(SeqparView {
                address: tensor.address + offset as u64,
                batch: if tensor.shape[0] == 1 { 0 } else { stride(tensor.strides[0])? },
                row: stride(tensor.strides[1])?,
                head: stride(tensor.strides[2])?,
            });
        }
        first += tensor.shape[1];
    }
    Err(format!("rows {rows:?} of an operand of {first} rows"))
}

/// Whether 16-byte accesses to the rows of a view are aligned.
pub(super) fn aligned(view: &SeqparView, elem_bytes: usize) -> bool {
    let elems = 16 / elem_bytes as i64;
    view.address.is_multiple_of(16) && view.batch % elems == 0 && view.row % elems == 0
}

fn stride(elems: usize) -> Result<i64, String> {
    i64::try_from(elems).map_err(|_| format!("a stride of {elems} elements"))
}

/// `tensor` with the heads of `shape`: a run of memory a row may be cut into heads, strided heads
/// stay as they are.
pub(super) fn in_shape(tensor: &TensorView, shape: [usize; 4]) -> Result<TensorView, String> {
    let [heads, dim] = [shape[2], shape[3]];
    if [tensor.shape[2], tensor.shape[3]] == [heads, dim] || tensor.shape.contains(&0) {
        return Ok(*tensor);
    }
    if tensor.shape[2] > 1 && tensor.strides[2] != tensor.shape[3] {
        return Err(format!("rows of {heads} heads of {dim}, given as strided heads: copy the operand first"));
    }
    let [batch, rows, ..] = tensor.shape;
    let [per_batch, per_row, ..] = tensor.strides;
    Ok(TensorView { shape: [batch, rows, heads, dim], strides: [per_batch, per_row, dim, 1], ..*tensor })
}

/// Blocks of a grid that strides over `items`, `per_block` at a time, without more than fill the
/// device a few times over.
pub(super) fn blocks(items: usize, per_block: usize, device: &Device) -> u32 {
    items.div_ceil(per_block).clamp(1, device.sms as usize * 8) as u32
}

/// A count as the kernels hold it.
pub(super) fn int(count: usize) -> Result<i32, String> {
    i32::try_from(count).map_err(|_| format!("{count} is too large for one launch"))
}
