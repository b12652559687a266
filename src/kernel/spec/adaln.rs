use super::{Mode, Operand};
use crate::dtype::Dtype;

/// Which normalisation; neither has weights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `(x − mean)/√(var + eps)`, population variance, two passes in f32.
    Layer,
    /// `x/√(mean(x²) + eps)`.
    Rms,
}

impl Norm {
    /// Name in kernel names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Rms => "rms",
        }
    }
}

/// How shift, scale and gate vary over the tokens.
///
/// Operands for the vectors `v…` (shift and scale, or a gate):
/// `PerSample`: each `v [B, 1, 1, C]`. `PerFrame`: each `v [B, 1, 1, C]`, then each `v0` of the
/// second set, then `frame [B, rows, 1, 1]` u8, which follows its tokens (1 takes `v`, 0 takes
/// `v0`). `PerToken`: each `v [B, rows, 1, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modulation {
    /// One vector a sample (DiT, MMDiT).
    PerSample,
    /// Two vectors a sample, chosen by a mask (Open-Sora's `x_mask`).
    PerFrame,
    /// One vector a token (Wan2.2 ti2v).
    PerToken,
}

impl Modulation {
    /// Number of operands for `vectors` vectors.
    pub const fn operand_count(self, vectors: usize) -> usize {
        match self {
            Self::PerSample | Self::PerToken => vectors,
            Self::PerFrame => 2 * vectors + 1,
        }
    }

    pub(super) fn operands(
        self,
        names: &[&'static str],
        dtype: Dtype,
        batch: usize,
        rows: usize,
        hidden: usize,
    ) -> Vec<Operand> {
        let vector_rows = if self == Self::PerToken { rows } else { 1 };
        let sets = if self == Self::PerFrame { 2 } else { 1 };
        let mut list = Vec::new();
        for _ in 0..sets {
            list.extend(
                names.iter().map(|name| Operand::new(name, Mode::Read, dtype, [batch, vector_rows, 1, hidden])),
            );
        }
        if self == Self::PerFrame {
            list.push(Operand::new("frame", Mode::Read, Dtype::U8, [batch, rows, 1, 1]));
        }
        list
    }
}

/// `y = norm(x)·(1 + scale) + shift`, rounded once.
///
/// Operands: `x [B, rows, 1, C]`, `y [B, rows, 1, C]`, then shift and scale (see [`Modulation`]).
#[derive(Clone, Debug, PartialEq)]
pub struct NormModulate {
    /// Type of all operands.
    pub dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Rows per sample.
    pub rows: usize,
    /// C.
    pub hidden: usize,
    /// Which norm.
    pub norm: Norm,
    /// Added to the variance.
    pub eps: f32,
    /// How shift and scale vary.
    pub modulation: Modulation,
}

/// `out = residual + gate·branch`, rounded once; `out` may be `residual` itself.
///
/// Operands: `residual`, `branch`, `out`, each `[B, rows, 1, C]`, then the gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateResidual {
    /// Type of all operands.
    pub dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Rows per sample.
    pub rows: usize,
    /// C.
    pub hidden: usize,
    /// How the gate varies.
    pub modulation: Modulation,
}

/// [`GateResidual`] then [`NormModulate`] of its (rounded) result, in one pass; writes both.
///
/// Operands: `residual`, `branch`, `out`, `y`, each `[B, rows, 1, C]`; then gate, shift, scale as
/// three vectors of one [`Modulation`]. `out` may be `residual` itself.
#[derive(Clone, Debug, PartialEq)]
pub struct GateResidualNormModulate {
    /// Type of all operands.
    pub dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Rows per sample.
    pub rows: usize,
    /// C.
    pub hidden: usize,
    /// Which norm.
    pub norm: Norm,
    /// Added to the variance.
    pub eps: f32,
    /// How gate, shift and scale vary.
    pub modulation: Modulation,
}

impl NormModulate {
    pub(super) fn operands(&self) -> Vec<Operand> {
        let rows = [self.batch, self.rows, 1, self.hidden];
        let mut list =
            vec![Operand::new("x", Mode::Read, self.dtype, rows), Operand::new("y", Mode::Write, self.dtype, rows)];
        list.extend(self.modulation.operands(&["shift", "scale"], self.dtype, self.batch, self.rows, self.hidden));
        list
    }

    pub(super) fn flops(&self) -> f64 {
        8.0 * (self.batch * self.rows * self.hidden) as f64
    }
}

impl GateResidual {
    pub(super) fn operands(&self) -> Vec<Operand> {
        let rows = [self.batch, self.rows, 1, self.hidden];
        let mut list = vec![
            Operand::new("residual", Mode::Read, self.dtype, rows),
            Operand::new("branch", Mode::Read, self.dtype, rows),
            Operand::new("out", Mode::Write, self.dtype, rows),
        ];
        list.extend(self.modulation.operands(&["gate"], self.dtype, self.batch, self.rows, self.hidden));
        list
    }

    pub(super) fn flops(&self) -> f64 {
        2.0 * (self.batch * self.rows * self.hidden) as f64
    }
}

impl GateResidualNormModulate {
    pub(super) fn operands(&self) -> Vec<Operand> {
        let rows = [self.batch, self.rows, 1, self.hidden];
        let mut list = vec![
            Operand::new("residual", Mode::Read, self.dtype, rows),
            Operand::new("branch", Mode::Read, self.dtype, rows),
            Operand::new("out", Mode::Write, self.dtype, rows),
            Operand::new("y", Mode::Write, self.dtype, rows),
        ];
        list.extend(self.modulation.operands(
            &["gate", "shift", "scale"],
            self.dtype,
            self.batch,
            self.rows,
            self.hidden,
        ));
        list
    }

    pub(super) fn flops(&self) -> f64 {
        10.0 * (self.batch * self.rows * self.hidden) as f64
    }
}
