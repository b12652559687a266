use super::{OracleTensor, silu};
use crate::kernel::spec::{ClassEmbed, TimestepEmbed};

/// Frequency and angle are f32 by definition: at t near 1000 their rounding is visible.
pub(super) fn timestep(spec: &TimestepEmbed, t: &OracleTensor) -> OracleTensor {
    let half = spec.dim / 2;
    OracleTensor::from_fn([spec.batch, 1, 1, spec.dim], |[b, _, _, i]| {
        let frequency = (-(10000f64.ln()) * (i % half) as f64 / half as f64).exp() as f32;
        let angle = f64::from(t.at([b, 0, 0, 0]) as f32 * frequency);
        if i < half { angle.cos() } else { angle.sin() }
    })
}

pub(super) fn class(spec: &ClassEmbed, reads: &[OracleTensor]) -> OracleTensor {
    OracleTensor::from_fn([spec.batch, 1, 1, spec.hidden], |[b, _, _, c]| {
        let label = reads[2].at([b, 0, 0, 0]) as usize;
        silu(reads[0].at([b, 0, 0, c]) + reads[1].at([0, label, 0, c]))
    })
}
