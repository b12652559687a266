//! Linear layers: `matrixmultiply::sgemm` and epilogues.
//!
//! The product of a row and a column has one order of summation over k, whatever else is in the
//! call, so rows and columns are cut freely over threads. Operands in f32 are read in place;
//! others are widened, the weights once a call. With `out_dtype` unlike `dtype` (partial sums)
//! every rounding of the epilogue is to `out_dtype`.

use super::Isa;
use super::adaln::{Vectors, Widened, gate_row};
use super::convert::round_slice;
use super::lanes::{Lanes, Task};
use super::math;
use super::parallel::{for_each, threads_for};
use super::tensor::{Row, Rows, Tensor};
use crate::dtype::Dtype;
use crate::kernel::spec::{Epilogue, Gemm};

/// Rows and columns of one product: each repacks its weights (a cost of 1/rows) and its rows
/// (1/cols), and keeps rows × cols sums until the epilogue.
const ROWS: usize = 1024;
const COLS: usize = 1024;

pub(super) fn run(isa: Isa, spec: &Gemm, piece: usize, operands: &[Vec<Tensor>], threads: usize) {
    let threads = threads_for(
        threads,
        2.0 * (spec.batch * spec.chunks[piece] * spec.k * spec.parts.iter().sum::<usize>()) as f64,
        usize::MAX,
    );
    let own = Own::new(spec, piece, operands);
    let total_rows = spec.batch * spec.chunks[piece];
    let per_part = 1 + usize::from(spec.bias);
    let mut panels = Vec::new();
    for (part, &cols) in spec.parts.iter().enumerate() {
        let (w, bias) = (&operands[part * per_part], &operands[part * per_part + per_part - 1]);
        panels.extend(weights(spec, part, cols, w, spec.bias.then_some(bias), threads));
    }
    // Rows are cut first: columns only where there are too few rows for the threads.
    let row_block = total_rows.div_ceil(threads).next_multiple_of(64).clamp(64, ROWS);
    let row_blocks = total_rows.div_ceil(row_block);
    let mut items = Vec::new();
    for panel in &panels {
        let threads_a_block = threads.div_ceil(row_blocks.max(1));
        let col_block = panel.cols.div_ceil(threads_a_block).next_multiple_of(64).clamp(64, COLS);
        for rows in 0..row_blocks {
            for first in (0..panel.cols).step_by(col_block) {
                let range = (rows * row_block, ((rows + 1) * row_block).min(total_rows));
                items.push((panel, range, first, col_block.min(panel.cols - first)));
            }
        }
    }
    for_each(threads, items.len(), Scratch::default, |scratch, item| {
        let (panel, rows, first, cols) = items[item];
        own.product(isa, panel, rows, first, cols, scratch);
    });
}

/// The operands of one piece.
struct Own<'a> {
    spec: &'a Gemm,
    rows: usize,
    a: Rows<'a>,
    outs: Vec<Rows<'a>>,
    residual: Option<Rows<'a>>,
    gate: Option<Vectors<'a>>,
}

/// Weight rows that lie in memory at one stride.
struct Panel {
    part: usize,
    /// First column of its part.
    first: usize,
    cols: usize,
    w: *const f32,
    stride: usize,
    bias: Option<Vec<f32>>,
    /// Owner of `w` where it had to be widened.
    _widened: Vec<f32>,
}

// SAFETY: `w` points to a leased weight, which is only read, or to the panel's own vector.
unsafe impl Sync for Panel {}

#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
    sums: Vec<f32>,
    residual: Vec<f32>,
    gate: Widened,
}

fn weights(
    spec: &Gemm,
    part: usize,
    cols: usize,
    w: &[Tensor],
    bias: Option<&Vec<Tensor>>,
    threads: usize,
) -> Vec<Panel> {
    if cols == 0 {
        return Vec::new();
    }
    let bias = bias.map(|tensors| {
        let mut values = vec![0.0f32; cols];
        Rows::new(tensors).row(0, 0).load(0, &mut values);
        values
    });
    if spec.k > 0 && spec.dtype == Dtype::F32 && w.iter().all(Tensor::has_contiguous_rows) {
        let mut first = 0;
        let panel = |tensor: &Tensor| {
            let cols = tensor.shape[1];
            let bias = bias.as_ref().map(|bias| bias[first..first + cols].to_vec());
            let panel = Panel {
                part,
                first,
                cols,
                w: tensor.ptr.cast::<f32>().cast_const(),
                stride: tensor.strides[1],
                bias,
                _widened: Vec::new(),
            };
            first += cols;
            panel
        };
        return w.iter().map(panel).collect();
    }
    let mut widened = vec![0.0f32; cols * spec.k];
    let rows = Rows::new(w);
    if spec.k > 0 {
        let blocks: Vec<_> = widened.chunks_mut(64 * spec.k).map(std::sync::Mutex::new).collect();
        for_each(
            threads,
            blocks.len(),
            || (),
            |(), i| {
                // A block has one owner, so its lock is never poisoned or held.
                if let Ok(mut block) = blocks[i].lock() {
                    for (j, row) in block.chunks_exact_mut(spec.k).enumerate() {
                        rows.row(0, i * 64 + j).load(0, row);
                    }
                }
            },
        );
    }
    vec![Panel { part, first: 0, cols, w: widened.as_ptr(), stride: spec.k, bias, _widened: widened }]
}

impl<'a> Own<'a> {
    fn new(spec: &'a Gemm, piece: usize, operands: &'a [Vec<Tensor>]) -> Self {
        let (residual, gate) = match spec.epilogue {
            Epilogue::None | Epilogue::Gelu | Epilogue::Silu => (0, 0),
            Epilogue::Residual => (1, 0),
            Epilogue::GatedResidual(modulation) => (1, modulation.operand_count(1)),
        };
        let shared = spec.parts.len() * (1 + usize::from(spec.bias));
        let first = shared + piece * (1 + spec.parts.len() + residual + gate);
        let after = first + 1 + spec.parts.len();
        Self {
            spec,
            rows: spec.chunks[piece],
            a: Rows::new(&operands[first]),
            outs: operands[first + 1..after].iter().map(|tensors| Rows::new(tensors)).collect(),
            residual: (residual == 1).then(|| Rows::new(&operands[after])),
            gate: match spec.epilogue {
                Epilogue::GatedResidual(kind) => Some(Vectors::new(kind, 1, &operands[after + 1..after + 1 + gate])),
                _ => None,
            },
        }
    }

    /// Sample and row of flat row `i`.
    fn place(&self, i: usize) -> (usize, usize) {
        (i / self.rows, i % self.rows)
    }

    /// Columns `first..first + cols` of a panel for the flat rows `rows`.
    fn product(&self, isa: Isa, panel: &Panel, rows: (usize, usize), first: usize, cols: usize, scratch: &mut Scratch) {
        let (m, k) = (rows.1 - rows.0, self.spec.k);
        let row_of = |operand: &Rows<'_>, i: usize| {
            let (b, n) = self.place(i);
            operand.row(b, n)
        };
        let in_place = uniform((rows.0..rows.1).map(|i| row_of(&self.a, i)));
        let (a, a_stride) = in_place.unwrap_or_else(|| {
            scratch.a.resize(m * k, 0.0);
            if k > 0 {
                for (i, row) in scratch.a.chunks_exact_mut(k).enumerate() {
                    row_of(&self.a, rows.0 + i).load(0, row);
                }
            }
            (scratch.a.as_mut_ptr(), k)
        });
        scratch.sums.resize(m * cols, 0.0);
        // SAFETY: A has m rows of k elements, W `cols` rows of k, the sums m·cols; sums overlap
        // neither, being scratch.
        unsafe {
            matrixmultiply::sgemm(
                m,
                k,
                cols,
                1.0,
                a,
                a_stride as isize,
                1,
                panel.w.add(first * panel.stride),
                1,
                panel.stride as isize,
                0.0,
                scratch.sums.as_mut_ptr(),
                cols as isize,
                1,
            );
        }
        let column = panel.first + first;
        let bias = panel.bias.as_ref().map(|bias| &bias[first..first + cols]);
        let Scratch { sums, residual, gate, .. } = scratch;
        residual.resize(cols, 0.0);
        for (i, sums) in sums.chunks_exact_mut(cols).take(m).enumerate() {
            let (b, n) = self.place(rows.0 + i);
            if let Some(rows) = &self.residual {
                rows.row(b, n).load(column, residual);
            }
            let gate = self.gate.as_ref().map(|vectors| gate.load(vectors.row(0, b, n)).wrapping_add(column));
            isa.run(Finish { epilogue: self.spec.epilogue, dtype: self.spec.out_dtype, sums, bias, residual, gate });
            self.outs[panel.part].row(b, n).store(column, sums);
        }
    }
}

/// First row and stride, if the rows are f32 and evenly spaced.
fn uniform(mut rows: impl Iterator<Item = Row>) -> Option<(*mut f32, usize)> {
    let first = rows.next()?.f32_ptr()?;
    let (mut stride, mut last) = (None, first as usize);
    for row in rows {
        let at = row.f32_ptr()? as usize;
        let step = at.checked_sub(last)?;
        if *stride.get_or_insert(step) != step {
            return None;
        }
        last = at;
    }
    Some((first, stride.unwrap_or(0) / size_of::<f32>()))
}

/// The epilogue of one row.
struct Finish<'a> {
    epilogue: Epilogue,
    dtype: Dtype,
    sums: &'a mut [f32],
    bias: Option<&'a [f32]>,
    residual: &'a [f32],
    gate: Option<*const f32>,
}

impl Task for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (p, len) = (self.sums.as_mut_ptr(), self.sums.len());
        let residual = self.residual.as_ptr();
        // SAFETY: sums, bias and residual hold `len` elements; so does the gate from the first
        // of these columns on.
        unsafe {
            if let Some(bias) = self.bias {
                math::map(lanes, [p.cast_const(), bias.as_ptr()], p, len, false, math::Add);
            }
            if self.epilogue == Epilogue::None {
                return;
            }
            round_slice(self.dtype, std::slice::from_raw_parts_mut(p, len));
            match self.epilogue {
                Epilogue::None => {}
                Epilogue::Gelu => math::map(lanes, [p.cast_const()], p, len, false, math::Gelu),
                Epilogue::Silu => math::map(lanes, [p.cast_const()], p, len, false, math::Silu),
                Epilogue::Residual => {
                    math::map(lanes, [residual, p.cast_const()], p, len, false, math::Add);
                }
                Epilogue::GatedResidual(_) => {
                    if let Some(gate) = self.gate {
                        gate_row(lanes, residual, gate, p, p, len);
                    }
                }
            }
        }
    }
}
