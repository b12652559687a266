//! The CUDA source of norm, modulation, gate and residual, executed by the emulation: against
//! float64, fused against chained, alone against together, in 20 schedules and more.

use crate::emulation::kernels::Stored;
use crate::emulation::{Emulator, How, Options, emulate};
use crate::support::Rng;
use crate::support::tensors::{Values, assert_close, assert_same, largest, random_operands, truth};
use crate::{HALVES, fresh};
use seqpar::dtype::Dtype;
use seqpar::kernel::cuda::{Arch, Device, launches};
use seqpar::kernel::spec::{GateResidual, GateResidualNormModulate, Kernel, Mode, Modulation, Norm, NormModulate};

const MODULATIONS: [Modulation; 3] = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken];
const ARCHS: [Arch; 2] = [Arch::Sm80, Arch::Sm90];

fn random_kernel(rng: &mut Rng, hidden: usize) -> Kernel {
    let (dtype, batch, rows) =
        (HALVES[rng.below(2)], rng.within(1, 3), rng.within(1, if hidden > 2048 { 6 } else { 40 }));
    let norm = [Norm::Layer, Norm::Rms][rng.below(2)];
    let modulation = MODULATIONS[rng.below(3)];
    // Large ones too: an eps in the wrong place shows.
    let eps = [1e-6, 0.25][rng.below(2)];
    match rng.below(3) {
        0 => Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps, modulation }),
        1 => Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation }),
        _ => Kernel::GateResidualNormModulate(GateResidualNormModulate {
            dtype,
            batch,
            rows,
            hidden,
            norm,
            eps,
            modulation,
        }),
    }
}

fn check(kernel: &Kernel, rng: &mut Rng, how: &How) {
    let inputs = random_operands(kernel, rng);
    let want = truth(kernel, &inputs);
    let got = emulate(kernel, &inputs, how);
    for (i, operand) in kernel.operands().iter().enumerate() {
        // The fused kernel normalises what it rounded: half a unit there is that much of y.
        let unit = if operand.dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
        let rounded = matches!(kernel, Kernel::GateResidualNormModulate(_)) && operand.name == "y";
        let tolerance = if rounded { 4.0 * unit * largest(&want[i]) } else { 4e-6 * largest(&want[i]).max(1.0) };
        if operand.mode.writes() {
            assert_close(&format!("{} of {kernel:?} {how:?}", operand.name), &got[i], &want[i], |_| tolerance);
        }
    }
}

#[test]
fn every_hidden_size_equals_float64() {
    let mut rng = fresh("adaln sizes");
    let sizes = [8, 64, 376, 384, 392, 768, 776, 1144, 1152, 1160, 1536, 2048, 3072, 4096, 5120, 6144, 8184, 8192];
    for hidden in sizes {
        for arch in ARCHS {
            let how = How::random(arch, &mut rng);
            check(&random_kernel(&mut rng, hidden), &mut rng, &how);
        }
    }
}

#[test]
fn twenty_schedules_of_each_kernel_are_clean_and_equal() {
    let mut rng = fresh("adaln schedules");
    for hidden in [384, 1152, 4096] {
        for _ in 0..3 {
            let kernel = random_kernel(&mut rng, hidden);
            let inputs = random_operands(&kernel, &mut rng);
            let first = emulate(&kernel, &inputs, &How::seeded(Arch::Sm90, 0));
            for seed in 1..20 {
                let again = emulate(&kernel, &inputs, &How::seeded(Arch::Sm90, seed));
                for (a, b) in first.iter().zip(&again) {
                    assert_same(&format!("seed {seed} of {kernel:?}"), b, a);
                }
            }
        }
    }
}

#[test]
fn fused_equals_chained_bit_for_bit() {
    let mut rng = fresh("adaln fused");
    for hidden in [384, 1152, 1536, 5120] {
        for modulation in MODULATIONS {
            let (dtype, batch, rows, eps) = (HALVES[rng.below(2)], 2, rng.within(1, 9), 1e-6);
            let norm = [Norm::Layer, Norm::Rms][rng.below(2)];
            let fused = Kernel::GateResidualNormModulate(GateResidualNormModulate {
                dtype,
                batch,
                rows,
                hidden,
                norm,
                eps,
                modulation,
            });
            let gate = Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation });
            let norm = Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps, modulation });
            let inputs = random_operands(&fused, &mut rng);
            let how = How::random(Arch::Sm90, &mut rng);
            let together = emulate(&fused, &inputs, &how);
            // gate; shift, scale; with a frame mask gate, shift, scale twice, then the mask.
            let vectors = &inputs[4..];
            let of = |which: &[usize]| -> Vec<Values> {
                let sets = if modulation == Modulation::PerFrame { 2 } else { 1 };
                let mut list: Vec<Values> =
                    (0..sets).flat_map(|set| which.iter().map(move |w| vectors[3 * set + w].clone())).collect();
                list.extend((sets == 2).then(|| vectors[6].clone()));
                list
            };
            let mut gate_inputs = inputs[..3].to_vec();
            gate_inputs.extend(of(&[0]));
            let gated = emulate(&gate, &gate_inputs, &how);
            let mut norm_inputs = vec![gated[2].clone(), inputs[3].clone()];
            norm_inputs.extend(of(&[1, 2]));
            let normed = emulate(&norm, &norm_inputs, &how);
            assert_same("out", &together[2], &gated[2]);
            assert_same("y", &together[3], &normed[1]);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let mut rng = fresh("adaln rows");
    for hidden in [384, 1152, 4096] {
        let spec = NormModulate {
            dtype: Dtype::Bf16,
            batch: 2,
            rows: 21,
            hidden,
            norm: Norm::Layer,
            eps: 1e-5,
            modulation: Modulation::PerSample,
        };
        let kernel = Kernel::NormModulate(spec.clone());
        let inputs = random_operands(&kernel, &mut rng);
        let all = emulate(&kernel, &inputs, &How::seeded(Arch::Sm90, rng.next()));
        for row in [0, 7, 20] {
            let one = Kernel::NormModulate(NormModulate { rows: 1, ..spec.clone() });
            let mut alone = inputs.clone();
            (alone[0], alone[1]) = (inputs[0].slice(1, row, 1), inputs[1].slice(1, row, 1));
            let got = emulate(&one, &alone, &How::seeded(Arch::Sm90, rng.next()));
            assert_same("a row alone", &got[1], &all[1].slice(1, row, 1));
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows() {
    let mut rng = fresh("adaln nan");
    let spec = GateResidualNormModulate {
        dtype: Dtype::Bf16,
        batch: 2,
        rows: 9,
        hidden: 1152,
        norm: Norm::Layer,
        eps: 1e-6,
        modulation: Modulation::PerSample,
    };
    let kernel = Kernel::GateResidualNormModulate(spec);
    let clean = random_operands(&kernel, &mut rng);
    let mut inputs = clean.clone();
    inputs[0] = clean[0].map(|[b, n, _, c], x| if [b, n, c] == [0, 3, 5] { f32::NAN } else { x });
    inputs[1] = clean[1].map(|[b, n, _, c], x| if [b, n, c] == [1, 8, 1151] { f32::INFINITY } else { x });
    let how = How::seeded(Arch::Sm90, rng.next());
    let (want, got) = (emulate(&kernel, &clean, &how), emulate(&kernel, &inputs, &how));
    for i in [2, 3] {
        let strip = |v: &Values| v.map(|[b, n, ..], x| if [b, n] == [0, 3] || [b, n] == [1, 8] { 0.0 } else { x });
        assert_same("the other rows", &strip(&got[i]), &strip(&want[i]));
        assert!(got[i].slice(0, 0, 1).slice(1, 3, 1).data.iter().any(|x| x.is_nan()));
    }
}

/// Mean and 1/deviation of each row for a backward pass. No launch asks for them yet: the views are
/// put where `SeqparRowKernel` has them.
#[test]
fn statistics_are_those_of_the_rows() {
    let mut rng = fresh("adaln statistics");
    for (norm, hidden) in [(Norm::Layer, 1152), (Norm::Rms, 384), (Norm::Layer, 4096)] {
        let (batch, rows, eps) = (2, 5, 1e-2);
        let modulation = Modulation::PerSample;
        let kernel =
            Kernel::NormModulate(NormModulate { dtype: Dtype::Bf16, batch, rows, hidden, norm, eps, modulation });
        let inputs = random_operands(&kernel, &mut rng);
        let device = Emulator::shared().device();
        let specs = kernel.operands();
        let store = |(spec, values)| Stored::new(&device, values, spec, false, spec.mode == Mode::Write);
        let stored: Vec<Stored> = specs.iter().zip(&inputs).map(store).collect();
        let views: Vec<_> = stored.iter().map(|s| vec![s.view]).collect();
        let mut launch = launches(&kernel, 0, &views, &Device { arch: Arch::Sm90, sms: 2 }).unwrap().remove(0);
        // Each sample's rows with a gap behind them.
        let bytes = batch * (rows + 3) * 4;
        let statistics = [device.alloc(bytes, "mean"), device.alloc(bytes, "rstd")];
        for (address, offset) in statistics.into_iter().zip([280, 312]) {
            for (i, field) in [address, rows as u64 + 3, 1, 0].into_iter().enumerate() {
                launch.params[offset + 8 * i..offset + 8 * i + 8].copy_from_slice(&field.to_ne_bytes());
            }
        }
        let outcome = device.run(&launch, &Options::seeded(rng.next() % 100), None);
        assert!(outcome.messages.is_empty(), "{}", outcome.messages.join("\n"));
        for (b, n) in (0..batch).flat_map(|b| (0..rows).map(move |n| (b, n))) {
            let row: Vec<f64> = inputs[0].slice(0, b, 1).slice(1, n, 1).data.iter().map(|&x| f64::from(x)).collect();
            let mean = if norm == Norm::Rms { 0.0 } else { row.iter().sum::<f64>() / hidden as f64 };
            let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / hidden as f64;
            for (address, want) in statistics.into_iter().zip([mean, 1.0 / (variance + f64::from(eps)).sqrt()]) {
                let got = device.read(address + 4 * (b * (rows + 3) + n) as u64, 4);
                let got = f64::from(f32::from_ne_bytes([got[0], got[1], got[2], got[3]]));
                assert!((got - want).abs() <= 1e-5, "row {n} of sample {b}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn a_dependent_launch_waits_for_the_one_before() {
    let mut rng = fresh("adaln dependent");
    for hidden in [384, 4096] {
        let kernel = random_kernel(&mut rng, hidden);
        let inputs = random_operands(&kernel, &mut rng);
        emulate(&kernel, &inputs, &How { twice: true, ..How::random(Arch::Sm90, &mut rng) });
    }
}

#[test]
fn in_place_residual_and_a_real_shape() {
    let mut rng = fresh("adaln in place");
    let spec = GateResidualNormModulate {
        dtype: Dtype::Bf16,
        batch: 1,
        rows: 256,
        hidden: 1152,
        norm: Norm::Layer,
        eps: 1e-6,
        modulation: Modulation::PerSample,
    };
    let kernel = Kernel::GateResidualNormModulate(spec);
    let inputs = random_operands(&kernel, &mut rng);
    let mut how = How::seeded(Arch::Sm90, 4);
    how.device.sms = 8;
    let apart = emulate(&kernel, &inputs, &how);
    how.alias = Some((2, 0));
    let in_place = emulate(&kernel, &inputs, &how);
    assert_same("out in place", &in_place[2], &apart[2]);
    assert_same("y in place", &in_place[3], &apart[3]);
    check(&kernel, &mut rng, &How::seeded(Arch::Sm80, 5));
}
