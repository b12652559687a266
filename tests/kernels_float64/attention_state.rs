//! What attention carries between launches, what it must not let through, and queries that see
//! no key at all.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Attention, Kernel, KeySegment};

use crate::attention::{plain, random};
use crate::support::tensors::{How, Values, assert_all_same, assert_same, isas, launch, random_operands};
use crate::{DTYPES, fresh};

/// One launch, or one a segment that carries (m, l, O): the same bits, also in place.
#[test]
fn a_chain_of_launches_has_the_bits_of_one() {
    let mut rng = fresh("carry");
    for dtype in DTYPES {
        for _ in 0..6 {
            let queries = rng.within(1, 40);
            let whole = Attention { queries: vec![queries], ..random(&mut rng, dtype, queries, 72) };
            let kernel = Kernel::Attention(whole.clone());
            let inputs = random_operands(&kernel, &mut rng);
            for isa in isas() {
                let want = launch(&kernel, &inputs, &How::plain(isa));
                let got = chain(&whole, &inputs, &How::random(isa, &mut rng));
                let label = format!("{} {whole:?}", isa.name());
                assert_same(&format!("out of {label}"), &got[1], &want[1]);
                assert_same(&format!("lse of {label}"), &got[2], &want[2]);
            }
        }
    }
}

/// One launch a key segment.
fn chain(whole: &Attention, inputs: &[Values], how: &How) -> Vec<Values> {
    let mut state: Option<Vec<Values>> = None;
    let (query, keys) = inputs.split_at(whole.query_operands());
    let lens = if whole.key_len { &keys[keys.len() - 1..] } else { &[] };
    for (i, (segment, tensors)) in whole.keys.iter().zip(keys.chunks(whole.key_operands())).enumerate() {
        let (carry_in, carry_out) = (i > 0, i + 1 < whole.keys.len());
        let kernel = Kernel::Attention(Attention { keys: vec![*segment], carry_in, carry_out, ..whole.clone() });
        let mut operands = vec![query[0].clone()];
        if !carry_out {
            operands.extend_from_slice(&query[1..3]);
        }
        operands.extend(state.take().unwrap_or_else(|| if carry_out { blank_state(whole) } else { Vec::new() }));
        operands.extend_from_slice(tensors);
        operands.extend_from_slice(lens);
        let got = launch(&kernel, &operands, how);
        if !carry_out {
            return got;
        }
        state = Some(got[1..4].to_vec());
    }
    unreachable!("there is an image segment")
}

fn blank_state(spec: &Attention) -> Vec<Values> {
    let (b, n, h) = (spec.batch, spec.queries[0], spec.heads);
    let blank = |shape| Values::filled(Dtype::F32, shape, f32::NAN);
    vec![blank([b, h, 1, n]), blank([b, h, 1, n]), blank([b, n, h, spec.head_dim])]
}

#[test]
fn what_a_mask_or_a_length_hides_may_be_nan_or_infinite() {
    let mut rng = fresh("hidden keys");
    for dtype in DTYPES {
        for (key_mask, key_len) in [(true, false), (false, true), (true, true)] {
            let spec = Attention { key_mask, key_len, ..random(&mut rng, dtype, 21, 64) };
            let kernel = Kernel::Attention(spec.clone());
            let inputs = random_operands(&kernel, &mut rng);
            for isa in isas() {
                let with = |filler: f32| {
                    let hidden = hide(&spec, &inputs, filler);
                    launch(&kernel, &hidden, &How::plain(isa))
                };
                let want = with(0.0);
                for filler in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let got = with(filler);
                    for (i, operand) in kernel.operands().iter().enumerate().filter(|(_, o)| o.mode.writes()) {
                        assert_same(
                            &format!("{filler} {} of {spec:?} on {}", operand.name, isa.name()),
                            &got[i],
                            &want[i],
                        );
                        assert!(got[i].data.iter().all(|x| !x.is_nan()), "{}", operand.name);
                    }
                }
            }
        }
    }
}

/// K and V of every hidden key replaced.
fn hide(spec: &Attention, inputs: &[Values], filler: f32) -> Vec<Values> {
    let mut operands = inputs.to_vec();
    let first = spec.queries.len() * spec.query_operands();
    for (i, segment) in spec.keys.iter().enumerate() {
        let at = first + i * spec.key_operands();
        for which in [at, at + 1] {
            operands[which] = inputs[which].map(|[b, j, ..], x| {
                let masked = spec.key_mask && inputs[at + 2].data[b * segment.len + j] == 0.0;
                let lens = &inputs[inputs.len() - 1].data;
                let beyond = spec.key_len && (segment.base + j) as f32 >= lens[2 * b + segment.stream];
                if masked || beyond { filler } else { x }
            });
        }
    }
    operands
}

#[test]
fn a_query_without_keys_gives_zero_and_minus_infinity() {
    let mut rng = fresh("no keys");
    for dtype in DTYPES {
        let masked = Attention { key_mask: true, ..plain(dtype, 2, 72, 17, 70) };
        let short = Attention { key_len: true, ..plain(dtype, 2, 72, 17, 70) };
        let none = Attention { keys: Vec::new(), ..plain(dtype, 2, 72, 17, 0) };
        let empty = plain(dtype, 2, 72, 17, 0);
        for spec in [masked, short, none, empty] {
            let kernel = Kernel::Attention(spec.clone());
            let mut inputs = random_operands(&kernel, &mut rng);
            for (operand, values) in kernel.operands().iter().zip(&mut inputs) {
                if ["mask", "key_len"].contains(&operand.name) {
                    values.data.fill(0.0);
                }
            }
            for isa in isas() {
                let got = launch(&kernel, &inputs, &How::random(isa, &mut rng));
                assert!(got[1].data.iter().all(|x| x.to_bits() == 0), "out of {spec:?} on {}", isa.name());
                assert!(got[2].data.iter().all(|&x| x == f32::NEG_INFINITY), "lse of {spec:?} on {}", isa.name());
            }
        }
    }
}

/// A segment with nothing in it, anywhere in a chain, changes no bit.
#[test]
fn empty_segments_change_no_bit() {
    let mut rng = fresh("empty segments");
    for dtype in DTYPES {
        let spec = plain(dtype, 2, 64, 33, 130);
        let kernel = Kernel::Attention(spec.clone());
        let inputs = random_operands(&kernel, &mut rng);
        let empty = KeySegment { len: 0, base: 0, stream: 0 };
        let padded = Attention { keys: vec![empty, spec.keys[0], empty], ..spec };
        let nothing = |i: usize| inputs[i].slice(1, 0, 0);
        let mut operands = inputs[..3].to_vec();
        operands.extend([nothing(3), nothing(4), inputs[3].clone(), inputs[4].clone(), nothing(3), nothing(4)]);
        for isa in isas() {
            let want = launch(&kernel, &inputs, &How::plain(isa));
            let got = launch(&Kernel::Attention(padded.clone()), &operands, &How::plain(isa));
            assert_all_same("empty segments", &kernel, &got[..3], &want[..3]);
            let carried = chain(&padded, &operands, &How::plain(isa));
            assert_all_same("empty launches", &kernel, &carried[..3], &want[..3]);
        }
    }
}
