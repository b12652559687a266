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
//! `tests/emulated`, which executes the kernels' source.

mod adaln;
mod attention;
mod bound;
mod fatbins;
pub mod gemm;
mod gpu;
mod link;
mod lse_merge;
mod occupancy;
mod pack;
mod params;
mod qk_norm_rope;
mod resources;
mod runs;
mod sum;
mod variants;

pub use bound::{Bound, GEMM_SHAPE, Rate, bound};
pub use fatbins::{fatbin, fatbins};
pub use gpu::Gpu;
pub use link::{Passage, link};
pub use lse_merge::{LseMerge, lse_merge};
pub use occupancy::{Limit, Occupancy, occupancy};
pub use resources::Resources;
pub use sum::sum;
pub use variants::{Variant, Work, variants};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::check::{TensorView, check};
use crate::kernel::spec::{Attention, Kernel};
use runs::in_shape;

pub use attention::RowTile;

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

/// A flag in device memory: what it guards is there once it has reached `epoch`, wraparound allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Address of a u32.
    pub flag: u64,
    /// Value that opens the gate.
    pub epoch: u32,
}

/// What a launch that waits inside waits for.
#[derive(Clone, Copy, Debug)]
pub struct Gates<'a> {
    /// Gate of each piece; `None`: it is there before the launch.
    pub arrivals: &'a [Option<Gate>],
    /// Piece that is computed first; the others follow in ring order.
    pub first_piece: usize,
    /// Address of a `SeqparStatus`, mapped for the host: where a wait that ran out is reported.
    pub status: u64,
    /// Longest wait for one gate.
    pub timeout_ns: u64,
}

/// The launches of one piece of `kernel`, in stream order. `operands` are those of
/// [`Kernel::operands`]; those of other pieces may be empty.
///
/// # Errors
/// Operands that do not fit the spec, and what the module refuses.
pub fn launches(kernel: &Kernel, piece: usize, operands: &[Vec<TensorView>], device: &Device) -> Result<Vec<Launch>> {
    let why = |e: String| Error::Unsupported(format!("{} on CUDA: {e}", kernel.name()));
    let operands = &checked(kernel, piece, operands)?;
    match kernel {
        Kernel::Attention(spec) => attention::launches(spec, operands, device, &AttentionOptions::default()),
        Kernel::Gemm(spec) => gemm::launches(spec, piece, operands, device, None),
        Kernel::NormModulate(spec) => adaln::norm_modulate(spec, operands, device),
        Kernel::GateResidual(spec) => adaln::gate_residual(spec, operands, device),
        Kernel::GateResidualNormModulate(spec) => adaln::gate_residual_norm_modulate(spec, operands, device),
        Kernel::QkNormRope(spec) => qk_norm_rope::launches(spec, operands, device),
        Kernel::Pack(spec) => pack::launches(spec, operands, device),
        _ => Err("there is no such kernel".into()),
    }
    .map_err(why)
}

/// The row tiles that attention on sm_90a may choose from, the best first by the cost model.
///
/// # Errors
/// Head dims that no kernel holds.
pub fn attention_row_tiles(spec: &Attention, device: &Device) -> Result<Vec<RowTile>> {
    attention::row_tiles(spec, device).map_err(|e| Error::Unsupported(format!("attention on CUDA: {e}")))
}

/// What a launch of attention may be told beyond its spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionOptions {
    /// Query rows of a block on sm_90a: 64, 128 or 192; `None`: the best by the cost model.
    pub row_tile: Option<u32>,
    /// For each key segment, what its keys, values and mask wait for; empty: nothing.
    pub gates: Vec<Option<Gate>>,
    /// Device address of a `SeqparStatus` for the first gate that does not open in time; 0: none.
    pub status: u64,
    /// How long a block waits for a gate.
    pub timeout_ns: u64,
}

/// [`launches`] of attention under `options`, none of which changes a bit of the result.
///
/// # Errors
/// As [`launches`], and for options that do not fit the spec.
pub fn attention_launches(
    spec: &Attention,
    operands: &[Vec<TensorView>],
    device: &Device,
    options: &AttentionOptions,
) -> Result<Vec<Launch>> {
    let kernel = Kernel::Attention(spec.clone());
    attention::launches(spec, &checked(&kernel, 0, operands)?, device, options)
        .map_err(|e| Error::Unsupported(format!("{} on CUDA: {e}", kernel.name())))
}

/// The operands, held to the spec and with the heads that it names.
fn checked(kernel: &Kernel, piece: usize, operands: &[Vec<TensorView>]) -> Result<Vec<Vec<TensorView>>> {
    check(kernel, piece, operands)?;
    let wanted = kernel.operands();
    let shaped = wanted.iter().zip(operands).map(|(want, tensors)| {
        // A linear layer stores to strided heads as they are.
        let shaped = |t: &TensorView| if let Kernel::Gemm(_) = kernel { Ok(*t) } else { in_shape(t, want.shape) };
        let shaped: Result<Vec<_>, String> = tensors.iter().map(shaped).collect();
        shaped.map_err(|e| Error::Unsupported(format!("{} on CUDA: {}: {e}", kernel.name(), want.name)))
    });
    shaped.collect()
}

/// `bf16` or `f16`: what the kernels compute on.
fn half_name(dtype: Dtype) -> Result<&'static str, String> {
    match dtype {
        Dtype::Bf16 => Ok("bf16"),
        Dtype::F16 => Ok("f16"),
        other => Err(format!("{other} operands: use bf16 or f16")),
    }
}
