//! Rules of the law for kernels and copies: what an op touches is what it was specified to touch.

use super::rules::{at, named};
use super::{Access, OpId, OpKind, Plan};
use crate::error::Result;
use crate::kernel::spec::{Mode, Operand};

/// Every kernel gets its operands, every copy a source and a destination.
pub(super) fn check(plan: &Plan) -> Result<()> {
    for id in plan.op_ids() {
        match plan.op(id).kind {
            OpKind::Kernel(_) => kernel(plan, id)?,
            OpKind::Copy => copy(plan, id)?,
            OpKind::Mark if plan.op(id).access_count > 0 => return Err(at(plan, id, "is a mark: it touches nothing")),
            OpKind::Mark | OpKind::Comm(_) | OpKind::External(_) => {}
        }
    }
    Ok(())
}

fn kernel(plan: &Plan, id: OpId) -> Result<()> {
    let Some(kernel) = plan.kernel(id) else { return Ok(()) };
    let operands = kernel.operands();
    let mut rows = vec![0; operands.len()];
    for access in plan.accesses(id).iter().filter(|access| !access.region.is_empty()) {
        let Some(operand) = operands.get(access.operand as usize) else {
            let why = format!("{} is operand {} of {}", named(plan, access), access.operand, operands.len());
            return Err(at(plan, id, why));
        };
        view(plan, id, access, operand)?;
        rows[access.operand as usize] += access.shape[1];
    }
    for (operand, rows) in operands.iter().zip(rows) {
        let expected = if operand.shape.contains(&0) { 0 } else { operand.shape[1] };
        if rows != expected {
            let why = format!(
                "operand {} {:?} of {} is given {rows} rows: give it {expected}, in one or several views",
                operand.name,
                operand.shape,
                kernel.name()
            );
            return Err(at(plan, id, why));
        }
    }
    Ok(())
}

/// One view of an operand.
fn view(plan: &Plan, id: OpId, access: &Access, operand: &Operand) -> Result<()> {
    let buffer = plan.buffer(access.buffer);
    let refuse = |what: String| {
        let why = format!("operand {}: {} {what}", operand.name, named(plan, access));
        Err(at(plan, id, why))
    };
    if access.mode != operand.mode {
        return refuse(format!("is a {:?}, the kernel needs a {:?}", access.mode, operand.mode));
    }
    if buffer.dtype != operand.dtype {
        return refuse(format!("is {}, the kernel needs {}", buffer.dtype, operand.dtype));
    }
    let (shape, asked) = (access.shape, operand.shape);
    let samples = shape[0] == asked[0] || operand.broadcast && shape[0] == 1;
    if !samples || shape[2].checked_mul(shape[3]) != asked[2].checked_mul(asked[3]) {
        return refuse(format!("is seen as {shape:?}, the kernel needs {asked:?} (rows may be fewer)"));
    }
    let extents = access.region.extents();
    if shape == extents && extents[2] > 1 && extents[3] != buffer.dims[3] {
        return refuse("cuts the columns of several heads: a row must be one run of memory".into());
    }
    Ok(())
}

fn copy(plan: &Plan, id: OpId) -> Result<()> {
    // The builder drops empty views, of both sides if the shapes agree.
    match plan.accesses(id) {
        [] => Ok(()),
        [src, dst] if src.mode == Mode::Read && dst.mode == Mode::Write => {
            let (from, to) = (plan.buffer(src.buffer).dtype, plan.buffer(dst.buffer).dtype);
            if src.shape != dst.shape || from != to {
                let why = format!(
                    "copies {} {:?} {from} to {} {:?} {to}: shapes and dtypes must agree (a cast is a pack kernel)",
                    named(plan, src),
                    src.shape,
                    named(plan, dst),
                    dst.shape
                );
                return Err(at(plan, id, why));
            }
            Ok(())
        }
        _ => Err(at(plan, id, "is a copy: it reads one region and writes one of the same shape")),
    }
}
