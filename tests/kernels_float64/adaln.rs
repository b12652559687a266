//! Norms, modulation, gates: against float64.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{GateResidual, GateResidualNormModulate, Kernel, Modulation, Norm, NormModulate};

use crate::support::Rng;
use crate::support::tensors::{How, Values, assert_close, assert_same, isas, largest, launch, random_operands, truth};
use crate::{DTYPES, RAGGED, fresh};

const MODULATIONS: [Modulation; 3] = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken];
const HIDDEN: [usize; 14] = [1, 8, 15, 16, 17, 31, 33, 63, 65, 127, 128, 129, 300, 1152];

fn variants(mut visit: impl FnMut(Dtype, Norm, Modulation)) {
    for dtype in DTYPES {
        for norm in [Norm::Layer, Norm::Rms] {
            MODULATIONS.into_iter().for_each(|modulation| visit(dtype, norm, modulation));
        }
    }
}

/// Samples and rows; few where rows are long, for the oracle takes the square of their length.
fn sizes(rng: &mut Rng, hidden: usize) -> (usize, usize) {
    if hidden > 200 { (1, rng.within(1, 5)) } else { (rng.within(1, 3), RAGGED[rng.below(7)]) }
}

/// What the error of a sum is measured by: it may be near zero, the part that is added is not.
fn scale_of_sums(part: &Values, sums: &[f64]) -> f64 {
    let part: Vec<f64> = part.data.iter().copied().map(f64::from).collect();
    largest(&part).max(largest(sums))
}

#[test]
fn norm_modulate_equals_float64() {
    let mut rng = fresh("norm_modulate");
    variants(|dtype, norm, modulation| {
        for hidden in HIDDEN {
            let (batch, rows) = sizes(&mut rng, hidden);
            let kernel = Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps: 1e-6, modulation });
            let inputs = random_operands(&kernel, &mut rng);
            let want = truth(&kernel, &inputs);
            // The shift is added.
            let scale = scale_of_sums(&inputs[2], &want[1]);
            for isa in isas() {
                let how = How::random(isa, &mut rng);
                let got = launch(&kernel, &inputs, &how);
                assert_close(&format!("{kernel:?} {how:?}"), &got[1], &want[1], |_| 1e-6 * scale);
            }
        }
    });
}

/// Two passes: a mean far above the deviation costs its own rounding, not the variance.
#[test]
fn layer_norm_survives_a_large_mean() {
    let mut rng = fresh("large mean");
    let (batch, rows, hidden) = (1, 5, 300);
    let modulation = Modulation::PerSample;
    let spec = NormModulate { dtype: Dtype::F32, batch, rows, hidden, norm: Norm::Layer, eps: 1e-6, modulation };
    let kernel = Kernel::NormModulate(spec);
    let mut inputs = random_operands(&kernel, &mut rng);
    inputs[0] = inputs[0].map(|_, x| 1000.0 + x);
    let want = truth(&kernel, &inputs);
    for isa in isas() {
        let got = launch(&kernel, &inputs, &How::plain(isa));
        // The mean is rounded at 1000: 6e-5 of a deviation.
        assert_close(isa.name(), &got[1], &want[1], |_| 3e-4 * largest(&want[1]));
    }
}

#[test]
fn gate_residual_equals_float64_apart_and_in_place() {
    let mut rng = fresh("gate_residual");
    variants(|dtype, _, modulation| {
        for hidden in HIDDEN {
            let (batch, rows) = (rng.within(1, 3), RAGGED[rng.below(8)]);
            let kernel = Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation });
            let inputs = random_operands(&kernel, &mut rng);
            let want = truth(&kernel, &inputs);
            let scale = scale_of_sums(&inputs[0], &want[2]);
            for isa in isas() {
                let how = How::random(isa, &mut rng);
                let got = launch(&kernel, &inputs, &how);
                assert_close(&format!("{kernel:?} {how:?}"), &got[2], &want[2], |_| 2e-7 * scale);
                let in_place = launch(&kernel, &inputs, &how.alias(2, 0));
                assert_same("in place", &in_place[2], &got[2]);
            }
        }
    });
}

/// `y` is held to the norm of the stored `out`: the definition rounds in between.
#[test]
fn gate_residual_norm_modulate_equals_float64_apart_and_in_place() {
    let mut rng = fresh("gate_residual_norm_modulate");
    variants(|dtype, norm, modulation| {
        for hidden in HIDDEN {
            let (batch, rows) = sizes(&mut rng, hidden);
            let eps = 1e-6;
            let spec = GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
            let kernel = Kernel::GateResidualNormModulate(spec);
            let second = Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps, modulation });
            let inputs = random_operands(&kernel, &mut rng);
            let want = truth(&kernel, &inputs);
            for isa in isas() {
                let how = How::random(isa, &mut rng);
                let got = launch(&kernel, &inputs, &how);
                let label = format!("{kernel:?} {how:?}");
                let scale = scale_of_sums(&inputs[0], &want[2]);
                assert_close(&label, &got[2], &want[2], |_| 2e-7 * scale);
                let names = kernel.operands().into_iter().zip(&inputs);
                let vectors = names.skip(4).filter(|(o, _)| o.name != "gate").map(|(_, v)| v.clone());
                let of_second: Vec<_> = [got[2].clone(), inputs[3].clone()].into_iter().chain(vectors).collect();
                let want_y = &truth(&second, &of_second)[1];
                let scale = scale_of_sums(&of_second[2], want_y);
                assert_close(&label, &got[3], want_y, |_| 1e-6 * scale);
                let in_place = launch(&kernel, &inputs, &how.alias(2, 0));
                assert_same("out in place", &in_place[2], &got[2]);
                assert_same("y of out in place", &in_place[3], &got[3]);
            }
        }
    });
}
