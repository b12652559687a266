use super::{Mode, Operand};
use crate::dtype::Dtype;

/// Which channels of a head the rotary embedding turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// (2i, 2i + 1): Flux, HunyuanVideo, Wan.
    Interleaved,
    /// (i, i + D/2): the NeoX order.
    Halves,
}

/// RMS norm of each head of q and k, then rotary embedding, in place; either may be absent.
///
/// The norm's result is rounded before the rotation, so that the fused kernel equals the chain.
/// `norm(x) = x/√(mean(x²) + eps)·weight`; the rotation turns a pair `(a, b)` to
/// `(a·cos − b·sin, a·sin + b·cos)` (Su et al., arXiv 2104.09864).
///
/// Operands: `q [B, rows, H, D]`, `k [B, rows, Hkv, D]`; with `norm_eps` `q_weight`,
/// `k_weight [1, 1, 1, D]`; with `rope` `cos`, `sin [1, rows, 1, D/2]` f32, whose rows follow
/// their tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNormRope {
    /// Type of q, k and the norm's weights.
    pub dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Rows per sample.
    pub rows: usize,
    /// Query heads of this launch; 0 leaves only k.
    pub heads: usize,
    /// Key heads of this launch; 0 leaves only q.
    pub kv_heads: usize,
    /// Channels of a head; even with `rope`.
    pub head_dim: usize,
    /// Added to the mean square; `None` for no norm.
    pub norm_eps: Option<f32>,
    /// How channels pair; `None` for no rotation.
    pub rope: Option<RopePairs>,
}

impl QkNormRope {
    pub(super) fn operands(&self) -> Vec<Operand> {
        let (b, n, d) = (self.batch, self.rows, self.head_dim);
        let mut list = vec![
            Operand::new("q", Mode::Update, self.dtype, [b, n, self.heads, d]),
            Operand::new("k", Mode::Update, self.dtype, [b, n, self.kv_heads, d]),
        ];
        if self.norm_eps.is_some() {
            list.push(Operand::new("q_weight", Mode::Read, self.dtype, [1, 1, 1, d]));
            list.push(Operand::new("k_weight", Mode::Read, self.dtype, [1, 1, 1, d]));
        }
        if self.rope.is_some() {
            list.push(Operand::new("cos", Mode::Read, Dtype::F32, [1, n, 1, d / 2]));
            list.push(Operand::new("sin", Mode::Read, Dtype::F32, [1, n, 1, d / 2]));
        }
        list
    }

    pub(super) fn flops(&self) -> f64 {
        let per_element = if self.norm_eps.is_some() { 4.0 } else { 0.0 } + if self.rope.is_some() { 3.0 } else { 0.0 };
        per_element * (self.batch * self.rows * (self.heads + self.kv_heads) * self.head_dim) as f64
    }
}
