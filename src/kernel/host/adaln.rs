//! Norm + modulate, gate + residual, and both in one pass, row by row.

use super::isa::{Isa, per_isa};
use super::math::{round_row, sum};
use super::parallel::for_each;
use super::tensor::{Rows, Tensor};
use crate::kernel::spec::{GateResidual, GateResidualNormModulate, Modulation, Norm, NormModulate};

/// Rows of one item.
const BLOCK: usize = 16;
/// Outputs beyond this many bytes bypass the caches: nobody reads them there.
const STREAMED_BYTES: usize = 32 << 20;

pub(super) fn norm_modulate(isa: Isa, spec: &NormModulate, operands: &[Vec<Tensor>], threads: usize) {
    let rows = spec.batch * spec.rows;
    let (x, y) = (Rows(&operands[0]), Rows(&operands[1]));
    let vectors = Vectors { modulation: spec.modulation, count: 2, operands: &operands[2..] };
    let streamed = rows * spec.hidden * spec.dtype.bytes() > STREAMED_BYTES;
    let scratch = || (vec![0.0; spec.hidden], VectorCache::new(&vectors, spec.hidden));
    let ops = 8.0 * (rows * spec.hidden) as f64;
    for_each(threads, ops, rows.div_ceil(BLOCK), scratch, |(row, cache), item| {
        for at in item * BLOCK..rows.min((item + 1) * BLOCK) {
            let (b, n) = (at / spec.rows, at % spec.rows);
            x.load(b, n, row);
            cache.load(&vectors, b, n);
            normalise(isa, row, spec.norm, spec.eps, &cache.rows[0], &cache.rows[1]);
            y.store_streamed(b, n, row, streamed);
        }
    });
}

pub(super) fn gate_residual(isa: Isa, spec: &GateResidual, operands: &[Vec<Tensor>], threads: usize) {
    let rows = spec.batch * spec.rows;
    let [residual, branch, out] = [0, 1, 2].map(|i| Rows(&operands[i]));
    let vectors = Vectors { modulation: spec.modulation, count: 1, operands: &operands[3..] };
    let streamed = rows * spec.hidden * spec.dtype.bytes() > STREAMED_BYTES;
    let scratch = || (vec![0.0; spec.hidden], vec![0.0; spec.hidden], VectorCache::new(&vectors, spec.hidden));
    let ops = 2.0 * (rows * spec.hidden) as f64;
    for_each(threads, ops, rows.div_ceil(BLOCK), scratch, |(x, y, cache), item| {
        for at in item * BLOCK..rows.min((item + 1) * BLOCK) {
            let (b, n) = (at / spec.rows, at % spec.rows);
            residual.load(b, n, x);
            branch.load(b, n, y);
            cache.load(&vectors, b, n);
            gate_row(isa, x, &cache.rows[0], y);
            out.store_streamed(b, n, x, streamed);
        }
    });
}

pub(super) fn gate_residual_norm_modulate(
    isa: Isa,
    spec: &GateResidualNormModulate,
    operands: &[Vec<Tensor>],
    threads: usize,
) {
    let rows = spec.batch * spec.rows;
    let [residual, branch, out, y] = [0, 1, 2, 3].map(|i| Rows(&operands[i]));
    let vectors = Vectors { modulation: spec.modulation, count: 3, operands: &operands[4..] };
    let streamed = rows * spec.hidden * spec.dtype.bytes() > STREAMED_BYTES;
    let scratch = || (vec![0.0; spec.hidden], vec![0.0; spec.hidden], VectorCache::new(&vectors, spec.hidden));
    let ops = 10.0 * (rows * spec.hidden) as f64;
    for_each(threads, ops, rows.div_ceil(BLOCK), scratch, |(row, other, cache), item| {
        for at in item * BLOCK..rows.min((item + 1) * BLOCK) {
            let (b, n) = (at / spec.rows, at % spec.rows);
            residual.load(b, n, row);
            branch.load(b, n, other);
            cache.load(&vectors, b, n);
            gate_row(isa, row, &cache.rows[0], other);
            out.store_streamed(b, n, row, streamed);
            round_row(spec.dtype, row);
            normalise(isa, row, spec.norm, spec.eps, &cache.rows[1], &cache.rows[2]);
            y.store_streamed(b, n, row, streamed);
        }
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
    /// `x = norm(x)·(1 + scale) + shift`.
    fn normalise(x: &mut [f32], norm: Norm, eps: f32, shift: &[f32], scale: &[f32]) {
        let count = x.len() as f32;
        let mean = match norm {
            Norm::Layer => sum(x, |v| v) / count,
            Norm::Rms => 0.0,
        };
        let variance = sum(x, |v| (v - mean) * (v - mean)) / count;
        let rstd = 1.0 / (variance + eps).sqrt();
        for ((x, shift), scale) in x.iter_mut().zip(shift).zip(scale) {
            *x = (*x - mean) * rstd * (1.0 + scale) + shift;
        }
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
