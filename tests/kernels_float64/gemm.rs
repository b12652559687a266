//! Linear layers against float64, and the GEMM underneath them.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel, Modulation};

use crate::support::Rng;
use crate::support::tensors::{How, Values, assert_close, half_ulp, isas, largest, launch, random_operands, truth};
use crate::{DTYPES, RAGGED, fresh};

const EPILOGUES: [Epilogue; 7] = [
    Epilogue::None,
    Epilogue::Gelu,
    Epilogue::Silu,
    Epilogue::Residual,
    Epilogue::GatedResidual(Modulation::PerSample),
    Epilogue::GatedResidual(Modulation::PerFrame),
    Epilogue::GatedResidual(Modulation::PerToken),
];

#[test]
fn every_epilogue_and_ragged_size_equals_float64() {
    let mut rng = fresh("gemm");
    for dtype in DTYPES {
        for (i, rows) in RAGGED.into_iter().enumerate() {
            let cols = RAGGED[rng.below(RAGGED.len())];
            let k = [1, 7, 16, 33, 64, 129, 300][rng.below(7)];
            let batch = if rows < 100 { rng.within(1, 3) } else { 1 };
            let epilogue = EPILOGUES[i % EPILOGUES.len()];
            let spec = Gemm::linear(dtype, batch, rows, k, cols, rng.chance(50), epilogue);
            check(&spec, &mut rng);
        }
    }
}

#[test]
fn parts_and_chunks_equal_float64() {
    let mut rng = fresh("gemm parts");
    for dtype in DTYPES {
        for epilogue in [Epilogue::None, Epilogue::Gelu, Epilogue::GatedResidual(Modulation::PerToken)] {
            let parts = if matches!(epilogue, Epilogue::GatedResidual(_)) { vec![40] } else { vec![24, 1, 72] };
            let linear = Gemm::linear(dtype, 2, 1, 48, 1, true, epilogue);
            check(&Gemm { chunks: vec![17, 0, 1, 64], parts, ..linear }, &mut rng);
        }
    }
}

#[test]
fn partial_sums_are_stored_unrounded() {
    let mut rng = fresh("gemm to f32");
    for dtype in DTYPES {
        let spec = Gemm::linear(dtype, 2, 33, 129, 65, false, Epilogue::None);
        check(&Gemm { out_dtype: Dtype::F32, ..spec }, &mut rng);
    }
}

#[test]
fn an_empty_sum_leaves_the_bias_or_zero() {
    let mut rng = fresh("gemm k = 0");
    for dtype in DTYPES {
        for bias in [false, true] {
            let spec = Gemm::linear(dtype, 2, 5, 0, 17, bias, Epilogue::None);
            let kernel = Kernel::Gemm(spec);
            let inputs = random_operands(&kernel, &mut rng);
            for isa in isas() {
                let out = &launch(&kernel, &inputs, &How::plain(isa))[if bias { 3 } else { 2 }];
                let want = |c: usize| if bias { inputs[1].data[c] } else { 0.0 };
                assert!(out.data.iter().enumerate().all(|(i, &x)| x == want(i % 17)), "{dtype} {bias}: {out:?}");
            }
        }
    }
}

#[test]
fn one_residual_serves_all_samples() {
    let mut rng = fresh("broadcast residual");
    for dtype in DTYPES {
        for epilogue in [Epilogue::Residual, Epilogue::GatedResidual(Modulation::PerSample)] {
            let kernel = Kernel::Gemm(Gemm::linear(dtype, 3, 19, 20, 33, true, epilogue));
            let mut shared = random_operands(&kernel, &mut rng);
            shared[4] = shared[4].slice(0, 0, 1);
            let mut repeated = shared.clone();
            repeated[4] = crate::support::tensors::concat(0, &vec![shared[4].clone(); 3]);
            assert_eq!(truth(&kernel, &shared)[3], truth(&kernel, &repeated)[3]);
            for isa in isas() {
                let (a, b) = (launch(&kernel, &shared, &How::plain(isa)), launch(&kernel, &repeated, &How::plain(isa)));
                crate::support::tensors::assert_same("shared residual", &a[3], &b[3]);
            }
        }
    }
}

#[test]
fn the_output_may_be_the_residual() {
    let mut rng = fresh("residual in place");
    for dtype in DTYPES {
        for epilogue in [Epilogue::Residual, Epilogue::GatedResidual(Modulation::PerToken)] {
            let kernel = Kernel::Gemm(Gemm::linear(dtype, 2, 37, 24, 50, true, epilogue));
            let inputs = random_operands(&kernel, &mut rng);
            for isa in isas() {
                let apart = launch(&kernel, &inputs, &How::plain(isa));
                let in_place = launch(&kernel, &inputs, &How::plain(isa).threads(2).alias(3, 4));
                crate::support::tensors::assert_same("in place", &in_place[3], &apart[3]);
            }
        }
    }
}

/// The GEMM crate that R1 rests on: each element has one summation order, however rows and
/// columns are cut.
#[test]
fn sgemm_has_the_same_bits_under_every_row_and_column_split() {
    let mut rng = fresh("sgemm");
    for (m, k, n) in [(37, 300, 41), (129, 1152, 70), (64, 1, 64), (5, 513, 200), (1, 640, 1)] {
        let a: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
        let w: Vec<f32> = (0..n * k).map(|_| rng.normal()).collect();
        let whole = sgemm(&a, &w, k);
        for rows in [1, 2, 3, 7, 8, 16, 33] {
            let pieces: Vec<f32> = a.chunks(rows * k).flat_map(|a| sgemm(a, &w, k)).collect();
            assert!(same_bits(&pieces, &whole), "{m}x{k}x{n} in pieces of {rows} rows");
        }
        for cols in [1, 2, 3, 7, 8, 16, 33] {
            for (j, w) in w.chunks(cols * k).enumerate() {
                let piece = sgemm(&a, w, k);
                let width = w.len() / k;
                let want: Vec<f32> =
                    whole.chunks(n).flat_map(|row| &row[j * cols..j * cols + width]).copied().collect();
                assert!(same_bits(&piece, &want), "{m}x{k}x{n} in pieces of {cols} columns");
            }
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// `A·Wᵀ`, `[m, k]` and `[n, k]`.
fn sgemm(a: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let (m, n) = (a.len() / k, w.len() / k);
    let mut c = vec![0.0; m * n];
    let (row, column) = (k as isize, n as isize);
    // SAFETY: a, w and c hold m·k, n·k and m·n elements, as the sizes and strides say.
    unsafe {
        matrixmultiply::sgemm(m, k, n, 1.0, a.as_ptr(), row, 1, w.as_ptr(), 1, row, 0.0, c.as_mut_ptr(), column, 1);
    }
    c
}

fn check(spec: &Gemm, rng: &mut Rng) {
    let kernel = Kernel::Gemm(spec.clone());
    let inputs = random_operands(&kernel, rng);
    let want = truth(&kernel, &inputs);
    // What went into the epilogue, and the sum of magnitudes that bounds its rounding errors.
    let plain = Kernel::Gemm(Gemm { epilogue: Epilogue::None, ..spec.clone() });
    let of_plain = |inputs: &[Values]| -> Vec<Values> {
        let names = kernel.operands().into_iter().map(|o| o.name).zip(inputs);
        names.filter(|(name, _)| ["w", "bias", "a", "out"].contains(name)).map(|(_, v)| v.clone()).collect()
    };
    let linear = truth(&plain, &of_plain(&inputs));
    let magnitudes: Vec<Values> = inputs.iter().map(|v| v.map(|_, x| x.abs())).collect();
    let magnitude = truth(&plain, &of_plain(&magnitudes));
    let outs = |kernel: &Kernel| -> Vec<usize> {
        kernel.operands().iter().enumerate().filter(|(_, o)| o.name == "out").map(|(i, _)| i).collect()
    };
    let operands = kernel.operands();
    let of = |name: &str| {
        let named = operands.iter().zip(&inputs).filter(|(o, _)| o.name == name);
        named.flat_map(|(_, v)| &v.data).fold(0.0f64, |m, x| m.max(f64::from(x.abs())))
    };
    let (gate, residual) = (of("gate"), of("residual"));
    for isa in isas() {
        let how = How::random(isa, rng);
        let got = launch(&kernel, &inputs, &how);
        for (&out, &x) in outs(&kernel).iter().zip(&outs(&plain)) {
            let label = format!("{} {spec:?} {how:?}", kernel.name());
            let (x, magnitude) = (&linear[x], &magnitude[x]);
            assert_close(&label, &got[out], &want[out], |i| {
                let sum = 6e-7 * magnitude[i];
                let stored = sum + half_ulp(spec.dtype, x[i].abs() + sum);
                match spec.epilogue {
                    Epilogue::None => sum,
                    Epilogue::Gelu | Epilogue::Silu => 1.13 * stored + 4e-7 * x[i].abs(),
                    Epilogue::Residual => stored + 1e-7 * (residual + x[i].abs()),
                    _ => gate * stored + 1e-7 * (residual + gate * x[i].abs()),
                }
            });
            assert!(largest(&want[out]) > 0.0 || want[out].is_empty());
        }
    }
}
