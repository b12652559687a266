//! Norm, modulation, gate and residual.

use std::ffi::c_void;

use super::abi::{AdalnArgs, Tensor};
use super::compute::compute;
use super::handle::held;
use super::kernels::Kernels;
use super::read::growing;
use super::status::{Fault, Outcome, Status, guard};
use super::tensor::{float, size};
use crate::dtype::Dtype;
use crate::kernel::TensorView;
use crate::kernel::spec::{GateResidual, GateResidualNormModulate, Kernel, Modulation, Norm, NormModulate};

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_norm_modulate(
    kernels: *const Kernels,
    args: *const AdalnArgs,
    stream: *mut c_void,
) -> Status {
    guard(|| {
        let kernels = held(kernels)?;
        let rows = Rows::new(growing(args)?)?;
        let Rows { dtype, batch, rows: n, hidden, modulation, args } = rows;
        let (norm, eps) = norm(&args)?;
        let spec = NormModulate { dtype, batch, rows: n, hidden, norm, eps, modulation };
        let mut operands = vec![rows.read("x", &args.x)?, rows.written("y", &args.y)?];
        operands.extend(rows.vectors(&[("shift", &args.shift, &args.shift_0), ("scale", &args.scale, &args.scale_0)])?);
        compute(&kernels, &Kernel::NormModulate(spec), &operands, stream)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_gate_residual(
    kernels: *const Kernels,
    args: *const AdalnArgs,
    stream: *mut c_void,
) -> Status {
    guard(|| {
        let kernels = held(kernels)?;
        let rows = Rows::new(growing(args)?)?;
        let Rows { dtype, batch, rows: n, hidden, modulation, args } = rows;
        let spec = GateResidual { dtype, batch, rows: n, hidden, modulation };
        let mut operands = rows.gated()?;
        operands.extend(rows.vectors(&[("gate", &args.gate, &args.gate_0)])?);
        compute(&kernels, &Kernel::GateResidual(spec), &operands, stream)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_gate_residual_norm_modulate(
    kernels: *const Kernels,
    args: *const AdalnArgs,
    stream: *mut c_void,
) -> Status {
    guard(|| {
        let kernels = held(kernels)?;
        let rows = Rows::new(growing(args)?)?;
        let Rows { dtype, batch, rows: n, hidden, modulation, args } = rows;
        let (norm, eps) = norm(&args)?;
        let spec = GateResidualNormModulate { dtype, batch, rows: n, hidden, norm, eps, modulation };
        let mut operands = rows.gated()?;
        operands.push(rows.written("y", &args.y)?);
        operands.extend(rows.vectors(&[
            ("gate", &args.gate, &args.gate_0),
            ("shift", &args.shift, &args.shift_0),
            ("scale", &args.scale, &args.scale_0),
        ])?);
        compute(&kernels, &Kernel::GateResidualNormModulate(spec), &operands, stream)
    })
}

fn norm(args: &AdalnArgs) -> Outcome<(Norm, f32)> {
    let norm = match args.norm {
        0 => Norm::Layer,
        1 => Norm::Rms,
        other => return Err(Fault::argument(format!("norm is {other}: use SEQPAR_NORM_*"))),
    };
    Ok((norm, eps(args.eps, "eps")?))
}

/// What is added under a root.
pub(super) fn eps(eps: f32, name: &str) -> Outcome<f32> {
    if eps.is_finite() && eps >= 0.0 {
        Ok(eps)
    } else {
        Err(Fault::argument(format!("{name} is {eps}: use 0 or more")))
    }
}

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Rows {
    dtype: Dtype,
    batch: usize,
    rows: usize,
    hidden: usize,
    modulation: Modulation,
    args: AdalnArgs,
}

impl Rows {
    fn new(args: AdalnArgs) -> Outcome<Self> {
        let modulation = match args.modulation {
            0 => Modulation::PerSample,
            1 => Modulation::PerFrame,
            2 => Modulation::PerToken,
            other => return Err(Fault::argument(format!("modulation is {other}: use SEQPAR_MODULATION_*"))),
        };
        Ok(Self {
            dtype: float(args.dtype)?,
            batch: size(args.batch, "batch")?,
            rows: size(args.rows, "rows")?,
            hidden: size(args.hidden, "hidden")?,
            modulation,
            args,
        })
    }

    fn shape(&self) -> [usize; 4] {
        [self.batch, self.rows, 1, self.hidden]
    }

    fn read(&self, name: &str, tensor: &Tensor) -> Outcome<Vec<TensorView>> {
        Ok(vec![tensor.read(name, self.dtype, self.shape())?])
    }

    fn written(&self, name: &str, tensor: &Tensor) -> Outcome<Vec<TensorView>> {
        Ok(vec![tensor.written(name, self.dtype, self.shape())?])
    }

    /// x, branch, residual.
    fn gated(&self) -> Outcome<Vec<Vec<TensorView>>> {
        let args = &self.args;
        Ok(vec![
            self.read("x", &args.x)?,
            self.read("branch", &args.branch)?,
            self.written("residual", &args.residual)?,
        ])
    }

    /// The operands of [`Modulation`] for vectors with their second sets.
    fn vectors(&self, vectors: &[(&str, &Tensor, &Tensor)]) -> Outcome<Vec<Vec<TensorView>>> {
        let rows = if self.modulation == Modulation::PerToken { self.rows } else { 1 };
        let shape = [self.batch, rows, 1, self.hidden];
        let mut list = Vec::new();
        for (name, vector, _) in vectors {
            list.push(vec![vector.read(name, self.dtype, shape)?]);
        }
        if self.modulation == Modulation::PerFrame {
            for (name, _, second) in vectors {
                list.push(vec![second.read(&format!("{name}_0"), self.dtype, shape)?]);
            }
            list.push(vec![self.args.frame.read("frame", Dtype::U8, [self.batch, self.rows, 1, 1])?]);
        }
        Ok(list)
    }
}
