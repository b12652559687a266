//! The launches that compute a kernel on a CUDA device, as data: symbol, grid, shared memory,
//! parameters, tensor maps. Whoever has a device (or the emulation of one) encodes the maps and
//! launches; nothing here needs CUDA.
//!
//! [`launches`] checks the operands against the spec, then chooses variants by size. It never
//! chooses anything that would change a sum (R1 rule 5): row tiles and grids, not key tiles or
//! the order of a row.
//!
//! Refuses f32 operands, addresses and strides that are not multiples of 16 bytes, head dims that
//! no kernel holds. Assumes that addresses are alive on the device when the launch runs. Tests:
//! `tests/emulated_*.rs`, which execute the kernels' source.

mod adaln;
mod attention;
mod params;
mod runs;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::check::{TensorView, check};
use crate::kernel::spec::Kernel;

/// Code that a device can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arch {
    /// `mma.sync` and `cp.async`: compute capability 8.0 and above.
    Sm80,
    /// TMA and wgmma: compute capability 9.0.
    Sm90,
}

/// What a choice of launch depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Code it runs.
    pub arch: Arch,
    /// Streaming multiprocessors that the launch may fill.
    pub sms: u32,
}

/// Arguments of `cuTensorMapEncodeTiled` for 16-bit elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// First byte of the tensor.
    pub address: u64,
    /// Dimensions in use, 1 to 5.
    pub rank: usize,
    /// Extents, innermost first.
    pub dims: [u64; 5],
    /// Distances in bytes between the elements of dimension 1 and up.
    pub strides_bytes: [u64; 4],
    /// Extents of a box.
    pub boxes: [u32; 5],
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

/// Exchange of 16-byte units within a span of a shared-memory tile's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// None.
    None,
    /// Spans of 32 bytes.
    B32,
    /// Spans of 64 bytes.
    B64,
    /// Spans of 128 bytes.
    B128,
}

/// One launch: `cuLaunchKernelEx`'s arguments with one parameter struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the entry point.
    pub symbol: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The parameter struct of `seqpar_kernels.h`, tensor maps still zero.
    pub params: Vec<u8>,
    /// Tensor maps, each with its offset in `params`.
    pub maps: Vec<(usize, TensorMap)>,
}

/// The launches of one piece of `kernel`, in stream order. `operands` are those of
/// [`Kernel::operands`]; those of other pieces may be empty.
///
/// # Errors
/// Operands that do not fit the spec, and what the module refuses.
pub fn launches(
    kernel: &Kernel,
    piece: usize,
    operands: &[Vec<TensorView>],
    device: &Device,
) -> Result<Vec<Launch>> {
    check(kernel, piece, operands)?;
    let why = |e: String| Error::Unsupported(format!("{} on CUDA: {e}", kernel.name()));
    match kernel {
        Kernel::Attention(spec) => attention::launches(spec, operands, device),
        Kernel::NormModulate(spec) => adaln::norm_modulate(spec, operands, device),
        Kernel::GateResidual(spec) => adaln::gate_residual(spec, operands, device),
        Kernel::GateResidualNormModulate(spec) => adaln::gate_residual_norm_modulate(spec, operands, device),
        _ => Err("there is no such kernel".into()),
    }
    .map_err(why)
}

/// `bf16` or `f16`: what the kernels compute on.
fn half_name(dtype: Dtype) -> Result<&'static str, String> {
    match dtype {
        Dtype::Bf16 => Ok("bf16"),
        Dtype::F16 => Ok("f16"),
        other => Err(format!("{other} operands: use bf16 or f16")),
    }
}
