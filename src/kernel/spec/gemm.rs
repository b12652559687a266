use super::adaln::Modulation;
use super::{Mode, Operand};
use crate::dtype::Dtype;

/// What happens to `A·Wᵀ + bias` before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// Stored as it is.
    None,
    /// GELU, tanh form: `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    Gelu,
    /// `x·sigmoid(x)`.
    Silu,
    /// Added to a residual (possibly one set of rows for all samples: positional embedding).
    Residual,
    /// `residual + gate·x`.
    GatedResidual(Modulation),
}

impl Epilogue {
    fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gelu => "_gelu",
            Self::Silu => "_silu",
            Self::Residual => "_residual",
            Self::GatedResidual(_) => "_gated_residual",
        }
    }
}

/// Linear layer: `out_j = epilogue(A·W_jᵀ + bias_j)` for each part `j` (a slice of the weight's
/// rows with an output of its own: q, k and v of some heads), on each chunk of rows.
///
/// Chunks are pieces: the chunks of an AllGather are projected as they arrive. One summation
/// order over `k` for every row and column, whatever the number of either (rules 2 and 3 of R1).
///
/// Operands: for each part `w_j [1, cols_j, 1, k]` and, with `bias`, `bias_j [1, 1, 1, cols_j]`;
/// then for each chunk `a [B, rows, 1, k]`, `out_j [B, rows, 1, cols_j]` for each part, and what
/// the epilogue reads: `residual [B, rows, 1, cols]` (may be the output itself) and the gate's
/// operands (see [`Modulation`]). An epilogue with a residual has one part.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemm {
    /// Type of A, W, bias, residual, gate.
    pub dtype: Dtype,
    /// Type of the outputs: `dtype`, or f32 for partial sums.
    pub out_dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Rows per sample of each chunk.
    pub chunks: Vec<usize>,
    /// Length of the sum.
    pub k: usize,
    /// Output columns of each part.
    pub parts: Vec<usize>,
    /// Whether every part has a bias.
    pub bias: bool,
    /// What happens before the store.
    pub epilogue: Epilogue,
}

impl Gemm {
    /// One chunk, one part.
    pub fn linear(
        dtype: Dtype,
        batch: usize,
        rows: usize,
        k: usize,
        cols: usize,
        bias: bool,
        epilogue: Epilogue,
    ) -> Self {
        Self { dtype, out_dtype: dtype, batch, chunks: vec![rows], k, parts: vec![cols], bias, epilogue }
    }

    pub(super) fn operands(&self) -> Vec<Operand> {
        let mut list = Vec::new();
        for &cols in &self.parts {
            list.push(Operand::new("w", Mode::Read, self.dtype, [1, cols, 1, self.k]));
            if self.bias {
                list.push(Operand::new("bias", Mode::Read, self.dtype, [1, 1, 1, cols]));
            }
        }
        for (piece, &rows) in self.chunks.iter().enumerate() {
            let of_piece = |o: Operand| o.in_piece(piece);
            list.push(of_piece(Operand::new("a", Mode::Read, self.dtype, [self.batch, rows, 1, self.k])));
            for &cols in &self.parts {
                list.push(of_piece(Operand::new("out", Mode::Write, self.out_dtype, [self.batch, rows, 1, cols])));
            }
            let cols = self.parts.first().copied().unwrap_or(0);
            if matches!(self.epilogue, Epilogue::Residual | Epilogue::GatedResidual(_)) {
                let residual = Operand::new("residual", Mode::Read, self.dtype, [self.batch, rows, 1, cols]);
                list.push(of_piece(Operand { broadcast: true, ..residual }));
            }
            if let Epilogue::GatedResidual(modulation) = self.epilogue {
                list.extend(
                    modulation.operands(&["gate"], self.dtype, self.batch, rows, cols).into_iter().map(of_piece),
                );
            }
        }
        list
    }

    pub(super) fn flops(&self, piece: usize) -> f64 {
        let cols: usize = self.parts.iter().sum();
        2.0 * (self.batch * self.chunks[piece]) as f64 * self.k as f64 * cols as f64
    }

    pub(super) fn name(&self) -> String {
        let cast = if self.out_dtype == self.dtype { String::new() } else { format!("_to_{}", self.out_dtype) };
        format!("gemm_{}{}{}{cast}", self.dtype, if self.bias { "_bias" } else { "" }, self.epilogue.name())
    }
}
