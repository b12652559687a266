//! Rules 2 and 3: rows, samples, heads and columns are alone. Each kernel runs on all of them and
//! on a few; the few have the same bits in both, also when everything beside them is NaN.

use seqpar::dtype::Dtype;
use seqpar::kernel::host::Isa;
use seqpar::kernel::spec::{
    Attention, Epilogue, GateResidual, GateResidualNormModulate, Gemm, Kernel, Modulation, Norm, NormModulate,
    QkNormRope, RopePairs,
};

use crate::support::Rng;
use crate::support::tensors::{How, Values, assert_same, concat, isas, launch, random_operands};
use crate::{DTYPES, EPILOGUES, MODULATIONS, attention, fresh};

#[test]
fn rule2_rows_are_alone() {
    let mut rng = fresh("rule 2, rows");
    for dtype in DTYPES {
        for (rows, few) in [(130, 1), (131, 17), (70, 64)] {
            for (all, part) in kernels(dtype, 2, rows).iter().zip(&kernels(dtype, 2, few)) {
                let start = rng.below(rows - few + 1);
                assert_alone(all, part, |_| start, &mut rng);
            }
        }
    }
}

#[test]
fn rule2_samples_are_alone() {
    let mut rng = fresh("rule 2, samples");
    for dtype in DTYPES {
        for (all, part) in kernels(dtype, 3, 21).iter().zip(&kernels(dtype, 1, 21)) {
            let start = rng.below(3);
            assert_alone(all, part, |_| start, &mut rng);
        }
    }
}

/// Outputs too large for the caches may be stored another way; the bits are the same.
#[test]
fn rule2_rows_of_a_large_tensor_are_alone() {
    let mut rng = fresh("rule 2, large");
    let kernel = |rows| {
        let (dtype, batch, hidden, norm, eps) = (Dtype::F32, 1, 1152, Norm::Layer, 1e-6);
        let modulation = Modulation::PerSample;
        let spec = GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
        Kernel::GateResidualNormModulate(spec)
    };
    let (all, part) = (kernel(7300), kernel(2));
    let inputs = random_operands(&all, &mut rng);
    let start = rng.below(7299);
    let cut = |values: &[Values]| -> Vec<Values> {
        values.iter().enumerate().map(|(i, v)| if i < 4 { v.slice(1, start, 2) } else { v.clone() }).collect()
    };
    let want = cut(&launch(&all, &inputs, &How::plain(Isa::detect()).threads(2)));
    let got = launch(&part, &cut(&inputs), &How::plain(Isa::detect()));
    assert_same("out", &got[2], &want[2]);
    assert_same("y", &got[3], &want[3]);
}

/// What is wrong in one query row is wrong in its output and in no other; a NaN is not lost.
#[test]
fn rule2_nan_and_infinity_stay_in_their_query_row() {
    let mut rng = fresh("rule 2, NaN rows");
    for dtype in DTYPES {
        let kernel = Kernel::Attention(Attention { key_mask: false, ..attention(dtype, 2, 1, 70, 3, 100) });
        let inputs = random_operands(&kernel, &mut rng);
        for isa in isas() {
            let want = launch(&kernel, &inputs, &How::plain(isa));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let row = rng.below(70);
                let mut spoilt = inputs.clone();
                spoilt[0] = inputs[0].map(|[_, i, ..], x| if i == row { bad } else { x });
                let got = launch(&kernel, &spoilt, &How::plain(isa));
                let label = format!("{bad} in row {row}, {dtype} on {}", isa.name());
                let others = |v: &Values, dim: usize| v.map(|index, x| if index[dim] == row { 0.0 } else { x });
                assert_same(&label, &others(&got[1], 1), &others(&want[1], 1));
                assert_same(&label, &others(&got[2], 3), &others(&want[2], 3));
                if bad.is_nan() {
                    assert!(got[1].slice(1, row, 1).data.iter().all(|x| x.is_nan()), "{label}: out lost it");
                    assert!(got[2].slice(3, row, 1).data.iter().all(|x| x.is_nan()), "{label}: lse lost it");
                }
            }
        }
    }
}

#[test]
fn rule3_columns_are_alone() {
    let mut rng = fresh("rule 3, columns");
    for dtype in DTYPES {
        for epilogue in EPILOGUES {
            for (cols, few) in [(900, 1), (130, 3), (65, 16), (70, 64)] {
                let gemm = |cols| Kernel::Gemm(Gemm::linear(dtype, 2, 13, 70, cols, true, epilogue));
                let start = rng.below(cols - few + 1);
                assert_alone(&gemm(cols), &gemm(few), |_| start, &mut rng);
            }
        }
    }
}

/// The parts of a projection have the bits of one wide part, also when a part is one column.
#[test]
fn rule3_parts_have_the_bits_of_one() {
    let mut rng = fresh("rule 3, parts");
    let parts = vec![24, 1, 72, 40];
    for dtype in DTYPES {
        let whole = Gemm::linear(dtype, 2, 35, 64, parts.iter().sum(), true, Epilogue::None);
        let inputs = random_operands(&Kernel::Gemm(whole.clone()), &mut rng);
        let (mut linears, mut outs, mut start) = (Vec::new(), Vec::new(), 0);
        for &cols in &parts {
            linears.extend([inputs[0].slice(1, start, cols), inputs[1].slice(3, start, cols)]);
            outs.push(inputs[3].slice(3, start, cols));
            start += cols;
        }
        let operands: Vec<Values> = linears.into_iter().chain([inputs[2].clone()]).chain(outs).collect();
        for isa in isas() {
            let want = launch(&Kernel::Gemm(whole.clone()), &inputs, &How::plain(isa));
            let split = Kernel::Gemm(Gemm { parts: parts.clone(), ..whole.clone() });
            let got = launch(&split, &operands, &How::random(isa, &mut rng));
            assert_same(&format!("{dtype} on {}", isa.name()), &concat(3, &got[9..]), &want[3]);
        }
    }
}

#[test]
fn rule3_heads_are_alone() {
    let mut rng = fresh("rule 3, heads");
    for dtype in DTYPES {
        let group = 3;
        let all = attention(dtype, 4, group, 19, 5, 80);
        // The last is part of a group: two query heads of one key head.
        for (first_kv_head, kv_heads, first_head, heads) in [(0, 1, 0, 3), (1, 2, 3, 6), (3, 1, 9, 3), (1, 1, 4, 2)] {
            let part = Attention { heads, kv_heads, first_head, first_kv_head, ..all.clone() };
            let start = |name: &str| if ["k", "v"].contains(&name) { first_kv_head } else { first_head };
            assert_alone(&Kernel::Attention(all.clone()), &Kernel::Attention(part), start, &mut rng);
        }
        assert_alone(&rope(dtype, 2, 17, 5, 5), &rope(dtype, 2, 17, 1, 1), |_| 3, &mut rng);
        assert_alone(&rope(dtype, 2, 17, 5, 3), &rope(dtype, 2, 17, 2, 0), |_| 0, &mut rng);
    }
}

/// `few` is `all` with some extents smaller; `start(operand)` is where its part begins in them.
fn assert_alone(all: &Kernel, few: &Kernel, start: impl Fn(&str) -> usize, rng: &mut Rng) {
    let inputs = random_operands(all, rng);
    let (whole, part) = (all.operands(), few.operands());
    assert_eq!(whole.len(), part.len());
    // Where an operand is cut: dimension, start, length.
    let cuts: Vec<Vec<(usize, usize, usize)>> = whole
        .iter()
        .zip(&part)
        .map(|(a, b)| (0..4).filter(|&k| a.shape[k] != b.shape[k]).map(|k| (k, start(a.name), b.shape[k])).collect())
        .collect();
    assert!(cuts.iter().any(|cuts| !cuts.is_empty()), "nothing is cut");
    let restrict = |values: &[Values]| -> Vec<Values> {
        let cut = |(v, cuts): (&Values, &Vec<(usize, usize, usize)>)| {
            cuts.iter().fold(v.clone(), |v, &(dim, start, len)| v.slice(dim, start, len))
        };
        values.iter().zip(&cuts).map(cut).collect()
    };
    let beside: Vec<Values> = inputs.iter().zip(&cuts).map(|(v, cuts)| scramble(v, cuts)).collect();
    let few_inputs = restrict(&inputs);
    for isa in isas() {
        let how = How::random(isa, rng);
        let want = restrict(&launch(all, &inputs, &how));
        let got = launch(few, &few_inputs, &How::random(isa, rng));
        let scrambled = restrict(&launch(all, &beside, &how));
        for (i, operand) in part.iter().enumerate().filter(|(_, operand)| operand.mode.writes()) {
            let label = format!("{} of {few:?} in {all:?} on {}", operand.name, isa.name());
            assert_same(&label, &got[i], &want[i]);
            assert_same(&format!("NaN beside {label}"), &scrambled[i], &want[i]);
        }
    }
}

/// NaN outside the cuts; integers and masks become 0.
fn scramble(values: &Values, cuts: &[(usize, usize, usize)]) -> Values {
    let filler = if values.dtype.is_float() { f32::NAN } else { 0.0 };
    values.map(|index, x| {
        let inside = cuts.iter().all(|&(dim, start, len)| (start..start + len).contains(&index[dim]));
        if inside { x } else { filler }
    })
}

/// Every kernel that has rows, with `rows` of them and `batch` samples.
fn kernels(dtype: Dtype, batch: usize, rows: usize) -> Vec<Kernel> {
    let (hidden, eps) = (100, 1e-6);
    let mut list = Vec::new();
    for epilogue in EPILOGUES {
        list.push(Kernel::Gemm(Gemm::linear(dtype, batch, rows, 70, 40, true, epilogue)));
    }
    for modulation in MODULATIONS {
        list.push(Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation }));
        for norm in [Norm::Layer, Norm::Rms] {
            list.push(Kernel::NormModulate(NormModulate { dtype, batch, rows, hidden, norm, eps, modulation }));
            let fused = GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
            list.push(Kernel::GateResidualNormModulate(fused));
        }
    }
    list.push(Kernel::Attention(Attention { batch, ..attention(dtype, 2, 2, rows, 20, 150) }));
    list.push(rope(dtype, batch, rows, 3, 2));
    list
}

fn rope(dtype: Dtype, batch: usize, rows: usize, heads: usize, kv_heads: usize) -> Kernel {
    let (norm_eps, rope) = (Some(1e-6), Some(RopePairs::Interleaved));
    Kernel::QkNormRope(QkNormRope { dtype, batch, rows, heads, kv_heads, head_dim: 20, norm_eps, rope })
}
