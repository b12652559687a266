//! What a kernel computes, as data: its parameters, the operands it reads and writes, its cost.
//!
//! A spec knows no buffer, no device and no plan; plans hold specs, executors run them. Every
//! tensor is four-dimensional. Token tensors are `[B, rows, heads, D]` or `[B, rows, 1, C]`;
//! weights `[1, rows, 1, K]`; vectors `[1, 1, 1, C]`; per-sample vectors `[B, 1, 1, C]`.
//!
//! Rounding belongs to these definitions: a kernel computes in f32 and rounds to its dtype where
//! it stores; a fused kernel equals the chain of its parts bit for bit, because it rounds in
//! registers where the chain would store (rule 1 of R1, `tests/rules.rs`).

mod adaln;
mod attention;
mod embed;
mod gemm;
mod pack;
mod qk_norm_rope;

pub use adaln::{GateResidual, GateResidualNormModulate, Modulation, Norm, NormModulate};
pub use attention::{Attention, KeySegment};
pub use embed::{ClassEmbed, TimestepEmbed};
pub use gemm::{Epilogue, Gemm};
pub use pack::Pack;
pub use qk_norm_rope::{QkNormRope, RopePairs};

use crate::dtype::Dtype;

/// How an op touches an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Only reads it.
    Read,
    /// Writes every element, reads none.
    Write,
    /// Reads and writes it in place.
    Update,
}

impl Mode {
    /// True for `Read` and `Update`.
    pub const fn reads(self) -> bool {
        !matches!(self, Self::Write)
    }

    /// True for `Write` and `Update`.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// One operand of a kernel.
///
/// A plan may give an operand as several views, concatenated along dimension 1 (a rank's rows
/// need not be contiguous); dimensions 2 and 3 may be cut differently as long as their product
/// agrees (`[B, n, H, D]` where `[B, n, 1, H·D]` is asked).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Name for messages.
    pub name: &'static str,
    /// How the kernel touches it.
    pub mode: Mode,
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub shape: [usize; 4],
    /// The piece of the kernel that touches it, `None` if every piece does.
    pub piece: Option<u16>,
    /// True if dimension 0 may be 1 where `shape` says B: one set of rows for all samples.
    pub broadcast: bool,
}

impl Operand {
    fn new(name: &'static str, mode: Mode, dtype: Dtype, shape: [usize; 4]) -> Self {
        Self { name, mode, dtype, shape, piece: None, broadcast: false }
    }

    fn in_piece(self, piece: usize) -> Self {
        Self { piece: Some(piece as u16), ..self }
    }

    /// Bytes of the operand.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product::<u64>() * self.dtype.bytes() as u64
    }
}

/// What a kernel costs, for predictions and the paced clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
    /// Bytes read and written, each operand once.
    pub bytes: f64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// A kernel and its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// Linear layer, possibly in parts and chunks.
    Gemm(Gemm),
    /// Attention forward.
    Attention(Attention),
    /// Normalise and modulate.
    NormModulate(NormModulate),
    /// Gate and add to the residual.
    GateResidual(GateResidual),
    /// Both of the above in one pass.
    GateResidualNormModulate(GateResidualNormModulate),
    /// RMS norm of q and k and rotary embedding, in place.
    QkNormRope(QkNormRope),
    /// Strided copies, possibly with a cast.
    Pack(Pack),
    /// Sinusoidal embedding of the timestep.
    TimestepEmbed(TimestepEmbed),
    /// Conditioning vector of timestep and class.
    ClassEmbed(ClassEmbed),
}

impl Kernel {
    /// The operands, in the order in which a plan lists them.
    pub fn operands(&self) -> Vec<Operand> {
        match self {
            Self::Gemm(spec) => spec.operands(),
            Self::Attention(spec) => spec.operands(),
            Self::NormModulate(spec) => spec.operands(),
            Self::GateResidual(spec) => spec.operands(),
            Self::GateResidualNormModulate(spec) => spec.operands(),
            Self::QkNormRope(spec) => spec.operands(),
            Self::Pack(spec) => spec.operands(),
            Self::TimestepEmbed(spec) => spec.operands(),
            Self::ClassEmbed(spec) => spec.operands(),
        }
    }

    /// Pieces that can run one after the other, each as soon as its own operands are there.
    pub fn pieces(&self) -> usize {
        match self {
            Self::Gemm(spec) => spec.chunks.len(),
            _ => 1,
        }
    }

    /// Floating-point operations of one piece.
    pub fn piece_flops(&self, piece: usize) -> f64 {
        match self {
            Self::Gemm(spec) => spec.flops(piece),
            Self::Attention(spec) => spec.flops(),
            Self::NormModulate(spec) => spec.flops(),
            Self::GateResidual(spec) => spec.flops(),
            Self::GateResidualNormModulate(spec) => spec.flops(),
            Self::QkNormRope(spec) => spec.flops(),
            Self::Pack(_) => 0.0,
            Self::TimestepEmbed(spec) => spec.flops(),
            Self::ClassEmbed(spec) => spec.flops(),
        }
    }

    /// Cost of one piece; operands shared by all pieces count in the first.
    pub fn piece_cost(&self, piece: usize) -> Cost {
        let bytes = self
            .operands()
            .iter()
            .filter(|o| o.piece.unwrap_or(0) as usize == piece)
            .map(|o| o.bytes() as f64 * if o.mode == Mode::Update { 2.0 } else { 1.0 })
            .sum();
        Cost { flops: self.piece_flops(piece), bytes }
    }

    /// Cost of the whole kernel.
    pub fn cost(&self) -> Cost {
        (0..self.pieces()).map(|piece| self.piece_cost(piece)).fold(Cost::default(), |a, b| a + b)
    }

    /// The type it computes on, which sets its rate on a machine.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Gemm(spec) => spec.dtype,
            Self::Attention(spec) => spec.dtype,
            Self::NormModulate(spec) => spec.dtype,
            Self::GateResidual(spec) => spec.dtype,
            Self::GateResidualNormModulate(spec) => spec.dtype,
            Self::QkNormRope(spec) => spec.dtype,
            Self::Pack(spec) => spec.src_dtype,
            Self::TimestepEmbed(spec) => spec.dtype,
            Self::ClassEmbed(spec) => spec.dtype,
        }
    }

    /// Family and variant: `attn_fwd_bf16_d72`, `gemm_f32_bias_gelu`.
    pub fn name(&self) -> String {
        match self {
            Self::Gemm(spec) => spec.name(),
            Self::Attention(spec) => format!("attn_fwd_{}_d{}", spec.dtype, spec.head_dim),
            Self::NormModulate(spec) => format!("norm_modulate_{}_{}", spec.dtype, spec.norm.name()),
            Self::GateResidual(spec) => format!("gate_residual_{}", spec.dtype),
            Self::GateResidualNormModulate(spec) => {
                format!("gate_residual_norm_modulate_{}_{}", spec.dtype, spec.norm.name())
            }
            Self::QkNormRope(spec) => format!("qk_norm_rope_{}_d{}", spec.dtype, spec.head_dim),
            Self::Pack(spec) => spec.name(),
            Self::TimestepEmbed(spec) => format!("timestep_embed_{}", spec.dtype),
            Self::ClassEmbed(spec) => format!("class_embed_{}", spec.dtype),
        }
    }
}
