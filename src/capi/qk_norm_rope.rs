//! QK norm and rotary embedding.

use std::ffi::c_void;

use super::abi::{QkNormRopeArgs, Tensor};
use super::adaln::eps;
use super::compute::compute;
use super::handle::held;
use super::kernels::Kernels;
use super::read::growing;
use super::status::{Fault, Outcome, Status, guard};
use super::tensor::{count, float, reserved, rope, size};
use crate::dtype::Dtype;
use crate::kernel::TensorView;
use crate::kernel::spec::{Kernel, QkNormRope};

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_qk_norm_rope(
    kernels: *const Kernels,
    args: *const QkNormRopeArgs,
    stream: *mut c_void,
) -> Status {
    guard(|| {
        let (kernels, args) = (held(kernels)?, growing(args)?);
        reserved(args.reserved)?;
        let (batch, rows, head_dim) =
            (size(args.batch, "batch")?, size(args.rows, "rows")?, count(args.head_dim, "head_dim")?);
        let spec = QkNormRope {
            dtype: float(args.dtype)?,
            batch,
            rows,
            heads: size(args.heads, "heads")?,
            kv_heads: size(args.kv_heads, "kv_heads")?,
            head_dim,
            norm_eps: norm_eps(&args.q_norm, &args.k_norm, args.norm_eps)?,
            rope: rope(args.rope)?,
        };
        let shape = |heads: usize| [batch, rows, heads, head_dim];
        let mut operands = vec![
            vec![args.q.written("q", spec.dtype, shape(spec.heads))?],
            vec![args.k.written("k", spec.dtype, shape(spec.kv_heads))?],
        ];
        operands.extend(tables(&spec, [&args.q_norm, &args.k_norm], [&args.cos, &args.sin])?);
        compute(&kernels, &Kernel::QkNormRope(spec), &operands, stream)
    })
}

/// The norm's eps where there are weights.
pub(super) fn norm_eps(q_norm: &Tensor, k_norm: &Tensor, value: f32) -> Outcome<Option<f32>> {
    match (q_norm.is_absent(), k_norm.is_absent()) {
        (true, true) => Ok(None),
        (false, false) => eps(value, "norm_eps").map(Some),
        _ => Err(Fault::argument("one of q_norm and k_norm: give both, or none")),
    }
}

/// The operands behind q and k.
pub(super) fn tables(spec: &QkNormRope, norms: [&Tensor; 2], turns: [&Tensor; 2]) -> Outcome<Vec<Vec<TensorView>>> {
    let mut list = Vec::new();
    if spec.norm_eps.is_some() {
        for (name, norm) in ["q_norm", "k_norm"].into_iter().zip(norms) {
            list.push(vec![norm.read(name, spec.dtype, [1, 1, 1, spec.head_dim])?]);
        }
    }
    if spec.rope.is_some() {
        for (name, turn) in ["cos", "sin"].into_iter().zip(turns) {
            list.push(vec![turn.read(name, Dtype::F32, [1, spec.rows, 1, spec.head_dim / 2])?]);
        }
    }
    Ok(list)
}
