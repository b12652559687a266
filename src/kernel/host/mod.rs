//! Host kernels: every family of [`super::spec`], fast, on leased memory.
//!
//! [`run_piece`] checks every operand against the spec before any pointer is used: the unsafe
//! code behind it relies on those shapes and on the lease (see [`Tensor::new`]), on nothing else.
//! All arithmetic is f32. Work is cut into rows, heads or tiles that never share a sum, so the
//! number of threads changes no bit; the instruction set may (R1 is per instruction set). Tests:
//! `tests/kernels_host.rs` against float64, `tests/rules.rs` for R1.

mod adaln;
mod attention;
mod embed;
mod gemm;
mod isa;
mod lanes;
mod math;
mod pack;
mod parallel;
mod qk_norm_rope;
mod tensor;

pub use isa::Isa;
pub use tensor::Tensor;

use crate::error::{Error, Result};
use crate::kernel::spec::{Kernel, Operand};

/// Runs one piece of a kernel with up to `threads` threads on the best instruction set.
///
/// `operands[i]` holds the views of the `i`-th operand of [`Kernel::operands`]; those of other
/// pieces are not looked at.
///
/// # Errors
/// [`Error::Shape`] for a view that is not what the spec asks for.
pub fn run_piece(kernel: &Kernel, piece: usize, operands: &[Vec<Tensor>], threads: usize) -> Result<()> {
    run_piece_on(Isa::best(), kernel, piece, operands, threads)
}

/// [`run_piece`] on a given instruction set.
///
/// # Errors
/// As [`run_piece`], and [`Error::Unsupported`] for an instruction set that this machine lacks.
pub fn run_piece_on(isa: Isa, kernel: &Kernel, piece: usize, operands: &[Vec<Tensor>], threads: usize) -> Result<()> {
    if !isa.is_available() {
        return Err(Error::Unsupported(format!("this machine has no {}: use {}", isa.name(), Isa::best().name())));
    }
    check(kernel, piece, operands)?;
    let threads = threads.max(1);
    match kernel {
        Kernel::Gemm(spec) => gemm::run(isa, spec, piece, operands, threads),
        Kernel::Attention(spec) => attention::run(isa, spec, operands, threads),
        Kernel::NormModulate(spec) => adaln::norm_modulate(isa, spec, operands, threads),
        Kernel::GateResidual(spec) => adaln::gate_residual(isa, spec, operands, threads),
        Kernel::GateResidualNormModulate(spec) => adaln::gate_residual_norm_modulate(isa, spec, operands, threads),
        Kernel::QkNormRope(spec) => qk_norm_rope::run(isa, spec, operands, threads),
        Kernel::Pack(spec) => pack::run(spec, operands, threads),
        Kernel::TimestepEmbed(spec) => embed::timestep(spec, operands),
        Kernel::ClassEmbed(spec) => embed::class(spec, operands)?,
    }
    Ok(())
}

fn check(kernel: &Kernel, piece: usize, operands: &[Vec<Tensor>]) -> Result<()> {
    let specs = kernel.operands();
    if piece >= kernel.pieces() || operands.len() != specs.len() {
        return Err(Error::Shape(format!(
            "{}: piece {piece} with {} operands, it has {} pieces and {} operands",
            kernel.name(),
            operands.len(),
            kernel.pieces(),
            specs.len()
        )));
    }
    for (spec, views) in specs.iter().zip(operands).filter(|(s, _)| s.piece.is_none_or(|of| of as usize == piece)) {
        check_operand(kernel, spec, views)?;
    }
    Ok(())
}

fn check_operand(kernel: &Kernel, spec: &Operand, views: &[Tensor]) -> Result<()> {
    let empty = spec.shape.contains(&0);
    let rows: usize = views.iter().map(|view| view.shape[1]).sum();
    let fits = |view: &Tensor| {
        let samples = view.shape[0] == spec.shape[0] || (spec.broadcast && view.shape[0] == 1);
        view.dtype == spec.dtype
            && samples
            && view.shape[2] * view.shape[3] == spec.shape[2] * spec.shape[3]
            && view.rows_are_runs()
    };
    if !empty && (rows != spec.shape[1] || !views.iter().all(fits)) {
        let shapes: Vec<_> = views.iter().map(|view| (view.dtype, view.shape)).collect();
        return Err(Error::Shape(format!(
            "{}: operand {} is {} {:?}, but was given {shapes:?}",
            kernel.name(),
            spec.name,
            spec.dtype,
            spec.shape
        )));
    }
    Ok(())
}
