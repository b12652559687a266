//! The rules of R1 at the level of one kernel, bit for bit: one definition (1), rows alone (2),
//! heads and columns alone (3), tiles cut from the segment whatever holds it (5), threads and
//! samples change nothing (7). Carried attention equals one launch.

mod kernel_support;

use kernel_support::*;
use seqpar::dtype::Dtype;
use seqpar::kernel::host::Isa;
use seqpar::kernel::spec::*;

const MODULATIONS: [Modulation; 3] = [Modulation::PerSample, Modulation::PerFrame, Modulation::PerToken];

#[test]
fn rule_1_fused_adaln_is_its_chain() {
    let mut random = Random::new("rule 1 adaln");
    for isa in isas() {
        for dtype in FLOATS {
            for modulation in MODULATIONS {
                for norm in [Norm::Layer, Norm::Rms] {
                    let (batch, rows, hidden, eps) = (2, 1 + random.below(30), 1 + random.below(300), 1e-6);
                    let fused = Kernel::GateResidualNormModulate(GateResidualNormModulate {
                        dtype,
                        batch,
                        rows,
                        hidden,
                        norm,
                        eps,
                        modulation,
                    });
                    let mut all = random_operands(&fused, &mut random, true);
                    launch(isa, &fused, 0, &mut all, 2, &[]);
                    let vectors = |which: &[usize]| -> Vec<Bound> {
                        let sets = if modulation == Modulation::PerFrame { 2 } else { 1 };
                        let chosen = (0..sets).flat_map(|set| which.iter().map(move |v| 4 + 3 * set + v));
                        let frame = (sets == 2).then_some(10);
                        chosen.chain(frame).map(|i| all[i].clone()).collect()
                    };
                    let poison = || Bound::poisoned(dtype, all[0].shape, &Layout::default());
                    let mut gate = vec![all[0].clone(), all[1].clone(), poison()];
                    gate.extend(vectors(&[0]));
                    let kernel = Kernel::GateResidual(GateResidual { dtype, batch, rows, hidden, modulation });
                    launch(isa, &kernel, 0, &mut gate, 1, &[]);
                    assert_eq!(gate[2].bits(), all[2].bits(), "out, {isa:?} {dtype} {modulation:?}");
                    let mut modulate = vec![gate[2].clone(), poison()];
                    modulate.extend(vectors(&[1, 2]));
                    let spec = NormModulate { dtype, batch, rows, hidden, norm, eps, modulation };
                    launch(isa, &Kernel::NormModulate(spec), 0, &mut modulate, 1, &[]);
                    assert_eq!(modulate[1].bits(), all[3].bits(), "y, {isa:?} {dtype} {modulation:?}");
                    // In place.
                    let (out, y) = (all[2].bits(), all[3].bits());
                    launch(isa, &fused, 0, &mut all, 1, &[(2, 0)]);
                    assert_eq!((all[0].bits(), all[3].bits()), (out, y), "out is the residual");
                }
            }
        }
    }
}

#[test]
fn rule_1_gemm_epilogues_are_their_chains() {
    let mut random = Random::new("rule 1 gemm");
    for isa in isas() {
        for dtype in FLOATS {
            for modulation in MODULATIONS {
                let (batch, rows, k, cols) = (2, 1 + random.below(40), 50, 1 + random.below(90));
                let gemm = |epilogue| Kernel::Gemm(Gemm::linear(dtype, batch, rows, k, cols, true, epilogue));
                let fused = gemm(Epilogue::GatedResidual(modulation));
                let mut all = random_operands(&fused, &mut random, true);
                launch(isa, &fused, 0, &mut all, 2, &[]);
                let poison = || Bound::poisoned(dtype, all[3].shape, &Layout::default());
                let mut plain = vec![all[0].clone(), all[1].clone(), all[2].clone(), poison()];
                launch(isa, &gemm(Epilogue::None), 0, &mut plain, 1, &[]);
                let mut gate = vec![all[4].clone(), plain[3].clone(), poison()];
                gate.extend(all[5..].iter().cloned());
                let spec = GateResidual { dtype, batch, rows, hidden: cols, modulation };
                launch(isa, &Kernel::GateResidual(spec), 0, &mut gate, 1, &[]);
                assert_eq!(gate[2].bits(), all[3].bits(), "{isa:?} {dtype} {modulation:?}");
            }
        }
    }
}

#[test]
fn rule_1_norm_and_rope_are_their_chain() {
    let mut random = Random::new("rule 1 rope");
    for isa in isas() {
        for dtype in FLOATS {
            for rope in [RopePairs::Interleaved, RopePairs::Halves] {
                let spec = QkNormRope {
                    dtype,
                    batch: 2,
                    rows: 9,
                    heads: 3,
                    kv_heads: 1,
                    head_dim: 36,
                    norm_eps: Some(1e-6),
                    rope: Some(rope),
                };
                let (norm, turn) =
                    (QkNormRope { rope: None, ..spec.clone() }, QkNormRope { norm_eps: None, ..spec.clone() });
                let all = random_operands(&Kernel::QkNormRope(spec.clone()), &mut random, true);
                let mut fused = all.clone();
                launch(isa, &Kernel::QkNormRope(spec), 0, &mut fused, 2, &[]);
                let mut first = all[..4].to_vec();
                launch(isa, &Kernel::QkNormRope(norm), 0, &mut first, 1, &[]);
                let mut second = vec![first[0].clone(), first[1].clone(), all[4].clone(), all[5].clone()];
                launch(isa, &Kernel::QkNormRope(turn), 0, &mut second, 1, &[]);
                assert_eq!(second[0].bits(), fused[0].bits());
                assert_eq!(second[1].bits(), fused[1].bits());
            }
        }
    }
}

#[test]
fn rules_2_and_3_gemm_rows_and_columns_are_alone() {
    let mut random = Random::new("gemm bits");
    let mut ks: Vec<usize> = (1..=40).collect();
    ks.extend([63, 64, 65, 255, 256, 257, 511, 512, 513, 768, 1025, 1152]);
    for k in ks {
        for dtype in if k % 64 == 0 { &FLOATS[..] } else { &FLOATS[..1] } {
            let (rows, cols) = (1 + random.below(150), 1 + random.below(150));
            let kernel = |rows, cols| {
                Kernel::Gemm(Gemm::linear(*dtype, 1, rows, k, cols, true, [Epilogue::None, Epilogue::Gelu][k % 2]))
            };
            let mut whole = random_operands(&kernel(rows, cols), &mut random, true);
            launch(Isa::detect(), &kernel(rows, cols), 0, &mut whole, 1, &[]);
            for trial in 0..6 {
                // A single row, a single column, both, and any block.
                let row = random.below(rows);
                let col = random.below(cols);
                let m = if trial < 2 { 1 } else { 1 + random.below(rows - row) };
                let n = if trial % 2 == 0 { 1 } else { 1 + random.below(cols - col) };
                let mut part = vec![
                    whole[0].slice(1, col..col + n),
                    whole[1].slice(3, col..col + n),
                    whole[2].slice(1, row..row + m),
                    Bound::poisoned(*dtype, [1, m, 1, n], &Layout::default()),
                ];
                launch(Isa::detect(), &kernel(m, n), 0, &mut part, 1, &[]);
                let want = whole[3].slice(1, row..row + m).slice(3, col..col + n);
                assert_eq!(part[3].bits(), want.bits(), "k {k}, {rows} x {cols}: {m} rows from {row}, {n} columns");
            }
        }
    }
}

#[test]
fn rule_3_gemm_parts_and_chunks_are_alone() {
    let mut random = Random::new("gemm parts");
    let spec = Gemm {
        parts: vec![20, 7, 33],
        chunks: vec![5, 0, 12],
        ..Gemm::linear(Dtype::Bf16, 2, 0, 96, 0, true, Epilogue::Silu)
    };
    let kernel = Kernel::Gemm(spec.clone());
    let mut all = random_operands(&kernel, &mut random, true);
    (0..3).for_each(|piece| launch(Isa::detect(), &kernel, piece, &mut all, 2, &[]));
    for (piece, &rows) in spec.chunks.iter().enumerate() {
        for (part, &cols) in spec.parts.iter().enumerate() {
            let one = Kernel::Gemm(Gemm::linear(Dtype::Bf16, 2, rows, 96, cols, true, Epilogue::Silu));
            let own = [2 * part, 2 * part + 1, 6 + 4 * piece, 7 + 4 * piece + part];
            let mut operands: Vec<Bound> = own.iter().map(|&i| all[i].clone()).collect();
            launch(Isa::detect(), &one, 0, &mut operands, 1, &[]);
            assert_eq!(operands[3].bits(), all[own[3]].bits());
        }
    }
}

#[test]
fn rules_2_3_5_attention_rows_heads_samples_and_memory_are_alone() {
    let mut random = Random::new("attention bits");
    for isa in isas() {
        for dtype in FLOATS {
            let dim = [72, 16, 50][random.below(3)];
            let (rows, keys) = (1 + random.below(40), [1 + random.below(70), 1 + random.below(200)]);
            let mut spec = attention(dtype, 2, [6, 3], dim, rows, &keys);
            (spec.key_mask, spec.key_len) = (true, true);
            let kernel = Kernel::Attention(spec.clone());
            let mut whole = random_operands(&kernel, &mut random, false);
            launch(isa, &kernel, 0, &mut whole, 1, &[]);

            // Keys in several tensors, queries strided, three threads.
            let mut scattered = whole.clone();
            for (operand, want) in scattered.iter_mut().zip(kernel.operands()) {
                let layout = Layout::random(&mut random, want.shape[1]);
                *operand = match want.mode {
                    Mode::Write => Bound::poisoned(want.dtype, want.shape, &layout),
                    _ => Bound::new(want.dtype, want.shape, &operand.values(), &layout),
                };
            }
            launch(isa, &kernel, 0, &mut scattered, 3, &[]);
            assert_eq!(scattered[1].bits(), whole[1].bits(), "memory, {isa:?} {dtype} d{dim}");
            assert_eq!(scattered[2].bits(), whole[2].bits());

            // Some rows of some heads of one sample, as two segments.
            let (b, first) = (random.below(2), random.below(rows));
            let some = first..first + 1 + random.below(rows - first);
            let heads = [0..2, 2..6, 3..4, 0..1][random.below(4)].clone();
            let kv = heads.start / 2..(heads.end - 1) / 2 + 1;
            let cut = random.below(some.len() + 1);
            let part_spec = Attention {
                batch: 1,
                heads: heads.len(),
                kv_heads: kv.len(),
                first_head: heads.start,
                first_kv_head: kv.start,
                queries: vec![cut, some.len() - cut],
                ..spec.clone()
            };
            let part_kernel = Kernel::Attention(part_spec);
            let q = whole[0].slice(0, b..b + 1).slice(2, heads.clone());
            let mut part = random_operands(&part_kernel, &mut random, false);
            part[0] = q.slice(1, some.start..some.start + cut);
            part[3] = q.slice(1, some.start + cut..some.end);
            for (i, operand) in whole[3..].iter().enumerate() {
                let own = operand.slice(0, b..b + 1);
                part[6 + i] = if [0, 1, 3, 4].contains(&i) { own.slice(2, kv.clone()) } else { own };
            }
            launch(isa, &part_kernel, 0, &mut part, 1, &[]);
            for (segment, rows) in [(0, some.start..some.start + cut), (3, some.start + cut..some.end)] {
                let out = whole[1].slice(0, b..b + 1).slice(2, heads.clone()).slice(1, rows.clone());
                let lse = whole[2].slice(0, b..b + 1).slice(1, heads.clone()).slice(3, rows);
                assert_eq!(
                    part[segment + 1].bits(),
                    out.bits(),
                    "{isa:?} {dtype} d{dim} rows {some:?} heads {heads:?}"
                );
                assert_eq!(part[segment + 2].bits(), lse.bits());
            }
        }
    }
}

#[test]
fn rule_2_adaln_and_rope_rows_are_alone() {
    let mut random = Random::new("row kernels");
    for isa in isas() {
        for dtype in FLOATS {
            let (rows, hidden) = (2 + random.below(50), 1 + random.below(200));
            let row = random.below(rows);
            let norms = |rows| {
                Kernel::NormModulate(NormModulate {
                    dtype,
                    batch: 2,
                    rows,
                    hidden,
                    norm: Norm::Layer,
                    eps: 1e-6,
                    modulation: Modulation::PerToken,
                })
            };
            let rope = |rows| {
                Kernel::QkNormRope(QkNormRope {
                    dtype,
                    batch: 2,
                    rows,
                    heads: 3,
                    kv_heads: 2,
                    head_dim: 24,
                    norm_eps: Some(1e-6),
                    rope: Some(RopePairs::Halves),
                })
            };
            for (kernel, one) in [(norms(rows), norms(1)), (rope(rows), rope(1))] {
                let mut whole = random_operands(&kernel, &mut random, true);
                let slice = |o: &Bound| if o.shape[1] == rows { o.slice(1, row..row + 1) } else { o.clone() };
                let mut part: Vec<Bound> = whole.iter().map(slice).collect();
                launch(isa, &kernel, 0, &mut whole, 2, &[]);
                launch(isa, &one, 0, &mut part, 1, &[]);
                for i in 0..2 {
                    assert_eq!(part[i].bits(), whole[i].slice(1, row..row + 1).bits(), "{}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn rule_7_threads_change_no_bit() {
    let mut random = Random::new("threads");
    let modulation = Modulation::PerFrame;
    // Each is enough work for several threads.
    let fused = GateResidualNormModulate {
        dtype: Dtype::F16,
        batch: 2,
        rows: 700,
        hidden: 400,
        norm: Norm::Layer,
        eps: 1e-6,
        modulation,
    };
    let rope = QkNormRope {
        dtype: Dtype::F32,
        batch: 1,
        rows: 900,
        heads: 8,
        kv_heads: 8,
        head_dim: 64,
        norm_eps: Some(1e-6),
        rope: Some(RopePairs::Interleaved),
    };
    let pack = Pack { src_dtype: Dtype::F32, dst_dtype: Dtype::Bf16, copies: vec![[2, 400, 8, 200]] };
    let kernels = [
        Kernel::Attention(attention(Dtype::F32, 1, [4, 2], 40, 300, &[20, 301])),
        Kernel::Gemm(Gemm::linear(Dtype::F32, 1, 300, 256, 130, true, Epilogue::Gelu)),
        Kernel::Gemm(Gemm::linear(Dtype::Bf16, 1, 3, 1024, 1200, true, Epilogue::None)),
        Kernel::GateResidualNormModulate(fused),
        Kernel::QkNormRope(rope),
        Kernel::Pack(pack),
    ];
    for kernel in kernels {
        let fresh = random_operands(&kernel, &mut random, true);
        let run = |threads: usize| {
            let mut operands = fresh.clone();
            launch(Isa::detect(), &kernel, 0, &mut operands, threads, &[]);
            operands.iter().map(Bound::bits).collect::<Vec<_>>()
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert!(run(threads) == one, "{} threads: {}", threads, kernel.name());
        }
    }
}

#[test]
fn carried_attention_is_one_launch() {
    let mut random = Random::new("carry");
    for isa in isas() {
        for dtype in FLOATS {
            let mut spec = attention(dtype, 2, [4, 2], 24, 0, &[70, 33, 0, 129]);
            spec.queries = vec![5, 14];
            spec.keys[1].base = 70;
            spec.key_mask = true;
            let kernel = Kernel::Attention(spec.clone());
            let mut whole = random_operands(&kernel, &mut random, true);
            launch(isa, &kernel, 0, &mut whole, 1, &[]);
            let mut state: Vec<Bound> = Vec::new();
            for (i, key) in spec.keys.iter().enumerate() {
                let (first, last) = (i == 0, i + 1 == spec.keys.len());
                let step = Kernel::Attention(Attention {
                    keys: vec![*key],
                    carry_in: !first,
                    carry_out: !last,
                    ..spec.clone()
                });
                let mut operands = random_operands(&step, &mut random, true);
                let per_segment = operands.len() - 3;
                let (queries, keys) = operands.split_at_mut(per_segment);
                keys.iter_mut().enumerate().for_each(|(j, key)| *key = whole[6 + 3 * i + j].clone());
                let each = queries.len() / 2;
                for segment in 0..2 {
                    let own = &mut queries[segment * each..(segment + 1) * each];
                    own[0] = whole[3 * segment].clone();
                    if !first {
                        own[each - 3..].clone_from_slice(&state[3 * segment..3 * segment + 3]);
                    }
                }
                launch(isa, &step, 0, &mut operands, 2, &[]);
                if last {
                    for segment in 0..2 {
                        for i in 1..3 {
                            let want = whole[3 * segment + i].bits();
                            assert_eq!(operands[segment * each + i].bits(), want, "{isa:?} {dtype}");
                        }
                    }
                } else {
                    state = (0..2).flat_map(|s| operands[(s + 1) * each - 3..(s + 1) * each].to_vec()).collect();
                }
            }
        }
    }
}
