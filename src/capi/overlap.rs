//! Memory that is given twice: what is written overlaps nothing, what is read may overlap what is read.
//! Test: `tests/capi/overlaps.rs`.

use super::status::{Fault, Outcome};
use crate::kernel::TensorView;
use crate::kernel::spec::{Kernel, Operand};

/// Bytes from `begin` to `end`, and whether they are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range<T> {
    pub(super) begin: usize,
    pub(super) end: usize,
    pub(super) writes: bool,
    pub(super) of: T,
}

/// Two ranges that share a byte that one of them writes, if there are any.
pub(super) fn overlapping<T: Copy>(mut ranges: Vec<Range<T>>) -> Option<(T, T)> {
    ranges.sort_by_key(|range| range.begin);
    // The furthest end of all ranges so far, and of the outputs among them.
    let (mut any, mut output) = (None::<Range<T>>, None::<Range<T>>);
    for range in ranges {
        let before = if range.writes { any } else { output };
        if let Some(other) = before.filter(|other| other.end > range.begin) {
            return Some((other.of, range.of));
        }
        let further = |last: Option<Range<T>>| Some(last.filter(|last| last.end >= range.end).unwrap_or(range));
        any = further(any);
        if range.writes {
            output = further(output);
        }
    }
    None
}

/// Refuses tensors of one call that overlap, as far as that is certain: of a tensor with gaps its first
/// run is looked at.
pub(super) fn refuse(kernel: &Kernel, operands: &[Vec<TensorView>]) -> Outcome {
    let specs = kernel.operands();
    // The one operand that may be written over, element by element.
    let is_replaced = |spec: &Operand, view: &TensorView| {
        let mut outputs = specs.iter().zip(operands).filter(|(spec, _)| spec.name == "out");
        spec.name == "residual" && outputs.any(|(_, views)| views.contains(view))
    };
    let mut ranges = Vec::new();
    for (spec, views) in specs.iter().zip(operands) {
        for view in views.iter().filter(|view| !view.shape.contains(&0) && !is_replaced(spec, view)) {
            let begin = view.address as usize;
            let end = begin.saturating_add(first_run_bytes(view));
            ranges.push(Range { begin, end, writes: spec.mode.writes(), of: spec.name });
        }
    }
    let Some(names) = overlapping(ranges) else { return Ok(()) };
    let [a, b] = [names.0, names.1].map(|name| name_in_header(kernel, name));
    Err(Fault::argument(format!("{a} and {b} overlap, and one is written: give it memory of its own")))
}

fn name_in_header(kernel: &Kernel, name: &'static str) -> &'static str {
    match (kernel, name) {
        (Kernel::GateResidual(_) | Kernel::GateResidualNormModulate(_), "residual") => "x",
        (Kernel::GateResidual(_) | Kernel::GateResidualNormModulate(_), "out") => "residual",
        _ => name,
    }
}

/// Bytes from the first on that are elements, all of them.
fn first_run_bytes(view: &TensorView) -> usize {
    let mut elems = 1;
    for (extent, stride) in view.shape.into_iter().zip(view.strides).rev() {
        if extent > 1 && stride != elems {
            break;
        }
        elems *= extent;
    }
    elems * view.dtype.bytes()
}
