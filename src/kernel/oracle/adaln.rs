use super::{OracleTensor, modulation};
use crate::kernel::spec::{GateResidual, GateResidualNormModulate, Modulation, Norm, NormModulate};

pub(super) fn norm_modulate(spec: &NormModulate, reads: &[OracleTensor]) -> Vec<OracleTensor> {
    vec![modulated(spec.norm, spec.eps, spec.modulation, 2, 0, &reads[0], &reads[1..])]
}

pub(super) fn gate_residual(spec: &GateResidual, reads: &[OracleTensor]) -> Vec<OracleTensor> {
    vec![gated(spec.modulation, 1, reads)]
}

pub(super) fn gate_residual_norm_modulate(
    spec: &GateResidualNormModulate,
    reads: &[OracleTensor],
) -> Vec<OracleTensor> {
    let out = gated(spec.modulation, 3, reads);
    let y = modulated(spec.norm, spec.eps, spec.modulation, 3, 1, &out, &reads[2..]);
    vec![out, y]
}

fn gated(kind: Modulation, count: usize, reads: &[OracleTensor]) -> OracleTensor {
    OracleTensor::from_fn(reads[0].shape, |index| {
        reads[0].at(index) + modulation(kind, count, &reads[2..], 0, index) * reads[1].at(index)
    })
}

/// `norm(x)·(1 + scale) + shift`; shift is vector `first`, scale the next.
fn modulated(
    norm: Norm,
    eps: f32,
    kind: Modulation,
    count: usize,
    first: usize,
    x: &OracleTensor,
    vectors: &[OracleTensor],
) -> OracleTensor {
    let hidden = x.shape[3] as f64;
    let statistics = |b: usize, n: usize| {
        let row = |c: usize| x.at([b, n, 0, c]);
        let mean = if norm == Norm::Layer { (0..x.shape[3]).map(row).sum::<f64>() / hidden } else { 0.0 };
        (mean, (0..x.shape[3]).map(|c| (row(c) - mean).powi(2)).sum::<f64>() / hidden)
    };
    let (mut mean, mut variance) = (0.0, 0.0);
    OracleTensor::from_fn(x.shape, |index| {
        if index[2] == 0 && index[3] == 0 {
            (mean, variance) = statistics(index[0], index[1]);
        }
        let shift = modulation(kind, count, vectors, first, index);
        let scale = modulation(kind, count, vectors, first + 1, index);
        (x.at(index) - mean) / (variance + f64::from(eps)).sqrt() * (1.0 + scale) + shift
    })
}
