//! The fast host kernels against the float64 oracles: every family, dtype, variant and
//! instruction set, ragged sizes, operands cut into several strided tensors, outputs poisoned
//! with NaN. Also: conversions against the `half` crate, refusals, NaN and masks.

mod kernel_support;

use half::{bf16, f16};
use kernel_support::*;
use seqpar::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use seqpar::kernel::host::{Isa, run_piece, run_piece_on};
use seqpar::kernel::spec::*;

const MODULATIONS: [Modulation; 3] = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken];

#[test]
fn attention_is_the_oracles() {
    let mut random = Random::new("attention");
    for isa in isas() {
        for dtype in FLOATS {
            for (heads, dim, rows, keys) in [
                ([2, 2], 72, 1, &[64usize][..]),
                ([4, 2], 16, 7, &[63, 65]),
                ([6, 2], 33, 13, &[1, 130, 0]),
                ([3, 1], 256, 5, &[66]),
                ([1, 1], 1, 26, &[17]),
            ] {
                for masks in 0..4 {
                    let mut spec = attention(dtype, 2, heads, dim, rows, keys);
                    spec.key_mask = masks & 1 != 0;
                    spec.key_len = masks & 2 != 0;
                    let threads = 1 + random.below(3);
                    hold_to_oracle(isa, &Kernel::Attention(spec), &mut random, threads, 3e-6, 1);
                }
            }
        }
    }
}

#[test]
fn attention_of_several_query_segments_and_head_slices() {
    let mut random = Random::new("attention segments");
    for isa in isas() {
        let mut spec = attention(Dtype::F32, 2, [5, 2], 40, 0, &[9, 70]);
        spec.queries = vec![3, 0, 11];
        // Heads 4..9 of a layer with 3 queries a key head: key heads 1..3.
        (spec.group, spec.first_head, spec.first_kv_head) = (3, 4, 1);
        spec.keys[1].base = 30;
        spec.key_len = true;
        hold_to_oracle(isa, &Kernel::Attention(spec), &mut random, 2, 3e-6, 1);
    }
}

#[test]
fn gemm_is_the_oracles() {
    let mut random = Random::new("gemm");
    let mut epilogues = vec![Epilogue::None, Epilogue::Gelu, Epilogue::Silu, Epilogue::Residual];
    epilogues.extend(MODULATIONS.map(Epilogue::GatedResidual));
    for isa in isas() {
        for dtype in FLOATS {
            for &epilogue in &epilogues {
                for bias in [false, true] {
                    let parts = match epilogue {
                        Epilogue::None | Epilogue::Gelu | Epilogue::Silu => vec![33, 1, 70],
                        _ => vec![67],
                    };
                    let k = [1, 48, 300][random.below(3)];
                    let spec =
                        Gemm { dtype, out_dtype: dtype, batch: 2, chunks: vec![1, 19], k, parts, bias, epilogue };
                    let roundings = if epilogue == Epilogue::None { 1 } else { 3 };
                    hold_to_oracle(isa, &Kernel::Gemm(spec), &mut random, 1, 5e-6, roundings);
                }
            }
        }
    }
    for dtype in FLOATS {
        let spec = Gemm { out_dtype: Dtype::F32, ..Gemm::linear(dtype, 1, 130, 257, 200, false, Epilogue::None) };
        hold_to_oracle(Isa::detect(), &Kernel::Gemm(spec), &mut random, 2, 5e-6, 1);
    }
}

#[test]
fn gemm_takes_one_residual_for_all_samples_and_writes_over_it() {
    let mut random = Random::new("gemm residual");
    let kernel = Kernel::Gemm(Gemm::linear(Dtype::F32, 3, 5, 24, 18, true, Epilogue::Residual));
    let mut operands = random_operands(&kernel, &mut random, false);
    let shared = operands[4].slice(0, 0..1);
    operands[4] = shared.clone();
    launch(Isa::detect(), &kernel, 0, &mut operands, 1, &[]);
    let repeated: Vec<f32> = std::iter::repeat_n(shared.values(), 3).flatten().collect();
    let mut whole = operands.clone();
    whole[4] = Bound::new(Dtype::F32, [3, 5, 1, 18], &repeated, &Layout::default());
    launch(Isa::detect(), &kernel, 0, &mut whole, 1, &[]);
    assert_eq!(operands[3].bits(), whole[3].bits());
    let separate = whole[3].bits();
    launch(Isa::detect(), &kernel, 0, &mut whole, 1, &[(3, 4)]);
    assert_eq!(whole[4].bits(), separate, "in place");
}

#[test]
fn adaln_is_the_oracles() {
    let mut random = Random::new("adaln");
    for isa in isas() {
        for dtype in FLOATS {
            for modulation in MODULATIONS {
                for norm in [Norm::Layer, Norm::Rms] {
                    let hidden = [1, 7, 64, 100, 1152][random.below(5)];
                    // A row of one element, or of two close ones, has a variance near 0, which
                    // eps must not let cancellation show through.
                    let (batch, rows, eps) = (2, 1 + random.below(40), 1e-2);
                    let norms = NormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
                    hold_to_oracle(isa, &Kernel::NormModulate(norms), &mut random, 2, 5e-6, 1);
                    let fused = GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
                    let spread = if hidden < 64 { 24 } else { 6 };
                    hold_to_oracle(isa, &Kernel::GateResidualNormModulate(fused), &mut random, 2, 2e-5, spread);
                }
                let gate = GateResidual { dtype, batch: 2, rows: 9, hidden: 77, modulation };
                hold_to_oracle(isa, &Kernel::GateResidual(gate), &mut random, 2, 1e-6, 1);
            }
        }
    }
}

#[test]
fn large_rows_that_bypass_the_caches_are_the_same() {
    let mut random = Random::new("streamed rows");
    let (dtype, modulation) = (Dtype::F32, Modulation::PerSample);
    let (batch, rows, hidden, norm, eps) = (1, 9000, 256, Norm::Layer, 1e-6);
    let kernel = |rows| {
        Kernel::GateResidualNormModulate(GateResidualNormModulate { dtype, batch, rows, hidden, norm, eps, modulation })
    };
    let mut whole = random_operands(&kernel(rows), &mut random, false);
    let mut part = whole.clone();
    part[..4].iter_mut().for_each(|o| *o = o.slice(1, 100..117));
    launch(Isa::detect(), &kernel(rows), 0, &mut whole, 2, &[]);
    launch(Isa::detect(), &kernel(17), 0, &mut part, 1, &[]);
    for i in [2, 3] {
        assert_eq!(whole[i].slice(1, 100..117).bits(), part[i].bits());
    }
}

#[test]
fn qk_norm_rope_is_the_oracles() {
    let mut random = Random::new("qk_norm_rope");
    for isa in isas() {
        for dtype in FLOATS {
            for norm_eps in [None, Some(1e-5)] {
                for rope in [None, Some(RopePairs::Interleaved), Some(RopePairs::Halves)] {
                    for (heads, kv_heads, head_dim) in [(3, 1, 72), (0, 2, 6), (2, 0, 128)] {
                        let spec = QkNormRope { dtype, batch: 2, rows: 11, heads, kv_heads, head_dim, norm_eps, rope };
                        hold_to_oracle(isa, &Kernel::QkNormRope(spec), &mut random, 2, 2e-6, 3);
                    }
                }
            }
        }
    }
}

#[test]
fn embeddings_are_the_oracles() {
    let mut random = Random::new("embed");
    for isa in isas() {
        for dtype in FLOATS {
            let time = TimestepEmbed { dtype, batch: 3, dim: 34 };
            hold_to_oracle(isa, &Kernel::TimestepEmbed(time), &mut random, 1, 1e-7, 1);
            let class = ClassEmbed { dtype, batch: 3, classes: 11, hidden: 45 };
            hold_to_oracle(isa, &Kernel::ClassEmbed(class), &mut random, 1, 1e-6, 3);
        }
    }
}

#[test]
fn pack_copies_and_casts() {
    let mut random = Random::new("pack");
    for src_dtype in FLOATS {
        for dst_dtype in FLOATS {
            let copies = vec![[2, 13, 3, 10], [1, 0, 3, 4], [1, 1, 1, 1]];
            let kernel = Kernel::Pack(Pack { src_dtype, dst_dtype, copies });
            hold_to_oracle(Isa::detect(), &kernel, &mut random, 2, 0.0, 1);
        }
    }
    // Other cuts of dimensions 2 and 3 on the two sides.
    let pack = Pack { src_dtype: Dtype::U8, dst_dtype: Dtype::U8, copies: vec![[1, 5, 4, 6]] };
    let kernel = Kernel::Pack(pack);
    let mut operands = random_operands(&kernel, &mut random, false);
    operands[1] = Bound::poisoned(Dtype::U8, [1, 5, 1, 24], &Layout { cuts: vec![2], gap: [0, 3, 0] });
    launch(Isa::detect(), &kernel, 0, &mut operands, 1, &[]);
    assert_eq!(operands[0].values(), operands[1].values());
}

#[test]
fn conversions_are_those_of_half() {
    let same = |ours: f32, theirs: f32| ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan());
    let mut random = Random::new("conversions");
    for bits in 0..=u16::MAX {
        assert!(same(f16_to_f32(bits), f16::from_bits(bits).to_f32()), "f16 {bits:#06x}");
        assert!(same(bf16_to_f32(bits), bf16::from_bits(bits).to_f32()), "bf16 {bits:#06x}");
    }
    let round = |x: f32| {
        let (ours, theirs) = (f16_from_f32(x), f16::from_f32(x));
        assert!(ours == theirs.to_bits() || (theirs.is_nan() && f16::from_bits(ours).is_nan()), "{x:e}");
        let (ours, theirs) = (bf16_from_f32(x), bf16::from_f32(x));
        assert!(ours == theirs.to_bits() || (theirs.is_nan() && bf16::from_bits(ours).is_nan()), "{x:e}");
    };
    for bits in 0..=u16::MAX {
        // Every value of each type, the middle to the next, and the neighbours of both.
        for x in [f16_to_f32(bits).to_bits(), bf16_to_f32(bits).to_bits()] {
            for step in [0u32, 1, u32::MAX, 0x1000, 0x0fff, 0x1001, 0x8000, 0x7fff, 0x8001] {
                round(f32::from_bits(x.wrapping_add(step)));
            }
        }
    }
    (0..2_000_000).for_each(|_| round(f32::from_bits(random.next() as u32)));
    for x in [65504.0, 65519.996, 65520.0, 65535.996, 65536.0, 1e6, f32::INFINITY, 5.96e-8, 2.98e-8, 2.9802326e-8] {
        round(x);
        round(-x);
    }
}

#[test]
fn vector_conversions_are_the_scalar_ones() {
    let mut random = Random::new("vector conversions");
    let n = 4099;
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let values: Vec<f32> = (0..n).map(|_| f32::from_bits(random.next() as u32)).collect();
        let pack = |src_dtype, dst_dtype| Kernel::Pack(Pack { src_dtype, dst_dtype, copies: vec![[1, 1, 1, n]] });
        let shape = [1, 1, 1, n];
        let wide = Bound::new(Dtype::F32, shape, &values, &Layout::default());
        let mut narrowed = [wide.clone(), Bound::poisoned(dtype, shape, &Layout::default())];
        launch(Isa::detect(), &pack(Dtype::F32, dtype), 0, &mut narrowed, 1, &[]);
        let scalar = Bound::new(dtype, shape, &values, &Layout::default());
        assert_eq!(narrowed[1].bits(), scalar.bits());
        let mut widened = [scalar.clone(), wide];
        launch(Isa::detect(), &pack(dtype, Dtype::F32), 0, &mut widened, 1, &[]);
        assert_eq!(widened[1].bits(), scalar.bits());
    }
}

#[test]
fn masked_keys_hold_anything_and_all_masked_rows_are_zero() {
    let mut random = Random::new("masks");
    for isa in isas() {
        for by_len in [false, true] {
            let mut spec = attention(Dtype::F32, 2, [2, 1], 20, 9, &[5, 90]);
            (spec.key_mask, spec.key_len) = (!by_len, by_len);
            let kernel = Kernel::Attention(spec.clone());
            let mut clean = random_operands(&kernel, &mut random, false);
            let per = spec.key_operands();
            // Sample 1 has no key at all.
            let kept = |b: usize, s: usize, n: usize| b == 0 && !(n + s).is_multiple_of(3) && n < 40;
            let limit = |b: usize, s: usize| if b == 1 { 0 } else { [3, 40][s] };
            let counts = |b: usize, s: usize, n: usize| if by_len { n < limit(b, s) } else { kept(b, s, n) };
            if by_len {
                let lens: Vec<f32> = (0..4).map(|i| limit(i / 2, i % 2) as f32).collect();
                let last = clean.len() - 1;
                clean[last] = Bound::new(Dtype::I32, [2, 2, 1, 1], &lens, &Layout::default());
            }
            let mut dirty = clean.clone();
            for (s, key) in spec.keys.iter().enumerate() {
                let at = |list: &mut Vec<Bound>, i: usize, f: &dyn Fn(usize, usize, f32) -> f32| {
                    let operand = &mut list[3 + s * per + i];
                    let values = operand.values();
                    let per_row = operand.shape[2] * operand.shape[3];
                    let new: Vec<f32> = (values.iter().enumerate())
                        .map(|(j, x)| f(j / per_row / key.len, j / per_row % key.len, *x))
                        .collect();
                    *operand = Bound::new(operand.dtype, operand.shape, &new, &Layout::default());
                };
                for list in [&mut clean, &mut dirty] {
                    if !by_len {
                        at(list, 2, &|b, n, _| f32::from(u8::from(kept(b, s, n))));
                    }
                }
                at(&mut dirty, 0, &|b, n, x| if counts(b, s, n) { x } else { f32::NAN });
                at(&mut dirty, 1, &|b, n, x| if counts(b, s, n) { x } else { f32::INFINITY });
            }
            launch(isa, &kernel, 0, &mut clean, 1, &[]);
            launch(isa, &kernel, 0, &mut dirty, 1, &[]);
            assert_eq!(clean[1].bits(), dirty[1].bits(), "out");
            assert_eq!(clean[2].bits(), dirty[2].bits(), "lse");
            assert!(clean[1].values().iter().all(|x| x.is_finite()));
            assert!(clean[1].slice(0, 1..2).values().iter().all(|x| *x == 0.0));
            assert!(clean[2].slice(0, 1..2).values().iter().all(|x| *x == f32::NEG_INFINITY));
        }
    }
}

#[test]
fn a_nan_stays_in_its_row() {
    let mut random = Random::new("nan rows");
    for isa in isas() {
        for bad in [f32::NAN, f32::INFINITY] {
            let attn = Kernel::Attention(attention(Dtype::F32, 1, [1, 1], 24, 13, &[70]));
            let gemm = Kernel::Gemm(Gemm::linear(Dtype::F32, 1, 13, 24, 40, true, Epilogue::Gelu));
            let (dtype, modulation, norm) = (Dtype::F32, Modulation::PerSample, Norm::Layer);
            let norms = NormModulate { dtype, batch: 1, rows: 13, hidden: 24, norm, eps: 1e-6, modulation };
            for (kernel, input, output) in [(attn, 0, 1), (gemm, 2, 3), (Kernel::NormModulate(norms), 0, 1)] {
                let mut clean = random_operands(&kernel, &mut random, false);
                let mut dirty = clean.clone();
                let mut values = dirty[input].values();
                values[4 * 24 + 7] = bad;
                dirty[input] = Bound::new(dtype, dirty[input].shape, &values, &Layout::default());
                launch(isa, &kernel, 0, &mut clean, 1, &[]);
                launch(isa, &kernel, 0, &mut dirty, 1, &[]);
                for row in 0..13 {
                    let (clean, dirty) = (clean[output].slice(1, row..row + 1), dirty[output].slice(1, row..row + 1));
                    if row != 4 {
                        assert_eq!(clean.bits(), dirty.bits(), "row {row} of {}", kernel.name());
                    } else if bad.is_nan() {
                        assert!(dirty.values().iter().all(|x| x.is_nan()), "{}", kernel.name());
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut random = Random::new("refusals");
    let refused = |kernel: &Kernel, operands: &mut [Bound], word: &str| {
        let tensors: Vec<_> = operands.iter_mut().map(Bound::tensors).collect();
        let error = run_piece(kernel, 0, &tensors, 1).expect_err(word).to_string();
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    };
    let spec = attention(Dtype::F32, 2, [2, 1], 8, 3, &[5]);
    let kernel = Kernel::Attention(spec.clone());
    let good = random_operands(&kernel, &mut random, false);
    let with = |i: usize, dtype: Dtype, shape: [usize; 4]| {
        let mut operands = good.clone();
        operands[i] = Bound::poisoned(dtype, shape, &Layout::default());
        operands
    };
    refused(&kernel, &mut with(0, Dtype::F32, [2, 4, 2, 8]), "rows");
    refused(&kernel, &mut with(0, Dtype::F16, [2, 3, 2, 8]), "f16 given");
    refused(&kernel, &mut with(1, Dtype::F32, [2, 3, 2, 7]), "operand 1 (out)");
    refused(&kernel, &mut with(0, Dtype::F32, [1, 3, 2, 8]), "given");
    refused(&kernel, &mut good.clone()[..4], "operands given");
    for (change, word) in [
        (Attention { head_dim: 257, ..spec.clone() }, "head dim"),
        (Attention { group: 0, ..spec.clone() }, "group"),
        (Attention { group: 1, ..spec.clone() }, "key head"),
        (Attention { first_kv_head: 1, ..spec }, "key head"),
    ] {
        refused(&Kernel::Attention(change), &mut good.clone(), word);
    }
    let class = Kernel::ClassEmbed(ClassEmbed { dtype: Dtype::F32, batch: 2, classes: 4, hidden: 3 });
    for bad in [-1.0, 4.0] {
        let mut operands = random_operands(&class, &mut random, false);
        operands[2] = Bound::new(Dtype::I32, [2, 1, 1, 1], &[0.0, bad], &Layout::default());
        refused(&class, &mut operands, "class");
    }
    let mut operands = good.clone();
    let tensors: Vec<_> = operands.iter_mut().map(Bound::tensors).collect();
    assert!(run_piece(&kernel, 1, &tensors, 1).is_err(), "no such piece");
    for isa in [Isa::Avx512, Isa::Avx2].into_iter().filter(|isa| !isa.is_available()) {
        assert!(run_piece_on(isa, &kernel, 0, &tensors, 1).is_err());
    }
}
