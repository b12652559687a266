//! RMS norm and rotary embedding of q and k, in place, head by head.

use super::isa::{Isa, per_isa};
use super::math::{round_row, sum};
use super::parallel::for_each;
use super::tensor::{Rows, Tensor};
use crate::kernel::spec::{QkNormRope, RopePairs};

pub(super) fn run(isa: Isa, spec: &QkNormRope, operands: &[Vec<Tensor>], threads: usize) {
    let d = spec.head_dim;
    let norm = usize::from(spec.norm_eps.is_some()) * 2;
    let weights: Vec<Vec<f32>> = (0..norm)
        .map(|i| {
            let mut weight = vec![0.0; d];
            Rows(&operands[2 + i]).load(0, 0, &mut weight);
            weight
        })
        .collect();
    let table = spec.rope.map(|pairs| (pairs, Rows(&operands[2 + norm]), Rows(&operands[3 + norm])));
    let rows = spec.batch * spec.rows;
    let ops = 7.0 * (rows * (spec.heads + spec.kv_heads) * d) as f64;
    let widest = spec.heads.max(spec.kv_heads) * d;
    let scratch = || (vec![0.0; widest], vec![0.0; d / 2], vec![0.0; d / 2]);
    for_each(threads, ops, rows, scratch, |(row, cos, sin), at| {
        let (b, n) = (at / spec.rows, at % spec.rows);
        if let Some((_, cos_rows, sin_rows)) = &table {
            cos_rows.load(0, n, cos);
            sin_rows.load(0, n, sin);
        }
        for (which, heads) in [spec.heads, spec.kv_heads].into_iter().enumerate().filter(|(_, heads)| *heads > 0) {
            let tensor = Rows(&operands[which]);
            let row = &mut row[..heads * d];
            tensor.load(b, n, row);
            for head in row.chunks_exact_mut(d) {
                if let Some(eps) = spec.norm_eps {
                    rms(isa, head, eps, &weights[which]);
                    round_row(spec.dtype, head);
                }
                match table {
                    Some((RopePairs::Interleaved, ..)) => rotate_interleaved(isa, head, cos, sin),
                    Some((RopePairs::Halves, ..)) => rotate_halves(isa, head, cos, sin),
                    None => {}
                }
            }
            tensor.store(b, n, row);
        }
    });
}

per_isa! {
    fn rms(x: &mut [f32], eps: f32, weight: &[f32]) {
        let rstd = 1.0 / (sum(x, |v| v * v) / x.len() as f32 + eps).sqrt();
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = *x * rstd * weight;
        }
    }
}

per_isa! {
    fn rotate_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
        for ((pair, cos), sin) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

per_isa! {
    fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
        let (first, second) = x.split_at_mut(cos.len());
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = x * sin + y * cos;
        }
    }
}
