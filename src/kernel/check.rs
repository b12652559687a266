//! Checks a kernel's parameters and operands before any memory is touched: unsafe code of the
//! host's kernels and those of a device rely on what is refused here.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::spec::{Attention, Epilogue, Gemm, Kernel, Operand};

/// Where a tensor `[B, n, H, D]` lies: plain numbers, on whatever device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorView {
    /// Address of the first element.
    pub address: u64,
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub shape: [usize; 4],
    /// Distances in elements; the last is 1 wherever the last extent is above 1.
    pub strides: [usize; 4],
}

/// Holds `operands` to the spec.
pub(super) fn check(kernel: &Kernel, piece: usize, operands: &[Vec<TensorView>]) -> Result<()> {
    let shape = |why: String| Error::Shape(format!("{}: {why}", kernel.name()));
    if piece >= kernel.pieces() {
        return Err(shape(format!("piece {piece} of {}", kernel.pieces())));
    }
    parameters(kernel).map_err(shape)?;
    let wanted = kernel.operands();
    if wanted.len() != operands.len() {
        return Err(shape(format!("{} operands given, {} wanted", operands.len(), wanted.len())));
    }
    for (i, (want, tensors)) in wanted.iter().zip(operands).enumerate() {
        if want.piece.is_none_or(|of| of as usize == piece) {
            operand(want, tensors).map_err(|why| shape(format!("operand {i} ({}): {why}", want.name)))?;
        }
    }
    Ok(())
}

fn operand(want: &Operand, tensors: &[TensorView]) -> Result<(), String> {
    let elems: usize = want.shape.iter().product();
    let mut rows = 0;
    for tensor in tensors {
        let shape = tensor.shape;
        if tensor.dtype != want.dtype {
            return Err(format!("{} given, {} wanted", tensor.dtype, want.dtype));
        }
        if shape[3] > 1 && tensor.strides[3] != 1 {
            return Err(format!("the last stride is {}: it must be 1", tensor.strides[3]));
        }
        if !tensor.address.is_multiple_of(want.dtype.bytes() as u64) {
            return Err(format!("not aligned for {}", want.dtype));
        }
        let samples = shape[0] == want.shape[0] || (want.broadcast && shape[0] == 1);
        if !samples || (elems > 0 && shape[2] * shape[3] != want.shape[2] * want.shape[3]) {
            return Err(format!("{shape:?} given, {:?} wanted", want.shape));
        }
        rows += shape[1];
    }
    if elems > 0 && rows != want.shape[1] {
        return Err(format!("{rows} rows given, {} wanted", want.shape[1]));
    }
    Ok(())
}

fn parameters(kernel: &Kernel) -> Result<(), String> {
    match kernel {
        Kernel::Attention(spec) => attention(spec),
        Kernel::Gemm(spec) => gemm(spec),
        Kernel::QkNormRope(spec) if spec.rope.is_some() && !spec.head_dim.is_multiple_of(2) => {
            Err(format!("rotary embedding of head dim {}: it must be even", spec.head_dim))
        }
        Kernel::TimestepEmbed(spec) if !spec.dim.is_multiple_of(2) || spec.dim == 0 => {
            Err(format!("{} channels: use an even number", spec.dim))
        }
        _ if !kernel.dtype().is_float() && !matches!(kernel, Kernel::Pack(_)) => {
            Err(format!("{} is no float", kernel.dtype()))
        }
        Kernel::Pack(spec) if spec.src_dtype != spec.dst_dtype && !spec.dst_dtype.is_float() => {
            Err(format!("no cast to {}", spec.dst_dtype))
        }
        _ => Ok(()),
    }
}

fn attention(spec: &Attention) -> Result<(), String> {
    if !(1..=256).contains(&spec.head_dim) {
        return Err(format!("head dim {}: 1 to 256 are supported", spec.head_dim));
    }
    if let Some(key) = spec.keys.iter().find(|key| key.stream > 1) {
        return Err(format!("key stream {}: 0 is text, 1 is image", key.stream));
    }
    if spec.group == 0 {
        return Err("a group of 0 query heads: use 1 without grouping".into());
    }
    for head in [0, spec.heads.saturating_sub(1)] {
        let key = ((spec.first_head + head) / spec.group).checked_sub(spec.first_kv_head);
        if spec.heads > 0 && key.is_none_or(|key| key >= spec.kv_heads) {
            return Err(format!("query head {head} of this launch reads a key head outside it"));
        }
    }
    Ok(())
}

fn gemm(spec: &Gemm) -> Result<(), String> {
    if matches!(spec.epilogue, Epilogue::Residual | Epilogue::GatedResidual(_)) && spec.parts.len() != 1 {
        return Err(format!("{} parts with a residual: use one", spec.parts.len()));
    }
    if !spec.out_dtype.is_float() {
        return Err(format!("{} is no float", spec.out_dtype));
    }
    Ok(())
}
