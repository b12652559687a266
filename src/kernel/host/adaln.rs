//! Norm, modulation, gate and residual: row kernels, each row in one pass over memory.
//!
//! A row is widened into scratch that stays in the nearest cache; its statistics are taken there
//! in two passes, in an order that depends on `hidden` and the instruction set alone. The fused
//! kernel is the same functions on the rounded row, so it equals the chain bit for bit.

use super::Isa;
use super::convert::round_slice;
use super::lanes::{Lanes, Task};
use super::math;
use super::parallel::{for_each, threads_for};
use super::tensor::{Row, Rows, Tensor};
use crate::dtype::Dtype;
use crate::kernel::spec::{GateResidual, GateResidualNormModulate, Modulation, Norm, NormModulate};

pub(super) fn norm_modulate(isa: Isa, spec: &NormModulate, operands: &[Vec<Tensor>], threads: usize) {
    RowKernel {
        dtype: spec.dtype,
        size: [spec.batch, spec.rows, spec.hidden],
        gate: None,
        norm: Some((spec.norm, spec.eps, Rows::new(&operands[1]))),
        input: Rows::new(&operands[0]),
        modulation: Vectors::new(spec.modulation, 2, &operands[2..]),
    }
    .run(isa, threads);
}

pub(super) fn gate_residual(isa: Isa, spec: &GateResidual, operands: &[Vec<Tensor>], threads: usize) {
    RowKernel {
        dtype: spec.dtype,
        size: [spec.batch, spec.rows, spec.hidden],
        gate: Some((Rows::new(&operands[1]), Rows::new(&operands[2]))),
        norm: None,
        input: Rows::new(&operands[0]),
        modulation: Vectors::new(spec.modulation, 1, &operands[3..]),
    }
    .run(isa, threads);
}

pub(super) fn gate_residual_norm_modulate(
    isa: Isa,
    spec: &GateResidualNormModulate,
    operands: &[Vec<Tensor>],
    threads: usize,
) {
    RowKernel {
        dtype: spec.dtype,
        size: [spec.batch, spec.rows, spec.hidden],
        gate: Some((Rows::new(&operands[1]), Rows::new(&operands[2]))),
        norm: Some((spec.norm, spec.eps, Rows::new(&operands[3]))),
        input: Rows::new(&operands[0]),
        modulation: Vectors::new(spec.modulation, 3, &operands[4..]),
    }
    .run(isa, threads);
}

/// `out[i] = residual[i] + gate[i]·x[i]`, unrounded; shared with the GEMM's epilogue.
///
/// # Safety
/// Each pointer holds `len` elements; `out` is `x` or `residual`, or overlaps no input.
#[inline(always)]
pub(super) unsafe fn gate_row<L: Lanes>(
    lanes: L,
    residual: *const f32,
    gate: *const f32,
    x: *const f32,
    out: *mut f32,
    len: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { math::map(lanes, [residual, gate, x], out, len, false, math::Gate) }
}

/// The vectors of a [`Modulation`], as rows.
#[derive(Clone)]
pub(super) struct Vectors<'a> {
    kind: Modulation,
    count: usize,
    operands: &'a [Vec<Tensor>],
}

impl<'a> Vectors<'a> {
    pub(super) fn new(kind: Modulation, count: usize, operands: &'a [Vec<Tensor>]) -> Self {
        Self { kind, count, operands }
    }

    /// Vector `which` for row `n` of sample `b`.
    pub(super) fn row(&self, which: usize, b: usize, n: usize) -> Row {
        let rows = |i: usize| Rows::new(&self.operands[i]);
        match self.kind {
            Modulation::PerSample => rows(which).row(b, 0),
            Modulation::PerToken => rows(which).row(b, n),
            Modulation::PerFrame => {
                let second = rows(2 * self.count).row(b, n).int(0) == 0;
                rows(which + if second { self.count } else { 0 }).row(b, 0)
            }
        }
    }
}

/// A vector in f32: in place where it is, else widened into scratch, at most once a change.
#[derive(Default)]
pub(super) struct Widened {
    at: usize,
    values: Vec<f32>,
}

impl Widened {
    /// Start of `row` in f32.
    #[inline]
    pub(super) fn load(&mut self, row: Row) -> *const f32 {
        if let Some(p) = row.f32_ptr() {
            return p;
        }
        // Vectors are only read, so the same address holds the same values.
        if self.at != row.address() || self.values.len() != row.len() {
            self.values.resize(row.len(), 0.0);
            row.load(0, &mut self.values);
            self.at = row.address();
        }
        self.values.as_ptr()
    }
}

struct RowKernel<'a> {
    dtype: Dtype,
    /// `[B, rows, C]`.
    size: [usize; 3],
    /// Branch and out.
    gate: Option<(Rows<'a>, Rows<'a>)>,
    /// y.
    norm: Option<(Norm, f32, Rows<'a>)>,
    /// x, or the residual.
    input: Rows<'a>,
    modulation: Vectors<'a>,
}

#[derive(Default)]
struct Scratch {
    row: Vec<f32>,
    branch: Vec<f32>,
    vectors: [Widened; 3],
}

impl RowKernel<'_> {
    fn run(&self, isa: Isa, threads: usize) {
        let [batch, rows, hidden] = self.size;
        if hidden == 0 {
            return;
        }
        let block = (32 * 1024 / hidden).max(1);
        let blocks = rows.div_ceil(block);
        let work = 10.0 * (batch * rows * hidden) as f64;
        // Beyond the caches a store that bypasses them saves reading the line first.
        let stream = batch * rows * hidden * self.dtype.bytes() > 8 << 20;
        for_each(threads_for(threads, work, batch * blocks), batch * blocks, Scratch::default, |scratch, item| {
            let (b, first) = (item / blocks, item % blocks * block);
            let range = (first, (first + block).min(rows));
            isa.run(Block { kernel: self, scratch, b, range, stream });
        });
    }
}

struct Block<'a, 'b> {
    kernel: &'a RowKernel<'a>,
    scratch: &'b mut Scratch,
    b: usize,
    range: (usize, usize),
    stream: bool,
}

impl Task for Block<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { kernel, scratch, b, range, stream } = self;
        let hidden = kernel.size[2];
        scratch.row.resize(hidden, 0.0);
        scratch.branch.resize(hidden, 0.0);
        for n in range.0..range.1 {
            let Scratch { row, branch, vectors } = scratch;
            let mut x = widened(kernel.input.row(b, n), row);
            let mut next = 0;
            if let Some((branches, out)) = &kernel.gate {
                let gate = vectors[0].load(kernel.modulation.row(0, b, n));
                next = 1;
                let branch = widened(branches.row(b, n), branch);
                // SAFETY: all hold `hidden` elements (checked operands); the output is scratch,
                // possibly the first input.
                unsafe { gate_row(lanes, x, gate, branch, row.as_mut_ptr(), hidden) };
                round_slice(kernel.dtype, row);
                store(lanes, out.row(b, n), row, stream);
                x = row.as_ptr();
            }
            if let Some((norm, eps, y)) = &kernel.norm {
                let shift = vectors[next].load(kernel.modulation.row(next, b, n));
                let scale = vectors[next + 1].load(kernel.modulation.row(next + 1, b, n));
                // SAFETY: `hidden` elements, in scratch or in an operand that is only read.
                let modulate = statistics(lanes, *norm, *eps, unsafe { std::slice::from_raw_parts(x, hidden) });
                let inputs = [x, shift, scale];
                match direct(lanes, y.row(b, n), hidden) {
                    // SAFETY: all hold `hidden` elements (checked operands), y is no input, and it
                    // is aligned.
                    Some(p) => unsafe { math::map(lanes, inputs, p, hidden, stream, modulate) },
                    None => {
                        let p = row.as_mut_ptr();
                        // SAFETY: all hold `hidden` elements; the output is scratch, possibly the
                        // first input.
                        unsafe { math::map(lanes, inputs, p, hidden, false, modulate) };
                        y.row(b, n).store(0, row);
                    }
                }
            }
        }
        if stream {
            lanes.flush();
        }
    }
}

/// Start of the row in f32: in place, or widened into `scratch`.
#[inline(always)]
fn widened(row: Row, scratch: &mut [f32]) -> *const f32 {
    match row.f32_ptr() {
        Some(p) => p,
        None => {
            row.load(0, scratch);
            scratch.as_ptr()
        }
    }
}

/// Two passes over the row; RMS has no mean.
#[inline(always)]
fn statistics<L: Lanes>(lanes: L, norm: Norm, eps: f32, row: &[f32]) -> math::Modulate {
    let count = row.len() as f32;
    let mean = match norm {
        Norm::Layer => math::sum(lanes, row, 0.0, math::Itself) / count,
        Norm::Rms => 0.0,
    };
    let variance = math::sum(lanes, row, mean, math::SquareFrom(mean)) / count;
    math::Modulate { mean, inverse: 1.0 / (variance + eps).sqrt() }
}

/// Start of a row that vectors may be stored to: f32 in one run, whole aligned vectors.
#[inline(always)]
fn direct<L: Lanes>(_: L, row: Row, len: usize) -> Option<*mut f32> {
    row.f32_ptr().filter(|p| (*p as usize).is_multiple_of(4 * L::N) && len.is_multiple_of(L::N))
}

/// Rounds `values` into `row`, past the caches if asked and aligned.
#[inline(always)]
fn store<L: Lanes>(lanes: L, row: Row, values: &[f32], stream: bool) {
    match direct(lanes, row, values.len()) {
        // SAFETY: the row has as many elements as `values`, which is scratch.
        Some(p) if stream => unsafe { math::map(lanes, [values.as_ptr()], p, values.len(), true, math::Itself) },
        _ => row.store(0, values),
    }
}
