//! Linear layers on `matrixmultiply`, whose bits do not depend on how rows and columns are cut
//! (`tests/rules.rs`), so blocks and threads are free to choose.

use std::ops::Range;

use super::adaln::{VectorCache, Vectors, gate_row};
use super::isa::{Isa, per_isa};
use super::math::{gelu, round_row, silu};
use super::parallel::for_each;
use super::tensor::{Rows, Tensor};
use crate::dtype::Dtype;
use crate::kernel::spec::{Epilogue, Gemm};

/// Rows and columns of one block: its sums stay in the second-level cache.
const BLOCK_ROWS: usize = 256;
const BLOCK_COLS: usize = 768;

pub(super) fn run(isa: Isa, spec: &Gemm, piece: usize, operands: &[Vec<Tensor>], threads: usize) {
    let layout = Layout::new(spec, piece);
    let rows = spec.chunks[piece];
    let a = Rows(&operands[layout.a]);
    let weights: Vec<Weight> =
        (0..spec.parts.len()).map(|j| Weight::new(spec, j, &operands[layout.weight(j)])).collect();
    let blocks = blocks(spec, &operands[layout.a], rows);
    let flops = 2.0 * (spec.batch * rows * spec.k) as f64 * spec.parts.iter().sum::<usize>() as f64;
    let modulation = match spec.epilogue {
        Epilogue::GatedResidual(modulation) => Some(modulation),
        _ => None,
    };
    let vectors = modulation.map(|modulation| Vectors { modulation, count: 1, operands: &operands[layout.gate()..] });
    let scratch = || Scratch::new(spec, vectors.as_ref());
    for_each(threads, flops, blocks.len(), scratch, |scratch, item| {
        let block = blocks[item];
        let cols = block.cols;
        multiply(spec, &a, rows, &weights[block.part], block, scratch);
        if spec.bias {
            let bias = Rows(&operands[layout.bias(block.part)]);
            bias.load_cols(0, 0, block.first_col, &mut scratch.bias[..cols]);
        }
        let out = Rows(&operands[layout.out(block.part)]);
        for i in 0..block.rows {
            let row = &mut scratch.sums[i * cols..(i + 1) * cols];
            let (b, n) = ((block.first_row + i) / rows, (block.first_row + i) % rows);
            if spec.bias {
                add_row(isa, row, &scratch.bias[..cols]);
            }
            finish(isa, spec, row);
            if let Epilogue::Residual | Epilogue::GatedResidual(_) = spec.epilogue {
                let residual = &mut scratch.residual[..cols];
                Rows(&operands[layout.residual()]).load_cols(b, n, block.first_col, residual);
                match (&vectors, &mut scratch.cache) {
                    (Some(vectors), Some(cache)) => {
                        cache.load(vectors, b, n);
                        gate_row(isa, residual, &cache.rows[0][block.first_col..block.first_col + cols], row);
                    }
                    _ => add_row(isa, residual, row),
                }
                row.copy_from_slice(residual);
            }
            let (tensor, local) = out.locate(n);
            tensor.store(tensor.offset(b, local, 0) + block.first_col, row);
        }
    });
}

/// Where the operands of a piece stand in the spec's list.
struct Layout {
    per_part: usize,
    parts: usize,
    a: usize,
}

impl Layout {
    fn new(spec: &Gemm, piece: usize) -> Self {
        let per_part = 1 + usize::from(spec.bias);
        let extra = match spec.epilogue {
            Epilogue::Residual => 1,
            Epilogue::GatedResidual(modulation) => 1 + modulation.operand_count(1),
            _ => 0,
        };
        let parts = spec.parts.len();
        Self { per_part, parts, a: per_part * parts + piece * (1 + parts + extra) }
    }

    fn weight(&self, part: usize) -> usize {
        part * self.per_part
    }

    fn bias(&self, part: usize) -> usize {
        part * self.per_part + 1
    }

    fn out(&self, part: usize) -> usize {
        self.a + 1 + part
    }

    fn residual(&self) -> usize {
        self.a + 1 + self.parts
    }

    fn gate(&self) -> usize {
        self.residual() + 1
    }
}

/// A weight as f32 rows: in place, or widened once for all blocks.
struct Weight {
    view: Option<Tensor>,
    widened: Vec<f32>,
}

impl Weight {
    fn new(spec: &Gemm, part: usize, views: &[Tensor]) -> Self {
        match views {
            [view] if view.dtype == Dtype::F32 => Self { view: Some(*view), widened: Vec::new() },
            _ => {
                let mut widened = vec![0.0; spec.parts[part] * spec.k];
                if spec.k > 0 {
                    let rows = Rows(views);
                    widened.chunks_exact_mut(spec.k).enumerate().for_each(|(i, row)| rows.load(0, i, row));
                }
                Self { view: None, widened }
            }
        }
    }

    /// First element of row `row` and the distance of rows.
    fn at(&self, k: usize, row: usize) -> (*const f32, usize) {
        match &self.view {
            Some(view) => (view.f32_at(view.offset(0, row, 0)), view.strides[1]),
            None => (self.widened[row * k..].as_ptr(), k),
        }
    }
}

/// Consecutive rows of A, counted over samples, times consecutive columns of one part.
#[derive(Clone, Copy)]
struct Block {
    part: usize,
    first_row: usize,
    rows: usize,
    first_col: usize,
    cols: usize,
}

fn blocks(spec: &Gemm, a: &[Tensor], rows: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for run in even_runs(spec, a, rows) {
        for (part, &cols) in spec.parts.iter().enumerate() {
            for first_row in run.clone().step_by(BLOCK_ROWS) {
                let rows = BLOCK_ROWS.min(run.end - first_row);
                for first_col in (0..cols).step_by(BLOCK_COLS) {
                    let cols = BLOCK_COLS.min(cols - first_col);
                    blocks.push(Block { part, first_row, rows, first_col, cols });
                }
            }
        }
    }
    blocks
}

/// Rows that one product may take together: all of them if they are widened anyway or lie at one
/// distance over all samples, else those of one view and sample.
fn even_runs(spec: &Gemm, a: &[Tensor], rows: usize) -> Vec<Range<usize>> {
    let whole = vec![0..spec.batch * rows];
    match a {
        // With k = 0 there is no view of A; the sums are 0 all the same.
        [] => whole,
        _ if spec.dtype != Dtype::F32 => whole,
        [view] if spec.batch == 1 || view.strides[0] == rows * view.strides[1] => whole,
        views => {
            let mut runs = Vec::new();
            for sample in 0..spec.batch {
                let mut start = sample * rows;
                for view in views {
                    runs.push(start..start + view.shape[1]);
                    start += view.shape[1];
                }
            }
            runs
        }
    }
}

struct Scratch {
    sums: Vec<f32>,
    a: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    cache: Option<VectorCache>,
}

impl Scratch {
    fn new(spec: &Gemm, vectors: Option<&Vectors>) -> Self {
        let cols = BLOCK_COLS.min(spec.parts.iter().copied().max().unwrap_or(0));
        let rows = BLOCK_ROWS.min(spec.batch * spec.chunks.iter().copied().max().unwrap_or(0));
        let a = if spec.dtype == Dtype::F32 { 0 } else { rows * spec.k };
        let cache = vectors.map(|vectors| VectorCache::new(vectors, spec.parts[0]));
        Self { sums: vec![0.0; rows * cols], a: vec![0.0; a], bias: vec![0.0; cols], residual: vec![0.0; cols], cache }
    }
}

fn multiply(spec: &Gemm, a: &Rows, sample_rows: usize, weight: &Weight, block: Block, scratch: &mut Scratch) {
    let Block { rows, cols, .. } = block;
    let sums = &mut scratch.sums[..rows * cols];
    if spec.k == 0 {
        sums.fill(0.0);
        return;
    }
    let place = |row: usize| (row / sample_rows, row % sample_rows);
    let (pointer, stride) = if spec.dtype == Dtype::F32 {
        let (sample, row) = place(block.first_row);
        let (view, row) = a.locate(row);
        (view.f32_at(view.offset(sample, row, 0)), view.strides[1])
    } else {
        let widened = &mut scratch.a[..rows * spec.k];
        for (i, out) in widened.chunks_exact_mut(spec.k).enumerate() {
            let (sample, row) = place(block.first_row + i);
            a.load(sample, row, out);
        }
        (widened.as_ptr(), spec.k)
    };
    let (w, w_stride) = weight.at(spec.k, block.first_col);
    // SAFETY: A's rows are `rows` rows, `k` long and `stride` apart (`even_runs`); W's are `cols`
    // rows, `k` long and `w_stride` apart, both by the checked shapes; `sums` is rows × cols and
    // borrowed mutably.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            spec.k,
            cols,
            1.0,
            pointer,
            stride as isize,
            1,
            w,
            1,
            w_stride as isize,
            0.0,
            sums.as_mut_ptr(),
            cols as isize,
            1,
        );
    }
}

per_isa! {
    fn add_row(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// Rounds where the chain of separate kernels would store.
fn finish(isa: Isa, spec: &Gemm, row: &mut [f32]) {
    if spec.epilogue != Epilogue::None {
        round_row(spec.dtype, row);
    }
    match spec.epilogue {
        Epilogue::Gelu => gelu_row(isa, row),
        Epilogue::Silu => silu_row(isa, row),
        _ => {}
    }
}

per_isa! {
    fn gelu_row(row: &mut [f32]) {
        row.iter_mut().for_each(|x| *x = gelu(*x));
    }
}

per_isa! {
    fn silu_row(row: &mut [f32]) {
        row.iter_mut().for_each(|x| *x = silu(*x));
    }
}
