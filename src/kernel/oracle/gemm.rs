use super::{OracleTensor, modulation, silu};
use crate::kernel::spec::{Epilogue, Gemm};

pub(super) fn gemm(spec: &Gemm, piece: usize, reads: &[OracleTensor]) -> Vec<OracleTensor> {
    let per_part = 1 + usize::from(spec.bias);
    let (weights, own) = reads.split_at(spec.parts.len() * per_part);
    let a = &own[0];
    let out = |part: usize| {
        let w = &weights[part * per_part];
        OracleTensor::from_fn([spec.batch, spec.chunks[piece], 1, spec.parts[part]], |index| {
            let [b, n, _, c] = index;
            let mut x: f64 = (0..spec.k).map(|k| row(a, b, n, k) * w.at([0, c, 0, k])).sum();
            if spec.bias {
                x += weights[part * per_part + 1].at([0, 0, 0, c]);
            }
            match spec.epilogue {
                Epilogue::None => x,
                Epilogue::Gelu => gelu(x),
                Epilogue::Silu => silu(x),
                Epilogue::Residual => own[1].at(index) + x,
                Epilogue::GatedResidual(kind) => own[1].at(index) + modulation(kind, 1, &own[2..], 0, index) * x,
            }
        })
    };
    (0..spec.parts.len()).map(out).collect()
}

/// Element `k` of a row whose dimensions 2 and 3 may be cut in any way.
fn row(a: &OracleTensor, b: usize, n: usize, k: usize) -> f64 {
    a.at([b, n, k / a.shape[3], k % a.shape[3]])
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}
