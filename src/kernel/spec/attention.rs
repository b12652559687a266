use super::{Mode, Operand};
use crate::dtype::Dtype;

/// Consecutive keys of one sample: text, image, or (in a ring) a run of another rank's chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySegment {
    /// Keys.
    pub len: usize,
    /// Global index of the first key within its stream (0 for a whole stream): the key length of
    /// a sample counts from the start of the stream.
    pub base: usize,
    /// Column of `key_len` that bounds this segment: 0 text, 1 image.
    pub stream: usize,
}

/// Attention forward with log-sum-exp: `softmax(scale·Q·Kᵀ)·V`, keys in segments.
///
/// Segments are visited in order; key tiles are cut from each segment's start and have a width
/// that depends on nothing but the executor's instruction set, the dtype and the head dim (rules
/// 4 and 5 of R1). A query whose keys are all masked gives `out = 0`, `lse = -inf`. All
/// arithmetic is f32; FlashAttention's online softmax (Dao et al., arXiv 2205.14135), tiles in
/// ascending order.
///
/// Operands: for each query segment `q [B, rows, H, D]`, then `out [B, rows, H, D]` and
/// `lse [B, H, 1, rows]` f32 (natural logarithm of Σ exp(scaled score)) unless `carry_out`;
/// with `carry_in` or `carry_out` the running `m`, `l [B, H, 1, rows]` and
/// `o [B, rows, H, D]`, all f32, written (`carry_out` alone), read (`carry_in` alone) or updated
/// in place (both). Then for each key segment `k`, `v [B, len, Hkv, D]` and, with `key_mask`,
/// `mask [B, len, 1, 1]` u8; last, with `key_len`, `key_len [B, 2, 1, 1]` i32.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Type of q, k, v, out.
    pub dtype: Dtype,
    /// Samples.
    pub batch: usize,
    /// Query heads of this launch.
    pub heads: usize,
    /// Key heads of this launch.
    pub kv_heads: usize,
    /// Channels of a head, any number up to 256.
    pub head_dim: usize,
    /// Global index of query head 0 of this launch.
    pub first_head: usize,
    /// Global index of key head 0 of this launch.
    pub first_kv_head: usize,
    /// Query heads per key head in the whole layer: global query head h reads global key head
    /// h / group.
    pub group: usize,
    /// Factor on the scores, usually 1/√D.
    pub scale: f32,
    /// Rows of each query segment.
    pub queries: Vec<usize>,
    /// The key segments, in order.
    pub keys: Vec<KeySegment>,
    /// Whether keys carry a mask (1 keeps).
    pub key_mask: bool,
    /// Whether samples have key lengths of their own.
    pub key_len: bool,
    /// Start from the running (m, l, O) of an earlier launch.
    pub carry_in: bool,
    /// Leave the running (m, l, O) for a later launch instead of writing `out` and `lse`.
    pub carry_out: bool,
}

impl Attention {
    /// Key head of this launch that query head `head` of this launch reads.
    pub fn kv_head(&self, head: usize) -> usize {
        (self.first_head + head) / self.group - self.first_kv_head
    }

    /// Operands of one query segment.
    pub fn query_operands(&self) -> usize {
        1 + if self.carry_out { 0 } else { 2 } + if self.carry_in || self.carry_out { 3 } else { 0 }
    }

    /// Operands of one key segment.
    pub fn key_operands(&self) -> usize {
        2 + usize::from(self.key_mask)
    }

    pub(super) fn operands(&self) -> Vec<Operand> {
        let (b, h, d) = (self.batch, self.heads, self.head_dim);
        let mut list = Vec::with_capacity(6 * self.queries.len() + 3 * self.keys.len() + 1);
        for &rows in &self.queries {
            list.push(Operand::new("q", Mode::Read, self.dtype, [b, rows, h, d]));
            if !self.carry_out {
                list.push(Operand::new("out", Mode::Write, self.dtype, [b, rows, h, d]));
                list.push(Operand::new("lse", Mode::Write, Dtype::F32, [b, h, 1, rows]));
            }
            let mode = match (self.carry_in, self.carry_out) {
                (false, false) => continue,
                (false, true) => Mode::Write,
                (true, false) => Mode::Read,
                (true, true) => Mode::Update,
            };
            list.push(Operand::new("m", mode, Dtype::F32, [b, h, 1, rows]));
            list.push(Operand::new("l", mode, Dtype::F32, [b, h, 1, rows]));
            list.push(Operand::new("o", mode, Dtype::F32, [b, rows, h, d]));
        }
        for key in &self.keys {
            list.push(Operand::new("k", Mode::Read, self.dtype, [b, key.len, self.kv_heads, d]));
            list.push(Operand::new("v", Mode::Read, self.dtype, [b, key.len, self.kv_heads, d]));
            if self.key_mask {
                list.push(Operand::new("mask", Mode::Read, Dtype::U8, [b, key.len, 1, 1]));
            }
        }
        if self.key_len {
            list.push(Operand::new("key_len", Mode::Read, Dtype::I32, [b, 2, 1, 1]));
        }
        list
    }

    pub(super) fn flops(&self) -> f64 {
        let queries: usize = self.queries.iter().sum();
        let keys: usize = self.keys.iter().map(|key| key.len).sum();
        4.0 * (self.batch * self.heads) as f64 * queries as f64 * keys as f64 * self.head_dim as f64
    }
}
