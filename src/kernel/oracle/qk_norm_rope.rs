use super::OracleTensor;
use crate::kernel::spec::{QkNormRope, RopePairs};

pub(super) fn qk_norm_rope(spec: &QkNormRope, reads: &[OracleTensor]) -> Vec<OracleTensor> {
    let turns = &reads[if spec.norm_eps.is_some() { 4 } else { 2 }..];
    (0..2)
        .map(|which| {
            let x = normed(spec, &reads[which], reads.get(2 + which));
            match spec.rope {
                Some(pairs) => turned(pairs, &x, &turns[0], &turns[1]),
                None => x,
            }
        })
        .collect()
}

fn normed(spec: &QkNormRope, x: &OracleTensor, weight: Option<&OracleTensor>) -> OracleTensor {
    let (Some(eps), Some(weight)) = (spec.norm_eps, weight) else { return x.clone() };
    OracleTensor::from_fn(x.shape, |[b, n, h, d]| {
        let mean = (0..spec.head_dim).map(|d| x.at([b, n, h, d]).powi(2)).sum::<f64>() / spec.head_dim as f64;
        x.at([b, n, h, d]) / (mean + f64::from(eps)).sqrt() * weight.at([0, 0, 0, d])
    })
}

fn turned(pairs: RopePairs, x: &OracleTensor, cos: &OracleTensor, sin: &OracleTensor) -> OracleTensor {
    let half = x.shape[3] / 2;
    OracleTensor::from_fn(x.shape, |[b, n, h, d]| {
        // Pair i, its channels, and whether d is the first of them.
        let (i, left, right) = match pairs {
            RopePairs::Interleaved => (d / 2, d / 2 * 2, d / 2 * 2 + 1),
            RopePairs::Halves => (d % half, d % half, d % half + half),
        };
        let (left_x, right_x) = (x.at([b, n, h, left]), x.at([b, n, h, right]));
        let (c, s) = (cos.at([0, n, 0, i]), sin.at([0, n, 0, i]));
        if d == left { left_x * c - right_x * s } else { left_x * s + right_x * c }
    })
}
