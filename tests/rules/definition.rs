//! Rule 1, one definition: a fused kernel has the bits of the chain of its parts.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{
    Epilogue, GateResidual, GateResidualNormModulate, Gemm, Kernel, Norm, NormModulate, Pack, QkNormRope, RopePairs,
};

use crate::support::tensors::{How, Values, assert_same, isas, launch, random_operands};
use crate::{DTYPES, EPILOGUES, MODULATIONS, fresh};

#[test]
fn rule1_a_linear_with_an_epilogue_equals_the_chain() {
    let mut rng = fresh("rule 1, gemm");
    for dtype in DTYPES {
        for epilogue in EPILOGUES {
            for bias in [false, true] {
                let (batch, rows, k, cols) = (2, 33, 100, 65);
                let spec = Gemm::linear(dtype, batch, rows, k, cols, bias, epilogue);
                let kernel = Kernel::Gemm(spec.clone());
                let inputs = random_operands(&kernel, &mut rng);
                let out = if bias { 3 } else { 2 };
                for isa in isas() {
                    let how = How::plain(isa);
                    let fused = launch(&kernel, &inputs, &how);
                    let plain = Kernel::Gemm(Gemm { epilogue: Epilogue::None, ..spec.clone() });
                    let x = launch(&plain, &inputs[..=out], &how).swap_remove(out);
                    let gated = |modulation, gate: &[Values]| {
                        let kernel =
                            Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden: cols, modulation });
                        let mut operands = vec![inputs[out + 1].clone(), x.clone(), x.clone()];
                        operands.extend_from_slice(gate);
                        launch(&kernel, &operands, &how).swap_remove(2)
                    };
                    let chain = match epilogue {
                        Epilogue::None => via_f32(&spec, &inputs, out, &how),
                        Epilogue::Gelu | Epilogue::Silu => epilogue_alone(dtype, epilogue, &x, &how),
                        Epilogue::Residual => gated(MODULATIONS[0], &[Values::filled(dtype, [batch, 1, 1, cols], 1.0)]),
                        Epilogue::GatedResidual(modulation) => gated(modulation, &inputs[out + 2..]),
                    };
                    assert_same(&format!("{spec:?} on {}", isa.name()), &fused[out], &chain);
                }
            }
        }
    }
}

/// Partial sums kept in f32, then rounded by a copy.
fn via_f32(spec: &Gemm, inputs: &[Values], out: usize, how: &How) -> Values {
    let kernel = Kernel::Gemm(Gemm { out_dtype: Dtype::F32, ..spec.clone() });
    let mut operands = inputs.to_vec();
    operands[out] = Values { dtype: Dtype::F32, ..operands[out].clone() };
    let sums = launch(&kernel, &operands, how).swap_remove(out);
    let pack = Kernel::Pack(Pack { src_dtype: Dtype::F32, dst_dtype: spec.dtype, copies: vec![sums.shape] });
    launch(&pack, &[sums, inputs[out].clone()], how).swap_remove(1)
}

/// The epilogue alone: a linear layer with the identity as its weight, whose sums are exact.
fn epilogue_alone(dtype: Dtype, epilogue: Epilogue, x: &Values, how: &How) -> Values {
    let [batch, rows, _, cols] = x.shape;
    let identity = Values::filled(dtype, [1, cols, 1, cols], 0.0).map(|[_, i, _, j], _| if i == j { 1.0 } else { 0.0 });
    let kernel = Kernel::Gemm(Gemm::linear(dtype, batch, rows, cols, cols, false, epilogue));
    launch(&kernel, &[identity, x.clone(), x.clone()], how).swap_remove(2)
}

#[test]
fn rule1_gate_residual_norm_modulate_equals_the_chain() {
    let mut rng = fresh("rule 1, adaln");
    for dtype in DTYPES {
        for norm in [Norm::Layer, Norm::Rms] {
            for modulation in MODULATIONS {
                for hidden in [1, 16, 100, 1152] {
                    let (batch, rows, eps) = (2, 19, 1e-6);
                    let spec = GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
                    let fused = Kernel::GateResidualNormModulate(spec);
                    let first = Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation });
                    let spec = NormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
                    let second = Kernel::NormModulate(spec);
                    let inputs = random_operands(&fused, &mut rng);
                    let names: Vec<&str> = fused.operands().iter().map(|o| o.name).collect();
                    let vectors_but = |skipped: &[&str]| {
                        let kept = names.iter().zip(&inputs).skip(4).filter(|(name, _)| !skipped.contains(name));
                        kept.map(|(_, v)| v.clone()).collect::<Vec<_>>()
                    };
                    for isa in isas() {
                        let how = How::random(isa, &mut rng);
                        let got = launch(&fused, &inputs, &how);
                        let mut operands = inputs[..3].to_vec();
                        operands.extend(vectors_but(&["shift", "scale"]));
                        let out = launch(&first, &operands, &how).swap_remove(2);
                        let mut operands = vec![out.clone(), inputs[3].clone()];
                        operands.extend(vectors_but(&["gate"]));
                        let y = launch(&second, &operands, &how).swap_remove(1);
                        assert_same(&format!("out of {fused:?} on {}", isa.name()), &got[2], &out);
                        assert_same(&format!("y of {fused:?} on {}", isa.name()), &got[3], &y);
                    }
                }
            }
        }
    }
}

#[test]
fn rule1_qk_norm_then_rope_equals_both_in_one() {
    let mut rng = fresh("rule 1, rope");
    for dtype in DTYPES {
        for pairs in [RopePairs::Interleaved, RopePairs::Halves] {
            for head_dim in [2, 20, 72, 128] {
                let (batch, rows, heads, kv_heads) = (2, 17, 4, 2);
                let (norm_eps, rope) = (Some(1e-6), Some(pairs));
                let spec = QkNormRope { dtype, batch, rows, heads, kv_heads, head_dim, norm_eps, rope };
                let fused = Kernel::QkNormRope(spec.clone());
                let norm = Kernel::QkNormRope(QkNormRope { rope: None, ..spec.clone() });
                let rope = Kernel::QkNormRope(QkNormRope { norm_eps: None, ..spec });
                let inputs = random_operands(&fused, &mut rng);
                for isa in isas() {
                    let how = How::random(isa, &mut rng);
                    let got = launch(&fused, &inputs, &how);
                    let normed = launch(&norm, &inputs[..4], &how);
                    let operands: Vec<Values> = normed[..2].iter().chain(&inputs[4..]).cloned().collect();
                    let chain = launch(&rope, &operands, &how);
                    assert_same(&format!("q of {fused:?} on {}", isa.name()), &got[0], &chain[0]);
                    assert_same(&format!("k of {fused:?} on {}", isa.name()), &got[1], &chain[1]);
                }
            }
        }
    }
}
