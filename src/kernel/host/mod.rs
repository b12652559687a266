//! The fast kernels of the host. One file a family, as in [`crate::kernel::spec`].
//!
//! [`run_piece`] checks every operand against the spec, then computes. All arithmetic is f32,
//! rounded to the dtype where the spec stores. Rows, heads and columns are alone: neither the
//! number of threads nor what else is in the launch changes a bit of them, but the instruction
//! set ([`instruction_set`]) does.
//!
//! Refuses operands that do not fit, head dims above 256, casts to integers. Assumes what
//! [`Tensor::new`] promises. Tests: `tests/kernels_host.rs` (against [`crate::kernel::oracle`]),
//! `tests/rules.rs` (R1).

mod adaln;
mod attention;
mod convert;
mod embed;
mod gemm;
mod lanes;
mod math;
mod pack;
mod parallel;
mod peak;
mod qk_norm_rope;
mod tensor;

pub use lanes::Isa;
pub use peak::multiply_adds;
pub use tensor::Tensor;

use crate::error::{Error, Result};
use crate::kernel::check::{TensorView, check};
use crate::kernel::spec::Kernel;

/// Runs one piece of a kernel. `operands[i]` are the tensors of its `i`-th operand (see
/// [`Kernel::operands`]), concatenated along dimension 1; those of other pieces may be empty.
///
/// # Errors
/// An operand whose dtype or shape is not the spec's; parameters that no kernel here computes; a
/// class outside its table.
pub fn run_piece(kernel: &Kernel, piece: usize, operands: &[Vec<Tensor>], threads: usize) -> Result<()> {
    run_piece_on(Isa::detect(), kernel, piece, operands, threads)
}

/// [`run_piece`] on a chosen instruction set, for tests. (The product inside a GEMM is that of
/// `matrixmultiply`, which chooses its own.)
///
/// # Errors
/// As [`run_piece`], and an instruction set that this processor does not have.
#[doc(hidden)]
pub fn run_piece_on(isa: Isa, kernel: &Kernel, piece: usize, operands: &[Vec<Tensor>], threads: usize) -> Result<()> {
    if !isa.is_available() {
        return Err(Error::Unsupported(format!("this processor has no {}: use portable", isa.name())));
    }
    let views: Vec<Vec<TensorView>> = operands.iter().map(|t| t.iter().map(Tensor::view).collect()).collect();
    check(kernel, piece, &views)?;
    match kernel {
        Kernel::Gemm(spec) => gemm::run(isa, spec, piece, operands, threads),
        Kernel::Attention(spec) => attention::run(isa, spec, operands, threads),
        Kernel::NormModulate(spec) => adaln::norm_modulate(isa, spec, operands, threads),
        Kernel::GateResidual(spec) => adaln::gate_residual(isa, spec, operands, threads),
        Kernel::GateResidualNormModulate(spec) => adaln::gate_residual_norm_modulate(isa, spec, operands, threads),
        Kernel::QkNormRope(spec) => qk_norm_rope::run(isa, spec, operands, threads),
        Kernel::Pack(spec) => pack::run(spec, operands, threads),
        Kernel::TimestepEmbed(spec) => embed::timestep(spec, operands),
        Kernel::ClassEmbed(spec) => return embed::class(isa, spec, operands),
    }
    Ok(())
}

/// Name of the instruction set that [`run_piece`] uses on this processor.
pub fn instruction_set() -> &'static str {
    Isa::detect().name()
}
