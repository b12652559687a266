//! What every kernel computes, in float64, as naively as possible: the truth that the fast
//! versions are held to. One file a family; no tiling, no tricks, no rounding to the dtype.
//!
//! An oracle takes the operands that its kernel reads, in the order of
//! [`crate::kernel::spec::Kernel::operands`] (each one whole: tensors already concatenated,
//! integers as numbers), and returns those it writes, in that order. It is for tests: shapes are
//! not checked, and a wrong one panics. Tests: `tests/kernels_host.rs`.

mod adaln;
mod attention;
mod embed;
mod gemm;
mod qk_norm_rope;

use crate::kernel::spec::{Kernel, Modulation};

/// A row-major tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct OracleTensor {
    /// Extents.
    pub shape: [usize; 4],
    /// Elements.
    pub data: Vec<f64>,
}

impl OracleTensor {
    /// A tensor whose element at `[b, n, h, d]` is `f([b, n, h, d])`.
    pub fn from_fn(shape: [usize; 4], mut f: impl FnMut([usize; 4]) -> f64) -> Self {
        let mut data = Vec::with_capacity(shape.iter().product());
        for b in 0..shape[0] {
            for n in 0..shape[1] {
                for h in 0..shape[2] {
                    for d in 0..shape[3] {
                        data.push(f([b, n, h, d]));
                    }
                }
            }
        }
        Self { shape, data }
    }

    /// The element at `index`; along a dimension of one element, any index means that one.
    pub fn at(&self, index: [usize; 4]) -> f64 {
        let step = |offset, (i, n)| offset * n + if n == 1 { 0 } else { i };
        self.data[index.into_iter().zip(self.shape).fold(0, step)]
    }
}

/// What one piece of `kernel` writes. `reads` are the operands that the piece reads or updates.
pub fn run_piece(kernel: &Kernel, piece: usize, reads: &[OracleTensor]) -> Vec<OracleTensor> {
    match kernel {
        Kernel::Gemm(spec) => gemm::gemm(spec, piece, reads),
        Kernel::Attention(spec) => attention::attention(spec, reads),
        Kernel::NormModulate(spec) => adaln::norm_modulate(spec, reads),
        Kernel::GateResidual(spec) => adaln::gate_residual(spec, reads),
        Kernel::GateResidualNormModulate(spec) => adaln::gate_residual_norm_modulate(spec, reads),
        Kernel::QkNormRope(spec) => qk_norm_rope::qk_norm_rope(spec, reads),
        Kernel::Pack(_) => reads.to_vec(),
        Kernel::TimestepEmbed(spec) => vec![embed::timestep(spec, &reads[0])],
        Kernel::ClassEmbed(spec) => vec![embed::class(spec, reads)],
    }
}

/// Element `c` of vector `which` of `count`, as row `n` of sample `b` sees it.
fn modulation(kind: Modulation, count: usize, operands: &[OracleTensor], which: usize, index: [usize; 4]) -> f64 {
    let [b, n, _, c] = index;
    match kind {
        Modulation::PerSample => operands[which].at([b, 0, 0, c]),
        Modulation::PerToken => operands[which].at([b, n, 0, c]),
        Modulation::PerFrame => {
            let frame = operands[2 * count].at([b, n, 0, 0]);
            operands[if frame != 0.0 { which } else { count + which }].at([b, 0, 0, c])
        }
    }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}
