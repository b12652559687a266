//! Rules 4 and 5: keys have one order, and the key tiles one width, on whatever ranks and in
//! whatever pieces.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Attention, Gemm, Kernel, KeySegment};
use seqpar::mesh::Mesh;
use seqpar::plan::Plan;
use seqpar::plan::lower::Gates;
use seqpar::strategy::{self, Options, Route, Strategy};

use crate::support::cases::{Case, layer_inputs};
use crate::support::tensors::{How, Values, assert_all_same, assert_same, concat, isas, launch, random_operands};
use crate::support::{assert_same_bits, options, run};
use crate::{DTYPES, EPILOGUES, attention, fresh};

/// A segment may lie in memory in any number of pieces: the chunks of the ranks, gathered.
#[test]
fn rule4_how_a_segment_lies_in_memory_changes_no_bit() {
    let mut rng = fresh("rule 4, memory");
    for dtype in DTYPES {
        let kernel = Kernel::Attention(Attention { key_len: true, ..attention(dtype, 2, 2, 33, 70, 200) });
        let inputs = random_operands(&kernel, &mut rng);
        for isa in isas() {
            let want = launch(&kernel, &inputs, &How::plain(isa));
            for _ in 0..4 {
                let how = How::plain(isa).split(rng.next());
                assert_all_same(isa.name(), &kernel, &launch(&kernel, &inputs, &how), &want);
                assert_all_same(isa.name(), &kernel, &launch(&kernel, &inputs, &how.strided().merged()), &want);
            }
        }
    }
}

/// Text then image, each whole and from its first token: on every rank of every R1 strategy.
#[test]
fn rule4_every_rank_visits_text_then_image_in_global_order() {
    let mut rng = fresh("rule 4, plans");
    for ranks in [1, 2, 3, 5, 8] {
        for _ in 0..4 {
            let case = Case::random(&mut rng, Dtype::F32, ranks, false);
            let mut want: Vec<(usize, usize, usize)> = vec![(0, 0, case.text), (1, 0, case.tokens)];
            want.retain(|(.., len)| *len > 0);
            for strategy in [Strategy::Single, Strategy::Fastseq, Strategy::Ulysses, Strategy::KvGather] {
                if strategy == Strategy::Single && ranks > 1 {
                    continue;
                }
                let mesh = strategy.mesh(ranks, None, None, case.heads, case.kv_heads).unwrap();
                let shard = case.cut(&mut rng, ranks, false);
                let layer = case.layer(&mut rng, shard);
                let plans = strategy::layer(&layer, strategy, &mesh, &Options::default()).unwrap();
                let kernels: Vec<Attention> = plans.iter().flat_map(attentions).collect();
                assert!(!kernels.is_empty());
                for spec in kernels {
                    assert_eq!(runs(&spec.keys), want, "{} over {ranks}: {case:?}", strategy.name());
                    assert!(!spec.carry_in && !spec.carry_out, "{}", strategy.name());
                }
            }
        }
    }
}

fn attentions(plan: &Plan) -> Vec<Attention> {
    let kernels = plan.op_ids().filter_map(|op| plan.kernel(op));
    kernels.filter_map(|kernel| if let Kernel::Attention(spec) = kernel { Some(spec.clone()) } else { None }).collect()
}

/// Stream, first key and length of the segments that hold keys.
fn runs(keys: &[KeySegment]) -> Vec<(usize, usize, usize)> {
    keys.iter().filter(|key| key.len > 0).map(|key| (key.stream, key.base, key.len)).collect()
}

/// Tokens that belong to any rank, in any interleaving, come out with the bits of one rank.
#[test]
fn rule4_any_owner_of_any_key_gives_the_bits_of_one_rank() {
    let mut rng = fresh("rule 4, owners");
    for dtype in DTYPES {
        let case = Case { text: 70, batch: 2, mask: true, lengths: true, ..Case::plain(dtype, 201, 3, 20) };
        let inputs = case.attention_inputs(&mut rng);
        let one = Mesh::new(1, 1).unwrap();
        let single = strategy::attention(&case.problem(case.even(1)), Strategy::Single, &one, &Options::default());
        let want = run(single.unwrap(), &inputs, options(1)).0;
        for ranks in [2, 3] {
            for strategy in [Strategy::Ulysses, Strategy::KvGather] {
                let mesh = strategy.mesh(ranks, None, None, 3, 3).unwrap();
                let problem = case.problem(case.cut(&mut rng, ranks, false));
                let plans = strategy::attention(&problem, strategy, &mesh, &Options::default()).unwrap();
                let (got, _) = run(plans, &inputs, options(1));
                assert_same_bits(&format!("{} over {ranks}", strategy.name()), &got, &want);
            }
        }
    }
}

/// Keys behind a sample's length are no keys: the same tiles, whatever the extent of the segment.
#[test]
fn rule5_the_extent_of_a_segment_moves_no_tile() {
    let mut rng = fresh("rule 5, extent");
    for dtype in DTYPES {
        for len in [1, 63, 64, 65, 130] {
            let both = Attention { key_mask: false, key_len: true, ..attention(dtype, 2, 1, 21, 0, len) };
            let short = Attention { keys: both.keys[1..].to_vec(), ..both };
            let mut long = short.clone();
            long.keys[0].len = 300;
            let (short, long) = (Kernel::Attention(short), Kernel::Attention(long));
            let mut inputs = random_operands(&long, &mut rng);
            inputs[5].data = [0.0, len as f32].repeat(2);
            let mut few = inputs.clone();
            few[3] = inputs[3].slice(1, 0, len);
            few[4] = inputs[4].slice(1, 0, len);
            for isa in isas() {
                let want = launch(&short, &few, &How::plain(isa));
                let got = launch(&long, &inputs, &How::random(isa, &mut rng));
                assert_all_same(&format!("{len} keys on {}", isa.name()), &short, &got[..3], &want[..3]);
            }
        }
    }
}

/// Nor does anything else that is not the key axis: queries in one segment or three, threads.
#[test]
fn rule5_query_segments_move_no_tile() {
    let mut rng = fresh("rule 5, queries");
    for dtype in DTYPES {
        let whole = attention(dtype, 2, 1, 300, 65, 130);
        let kernel = Kernel::Attention(whole.clone());
        let inputs = random_operands(&kernel, &mut rng);
        let queries = vec![1, 250, 49];
        let (mut operands, mut start) = (Vec::new(), 0);
        for &rows in &queries {
            operands.extend([inputs[0].slice(1, start, rows), inputs[1].slice(1, start, rows)]);
            operands.push(inputs[2].slice(3, start, rows));
            start += rows;
        }
        operands.extend_from_slice(&inputs[3..]);
        let split = Kernel::Attention(Attention { queries, ..whole });
        for isa in isas() {
            let want = launch(&kernel, &inputs, &How::plain(isa));
            let got = launch(&split, &operands, &How::random(isa, &mut rng));
            let joined = |which: usize, dim: usize| {
                let parts: Vec<Values> = (0..3).map(|i| got[3 * i + which].clone()).collect();
                concat(dim, &parts)
            };
            assert_same(isa.name(), &joined(1, 1), &want[1]);
            assert_same(isa.name(), &joined(2, 3), &want[2]);
        }
    }
}

/// A projection chunk by chunk, in any order, has the bits of the whole one.
#[test]
fn rule5_chunked_and_whole_kernels_agree() {
    let mut rng = fresh("rule 5, chunks");
    for dtype in DTYPES {
        for epilogue in EPILOGUES {
            let chunks = vec![17, 64, 0, 1, 129];
            let whole = Gemm::linear(dtype, 1, chunks.iter().sum(), 70, 40, true, epilogue);
            let kernel = Kernel::Gemm(whole.clone());
            let inputs = random_operands(&kernel, &mut rng);
            let (mut operands, mut start) = (inputs[..2].to_vec(), 0);
            for &rows in &chunks {
                let of_chunk = |v: &Values| if v.shape[1] == 1 { v.clone() } else { v.slice(1, start, rows) };
                operands.extend(inputs[2..].iter().map(of_chunk));
                start += rows;
            }
            let per_chunk = inputs.len() - 2;
            let cut = Kernel::Gemm(Gemm { chunks, ..whole });
            for isa in isas() {
                let want = launch(&kernel, &inputs, &How::plain(isa));
                for how in [How::plain(isa), How::random(isa, &mut rng).backwards()] {
                    let got = launch(&cut, &operands, &how);
                    let outs: Vec<Values> = got[3..].iter().step_by(per_chunk).cloned().collect();
                    assert_same(&format!("{cut:?} on {}", isa.name()), &concat(1, &outs), &want[3]);
                }
            }
        }
    }
}

/// Gated or not, gates as flags or as events, either route: one answer.
#[test]
fn rule5_gated_and_ungated_worlds_agree() {
    let mut rng = fresh("rule 5, gates");
    for dtype in DTYPES {
        let case = Case { text: 9, ..Case::plain(dtype, 75, 3, 20) };
        let mut layer = case.layer(&mut rng, case.even(3));
        let inputs = layer_inputs(&case, &layer, &mut rng);
        layer.attention.shard = case.cut(&mut rng, 3, false);
        let mesh = Strategy::Fastseq.mesh(3, None, None, 3, 3).unwrap();
        let mut want = None;
        for gated in [false, true] {
            for gates in [Gates::Flags, Gates::Events] {
                for route in [Route::Forwarded, Route::Direct] {
                    let chosen = Options { gated, route, ..Options::default() };
                    let plans = strategy::layer(&layer, Strategy::Fastseq, &mesh, &chosen).unwrap();
                    let mut how = options(1);
                    how.gates = gates;
                    let (got, _) = run(plans, &inputs, how);
                    let want = want.get_or_insert_with(|| got.clone());
                    assert_same_bits(&format!("{chosen:?} {gates:?}"), &got, want);
                }
            }
        }
    }
}
