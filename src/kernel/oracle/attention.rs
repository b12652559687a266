use super::OracleTensor;
use crate::kernel::spec::Attention;

/// Only whole launches: with a carry, the chain of launches is compared with one of these.
pub(super) fn attention(spec: &Attention, reads: &[OracleTensor]) -> Vec<OracleTensor> {
    let (queries, keys) = reads.split_at(spec.queries.len());
    let mut written = Vec::new();
    for (q, &rows) in queries.iter().zip(&spec.queries) {
        let mut out = OracleTensor::from_fn([spec.batch, rows, spec.heads, spec.head_dim], |_| 0.0);
        let mut lse = OracleTensor::from_fn([spec.batch, spec.heads, 1, rows], |_| 0.0);
        for b in 0..spec.batch {
            for n in 0..rows {
                for h in 0..spec.heads {
                    let (row, log) = one_query(spec, keys, b, spec.kv_head(h), |d| q.at([b, n, h, d]));
                    let at = ((b * rows + n) * spec.heads + h) * spec.head_dim;
                    out.data[at..at + spec.head_dim].copy_from_slice(&row);
                    lse.data[(b * spec.heads + h) * rows + n] = log;
                }
            }
        }
        written.push(out);
        written.push(lse);
    }
    written
}

/// Output row and log-sum-exp of one query of one head.
fn one_query(
    spec: &Attention,
    keys: &[OracleTensor],
    b: usize,
    kv_head: usize,
    q: impl Fn(usize) -> f64,
) -> (Vec<f64>, f64) {
    let per_segment = spec.key_operands();
    let mut scored = Vec::new();
    for (i, segment) in spec.keys.iter().enumerate() {
        let own = &keys[i * per_segment..];
        for j in 0..segment.len {
            let kept = !spec.key_mask || own[2].at([b, j, 0, 0]) != 0.0;
            let limit = || keys[spec.keys.len() * per_segment].at([b, segment.stream, 0, 0]);
            let within = !spec.key_len || ((segment.base + j) as f64) < limit();
            if kept && within {
                let dot: f64 = (0..spec.head_dim).map(|d| q(d) * own[0].at([b, j, kv_head, d])).sum();
                scored.push((dot * f64::from(spec.scale), &own[1], j));
            }
        }
    }
    let max = scored.iter().map(|(score, ..)| *score).fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; spec.head_dim];
    if scored.is_empty() {
        return (out, f64::NEG_INFINITY);
    }
    let sum: f64 = scored.iter().map(|(score, ..)| (score - max).exp()).sum();
    for (score, v, j) in &scored {
        let p = (score - max).exp() / sum;
        out.iter_mut().enumerate().for_each(|(d, o)| *o += p * v.at([b, *j, kv_head, d]));
    }
    (out, max + sum.ln())
}
