use super::{Mode, Operand};
use crate::dtype::Dtype;

/// Sinusoidal embedding of a timestep: cosines then sines of `t·exp(−ln 10000·i/half)`,
/// `half = dim/2` (Peebles and Xie, arXiv 2212.09748). Frequencies in f64, rounded once.
///
/// Operands: `t [B, 1, 1, 1]` f32, `out [B, 1, 1, dim]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TimestepEmbed {
    /// Type of the output.
    pub dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Channels, even.
    pub dim: usize,
}

/// Conditioning vector: `silu(round(t_emb + table[class]))`.
///
/// Operands: `t_emb [B, 1, 1, C]`, `table [1, classes, 1, C]`, `class [B, 1, 1, 1]` i32 (in
/// `0..classes`, checked by whoever binds it), `out [B, 1, 1, C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassEmbed {
    /// Type of all float operands.
    pub dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Rows of the table, the null class included.
    pub classes: usize,
    /// C.
    pub hidden: usize,
}

impl TimestepEmbed {
    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::new("t", Mode::Read, Dtype::F32, [self.batch, 1, 1, 1]),
            Operand::new("out", Mode::Write, self.dtype, [self.batch, 1, 1, self.dim]),
        ]
    }

    pub(super) fn flops(&self) -> f64 {
        (self.batch * self.dim) as f64
    }
}

impl ClassEmbed {
    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![
            Operand::new("t_emb", Mode::Read, self.dtype, [self.batch, 1, 1, self.hidden]),
            Operand::new("table", Mode::Read, self.dtype, [1, self.classes, 1, self.hidden]),
            Operand::new("class", Mode::Read, Dtype::I32, [self.batch, 1, 1, 1]),
            Operand::new("out", Mode::Write, self.dtype, [self.batch, 1, 1, self.hidden]),
        ]
    }

    pub(super) fn flops(&self) -> f64 {
        (self.batch * self.hidden) as f64
    }
}
