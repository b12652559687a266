//! Norm + modulate, gate + residual, and both in one pass, row by row.

use super::isa::{Isa, per_isa};
use super::math::{round_row, sum};
use super::parallel::for_each;
use super::tensor::{Rows, Tensor};
use crate::dtype::Dtype;
use crate::kernel::spec::{GateResidual, GateResidualNormModulate, Modulation, Norm, NormModulate};

/// Rows of one item.
const BLOCK: usize = 16;
/// Rows that are asked for ahead of their use.
const AHEAD: usize = 2;
/// Outputs beyond this many bytes bypass the caches: nobody reads them there.
const STREAMED_BYTES: usize = 32 << 20;

pub(super) fn norm_modulate(isa: Isa, spec: &NormModulate, operands: &[Vec<Tensor>], threads: usize) {
    let (x, y) = (Rows(&operands[0]), Rows(&operands[1]));
    let vectors = Vectors { modulation: spec.modulation, count: 2, operands: &operands[2..] };
    let shape = Shape { batch: spec.batch, rows: spec.rows, hidden: spec.hidden };
    let store = Store::new(isa, shape, spec.dtype);
    for_each_row(threads, shape, 8.0, &vectors, &[x], |scratch, b, n| {
        scratch.vectors.load(&vectors, b, n);
        let [shift, scale] = [0, 1].map(|i| &scratch.vectors.rows[i][..]);
        let x = x.row(b, n, &mut scratch.a);
        normalise(isa, x, spec.norm, spec.eps, shift, scale, &mut scratch.b);
        store.row(&y, b, n, &scratch.b);
    });
}

pub(super) fn gate_residual(isa: Isa, spec: &GateResidual, operands: &[Vec<Tensor>], threads: usize) {
    let [residual, branch, out] = [0, 1, 2].map(|i| Rows(&operands[i]));
    let vectors = Vectors { modulation: spec.modulation, count: 1, operands: &operands[3..] };
    let shape = Shape { batch: spec.batch, rows: spec.rows, hidden: spec.hidden };
    let store = Store::new(isa, shape, spec.dtype);
    for_each_row(threads, shape, 2.0, &vectors, &[residual, branch], |scratch, b, n| {
        scratch.vectors.load(&vectors, b, n);
        residual.load(b, n, &mut scratch.b);
        gate_row(isa, &mut scratch.b, &scratch.vectors.rows[0], branch.row(b, n, &mut scratch.a));
        store.row(&out, b, n, &scratch.b);
    });
}

pub(super) fn gate_residual_norm_modulate(
    isa: Isa,
    spec: &GateResidualNormModulate,
    operands: &[Vec<Tensor>],
    threads: usize,
) {
    let [residual, branch, out, y] = [0, 1, 2, 3].map(|i| Rows(&operands[i]));
    let vectors = Vectors { modulation: spec.modulation, count: 3, operands: &operands[4..] };
    let shape = Shape { batch: spec.batch, rows: spec.rows, hidden: spec.hidden };
    let store = Store::new(isa, shape, spec.dtype);
    for_each_row(threads, shape, 10.0, &vectors, &[residual, branch], |scratch, b, n| {
        scratch.vectors.load(&vectors, b, n);
        let [gate, shift, scale] = [0, 1, 2].map(|i| &scratch.vectors.rows[i][..]);
        residual.load(b, n, &mut scratch.b);
        gate_row(isa, &mut scratch.b, gate, branch.row(b, n, &mut scratch.a));
        store.row(&out, b, n, &scratch.b);
        round_row(spec.dtype, &mut scratch.b);
        normalise(isa, &scratch.b, spec.norm, spec.eps, shift, scale, &mut scratch.a);
        store.row(&y, b, n, &scratch.a);
    });
}

per_isa! {
    /// `x += gate·branch`, the arithmetic of every gated residual of the crate.
    fn gate_row(x: &mut [f32], gate: &[f32], branch: &[f32]) {
        for ((x, gate), branch) in x.iter_mut().zip(gate).zip(branch) {
            *x += gate * branch;
        }
    }
}

per_isa! {
    /// `y = norm(x)·(1 + scale) + shift`.
    fn normalise(x: &[f32], norm: Norm, eps: f32, shift: &[f32], scale: &[f32], y: &mut [f32]) {
        let count = x.len() as f32;
        let mean = match norm {
            Norm::Layer => sum(x, |v| v) / count,
            Norm::Rms => 0.0,
        };
        let variance = sum(x, |v| (v - mean) * (v - mean)) / count;
        let rstd = 1.0 / (variance + eps).sqrt();
        for (((y, x), shift), scale) in y.iter_mut().zip(x).zip(shift).zip(scale) {
            *y = (*x - mean) * rstd * (1.0 + scale) + shift;
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    rows: usize,
    hidden: usize,
}

/// Two rows and the modulation vectors of one thread.
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    vectors: VectorCache,
}

fn for_each_row(
    threads: usize,
    shape: Shape,
    flops: f64,
    vectors: &Vectors,
    sources: &[Rows],
    work: impl Fn(&mut Scratch, usize, usize) + Sync,
) {
    let rows = shape.batch * shape.rows;
    let row = || vec![0.0; shape.hidden];
    let scratch = || Scratch { a: row(), b: row(), vectors: VectorCache::new(vectors, shape.hidden) };
    let ops = flops * (rows * shape.hidden) as f64;
    for_each(threads, ops, rows.div_ceil(BLOCK), scratch, |scratch, item| {
        for at in item * BLOCK..rows.min((item + 1) * BLOCK) {
            let ahead = at + AHEAD;
            if ahead < rows {
                sources.iter().for_each(|source| source.prefetch(ahead / shape.rows, ahead % shape.rows));
            }
            work(scratch, at / shape.rows, at % shape.rows);
        }
    });
}

/// How a kernel's outputs are written: the same bits either way.
struct Store {
    isa: Isa,
    streamed: bool,
}

impl Store {
    fn new(isa: Isa, shape: Shape, dtype: Dtype) -> Self {
        let bytes = shape.batch * shape.rows * shape.hidden * dtype.bytes();
        Self { isa, streamed: bytes > STREAMED_BYTES }
    }

    fn row(&self, out: &Rows, b: usize, n: usize, values: &[f32]) {
        if self.streamed { out.store_streamed(self.isa, b, n, values) } else { out.store(b, n, values) }
    }
}

/// The modulation vectors of a kernel, as its operands.
#[derive(Clone, Copy)]
pub(super) struct Vectors<'a> {
    pub(super) modulation: Modulation,
    pub(super) count: usize,
    pub(super) operands: &'a [Vec<Tensor>],
}

/// The widened vectors of the row at hand, kept while rows share them.
pub(super) struct VectorCache {
    pub(super) rows: Vec<Vec<f32>>,
    loaded: Option<(usize, usize)>,
}

impl VectorCache {
    pub(super) fn new(vectors: &Vectors, hidden: usize) -> Self {
        Self { rows: vec![vec![0.0; hidden]; vectors.count], loaded: None }
    }

    /// Loads the vectors of row `n` of sample `b`.
    pub(super) fn load(&mut self, vectors: &Vectors, b: usize, n: usize) {
        let (row, set) = match vectors.modulation {
            Modulation::PerSample => (0, 0),
            Modulation::PerToken => (n, 0),
            Modulation::PerFrame => {
                let mut frame = [0.0];
                Rows(&vectors.operands[2 * vectors.count]).load(b, n, &mut frame);
                (0, usize::from(frame[0] == 0.0))
            }
        };
        let key = Some((b, if vectors.modulation == Modulation::PerFrame { set } else { row }));
        if self.loaded == key {
            return;
        }
        for (i, out) in self.rows.iter_mut().enumerate() {
            Rows(&vectors.operands[set * vectors.count + i]).load(b, row, out);
        }
        self.loaded = key;
    }
}
