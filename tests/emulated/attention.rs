//! The CUDA source of attention, executed by the emulation: against float64 and FlashAttention's
//! rule, in many schedules, all variants of a head dim bit for bit.

use crate::emulation::{How, Options, archs, emulate, head_dims};
use crate::support::Rng;
use crate::support::tensors::{
    Values, assert_all_same, assert_close, assert_same, concat, largest, random_operands, truth,
};
use crate::{HALVES, fresh};
use seqpar::dtype::{Dtype, round_to};
use seqpar::kernel::cuda::{self, Arch};
use seqpar::kernel::spec::{Attention, Kernel, KeySegment};

const DIMS: [usize; 8] = [64, 72, 96, 128, 8, 40, 80, 120];

fn plain(dtype: Dtype, heads: usize, head_dim: usize, queries: usize, keys: usize) -> Attention {
    Attention {
        dtype,
        batch: 1,
        heads,
        kv_heads: heads,
        head_dim,
        first_head: 0,
        first_kv_head: 0,
        group: 1,
        scale: 1.0 / (head_dim as f32).sqrt(),
        queries: vec![queries],
        keys: vec![KeySegment { len: keys, base: 0, stream: 1 }],
        key_mask: false,
        key_len: false,
        carry_in: false,
        carry_out: false,
    }
}

/// Text and image in segments, grouped heads, masks, key lengths.
fn random(rng: &mut Rng, head_dim: usize, edges: &[usize]) -> Attention {
    let (kv_heads, group, first_kv_head) = (rng.within(1, 2), rng.within(1, 3), rng.below(3));
    // The first key head may have lost some of its queries to another rank.
    let lost = rng.below(group);
    let mut keys = Vec::new();
    for stream in [0, 1] {
        let mut base = 0;
        for _ in 0..rng.below(2) + stream {
            let len = edges[rng.below(edges.len())];
            keys.push(KeySegment { len, base, stream });
            base += len;
        }
    }
    Attention {
        batch: rng.within(1, 2),
        heads: kv_heads * group - lost,
        kv_heads,
        first_head: first_kv_head * group + lost,
        first_kv_head,
        group,
        queries: if rng.chance(40) { vec![rng.within(1, 70), rng.within(0, 20)] } else { vec![rng.within(1, 140)] },
        keys,
        key_mask: rng.chance(40),
        key_len: rng.chance(30),
        ..plain(HALVES[rng.below(2)], 1, head_dim, 0, 0)
    }
}

/// A device on which the launch takes the wide row tiles, or the narrow ones.
fn wide(arch: Arch, wide: bool) -> cuda::Device {
    cuda::Device { arch, sms: if wide { 1 } else { 1000 } }
}

/// The same mathematics with everything that the kernels keep in f32 rounded to `dtype`: what
/// FlashAttention's rule compares with.
fn rounded_reference(spec: &Attention, inputs: &[Values]) -> Vec<f64> {
    let round = |x: f64| f64::from(round_to(spec.dtype, x as f32));
    let (q, k, v) = (&inputs[0], &inputs[3], &inputs[4]);
    let at = |t: &Values, n: usize, h: usize, d: usize| f64::from(t.data[(n * t.shape[2] + h) * t.shape[3] + d]);
    let (rows, keys) = (spec.queries[0], spec.keys[0].len);
    let mut out = Vec::new();
    for n in 0..rows {
        for h in 0..spec.heads {
            let scores: Vec<f64> = (0..keys)
                .map(|j| {
                    let dot = (0..spec.head_dim).fold(0.0, |sum, d| sum + at(q, n, h, d) * at(k, j, h, d));
                    round(round(dot) * f64::from(spec.scale))
                })
                .collect();
            let top = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
            let weights: Vec<f64> = scores.iter().map(|s| round((s - top).exp())).collect();
            let sum: f64 = weights.iter().sum();
            let weights: Vec<f64> = weights.iter().map(|w| round(w / sum)).collect();
            for d in 0..spec.head_dim {
                out.push(round((0..keys).fold(0.0, |sum, j| sum + weights[j] * at(v, j, h, d))));
            }
        }
    }
    out
}

fn check(spec: &Attention, rng: &mut Rng, how: &How) {
    let kernel = Kernel::Attention(spec.clone());
    let inputs = random_operands(&kernel, rng);
    let want = truth(&kernel, &inputs);
    let got = emulate(&kernel, &inputs, how);
    let unit = if spec.dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
    for (i, operand) in kernel.operands().iter().enumerate() {
        let label = format!("{} of {spec:?} {how:?}", operand.name);
        match operand.name {
            // Weights are rounded to halves: each is off by half a unit of itself at most.
            "out" | "o" if operand.mode.writes() => {
                let scale = inputs.iter().zip(kernel.operands()).filter(|(_, o)| o.name == "v");
                let scale = scale.flat_map(|(v, _)| &v.data).fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
                let weight = if operand.name == "o" { largest(&want[i]).max(1.0) } else { scale };
                assert_close(&label, &got[i], &want[i], |_| 0.6 * unit * weight);
            }
            "lse" => {
                assert_close(&label, &got[i], &want[i], |_| 2e-5);
            }
            "m" | "l" if operand.mode.writes() => {
                assert_close(&label, &got[i], &want[i], |j| 2e-5 * want[i][j].abs().max(1.0));
            }
            _ => {}
        }
    }
}

#[test]
fn ragged_sizes_masks_segments_and_groups_equal_float64() {
    let mut rng = fresh("attention sizes");
    for arch in archs() {
        for dim in head_dims(DIMS) {
            // Around every key-tile edge.
            let edges = [0, 1, 31, 63, 64, 65, 95, 96, 97, 111, 112, 113, 127, 128, 129, 176, 177, 200];
            for _ in 0..4 {
                let spec = random(&mut rng, dim, &edges);
                let mut how = How::random(arch, &mut rng);
                how.device = wide(arch, rng.chance(50));
                check(&spec, &mut rng, &how);
            }
        }
    }
}

#[test]
fn twenty_schedules_are_clean_and_equal() {
    let mut rng = fresh("attention schedules");
    for arch in archs() {
        for dim in head_dims([64, 72, 96, 128]) {
            let kernel = Kernel::Attention(random(&mut rng, dim, &[1, 17, 64, 97]));
            let inputs = random_operands(&kernel, &mut rng);
            let first = emulate(&kernel, &inputs, &How::seeded(arch, 0));
            for seed in 1..20 {
                let again = emulate(&kernel, &inputs, &How::seeded(arch, seed));
                assert_all_same(&format!("{arch:?} seed {seed}"), &kernel, &again, &first);
            }
        }
    }
}

#[test]
fn row_tiles_and_query_segments_change_no_bit() {
    let mut rng = fresh("attention variants");
    for arch in archs() {
        for dim in head_dims([64, 72, 96, 128]) {
            let spec = Attention { queries: vec![150], ..random(&mut rng, dim, &[5, 96, 130]) };
            let kernel = Kernel::Attention(spec.clone());
            let inputs = random_operands(&kernel, &mut rng);
            let mut results = Vec::new();
            for wide_tiles in [false, true] {
                let mut how = How::random(arch, &mut rng);
                how.device = wide(arch, wide_tiles);
                results.push(emulate(&kernel, &inputs, &how));
            }
            assert_all_same(&format!("{arch:?} row tiles"), &kernel, &results[1], &results[0]);
            // One row alone, in another launch.
            let one = Kernel::Attention(Attention { queries: vec![1], ..spec });
            let mut alone = inputs.clone();
            alone[0] = inputs[0].slice(1, 77, 1);
            alone[1] = inputs[1].slice(1, 77, 1);
            alone[2] = inputs[2].slice(3, 77, 1);
            let got = emulate(&one, &alone, &How::seeded(arch, rng.next() % 100));
            assert_same("a row alone", &got[1], &results[0][1].slice(1, 77, 1));
        }
    }
}

#[test]
fn launches_that_carry_their_state_equal_one_launch() {
    let mut rng = fresh("attention carry");
    for arch in archs() {
        for dim in head_dims([64, 72, 96, 128]) {
            let lens = [rng.within(1, 150), rng.within(1, 150), rng.within(1, 90)];
            let keys: Vec<KeySegment> = lens.iter().map(|&len| KeySegment { len, base: 0, stream: 1 }).collect();
            let spec = Attention { keys: keys.clone(), ..plain(HALVES[rng.below(2)], 2, dim, 70, 0) };
            let whole = Kernel::Attention(spec.clone());
            let inputs = random_operands(&whole, &mut rng);
            let want = emulate(&whole, &inputs, &How::seeded(arch, 3));
            let mut state: Option<Vec<Values>> = None;
            for (i, key) in keys.iter().enumerate() {
                let last = i + 1 == keys.len();
                let step = Attention { keys: vec![*key], carry_in: i > 0, carry_out: !last, ..spec.clone() };
                let kernel = Kernel::Attention(step);
                let mut operands = vec![inputs[0].clone()];
                if last {
                    operands.extend(inputs[1..3].iter().cloned());
                }
                let blank = |o: &seqpar::kernel::spec::Operand| Values::filled(o.dtype, o.shape, f32::NAN);
                let specs = kernel.operands();
                let fresh_state = || specs.iter().filter(|o| ["m", "l", "o"].contains(&o.name)).map(blank).collect();
                operands.extend(state.take().unwrap_or_else(fresh_state));
                operands.extend(inputs[3 + 2 * i..5 + 2 * i].iter().cloned());
                let got = emulate(&kernel, &operands, &How::random(arch, &mut rng));
                if last {
                    assert_same("out", &got[1], &want[1]);
                    assert_same("lse", &got[2], &want[2]);
                } else {
                    state = Some(got[1..4].to_vec());
                }
            }
        }
    }
}

/// q = 0 and v = 1: every output is exactly 1, whatever is masked; no key: 0 and -inf.
#[test]
fn uniform_weights_and_empty_rows() {
    let mut rng = fresh("attention uniform");
    for arch in archs() {
        for dim in head_dims([64, 72, 96, 128]) {
            let spec = Attention { batch: 2, key_len: true, ..random(&mut rng, dim, &[1, 33, 96, 129]) };
            let kernel = Kernel::Attention(spec.clone());
            let mut inputs = random_operands(&kernel, &mut rng);
            for (values, operand) in inputs.iter_mut().zip(kernel.operands()) {
                match operand.name {
                    "q" => *values = values.map(|_, _| 0.0),
                    "v" => *values = values.map(|_, _| 1.0),
                    // The second sample sees no key at all.
                    "key_len" => *values = values.map(|[b, ..], _| if b == 0 { 40.0 } else { 0.0 }),
                    _ => {}
                }
            }
            let want = truth(&kernel, &inputs);
            let got = emulate(&kernel, &inputs, &How::random(arch, &mut rng));
            for (i, operand) in kernel.operands().iter().enumerate().filter(|(_, o)| o.mode.writes()) {
                let close = if operand.name == "lse" { 1e-5 } else { 0.0 };
                assert_close(&format!("{} of {spec:?}", operand.name), &got[i], &want[i], |_| close);
            }
        }
    }
}

#[test]
fn growing_scores_rescale_every_tile() {
    let mut rng = fresh("attention growing");
    for arch in archs() {
        for dim in head_dims([64, 72, 96, 128]) {
            let spec = Attention { scale: 1.0, ..plain(Dtype::F16, 1, dim, 33, 500) };
            let kernel = Kernel::Attention(spec);
            let mut inputs = random_operands(&kernel, &mut rng);
            inputs[0] = inputs[0].map(|[.., d], _| if d == 0 { 1.0 } else { 0.0 });
            // Every other key towers above its neighbours: a maximum over the rest would overflow.
            let high = |n: usize| if n % 2 == dim / 8 % 2 { 64.0 } else { 0.0 };
            inputs[3] = inputs[3].map(|[_, n, ..], _| n as f32 / 16.0 + high(n));
            let want = truth(&kernel, &inputs);
            let got = emulate(&kernel, &inputs, &How::random(arch, &mut rng));
            assert_close("out", &got[1], &want[1], |_| 3e-3);
            assert_close("lse", &got[2], &want[2], |_| 1e-4);
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows() {
    let mut rng = fresh("attention nan");
    for arch in archs() {
        for dim in head_dims([64, 72, 80, 128]) {
            let spec = Attention { key_mask: true, ..plain(Dtype::Bf16, 2, dim, 70, 150) };
            let kernel = Kernel::Attention(spec);
            let clean = random_operands(&kernel, &mut rng);
            let how = How::random(arch, &mut rng);
            let want = emulate(&kernel, &clean, &how);
            // A query that is NaN, one that is infinite: their rows alone.
            let mut inputs = clean.clone();
            inputs[0] = clean[0].map(|[_, n, h, d], x| match (n, h, d) {
                (3, 0, 5) => f32::NAN,
                (66, 1, 0) => f32::INFINITY,
                _ => x,
            });
            // A masked key's values and the key itself: nobody's rows.
            let masked = clean[5].data.iter().position(|&keep| keep == 0.0).unwrap();
            for i in [3, 4] {
                inputs[i] = inputs[i].map(|[_, n, ..], x| if n == masked { f32::NAN } else { x });
            }
            let got = emulate(&kernel, &inputs, &how);
            let strip =
                |v: &Values| v.map(|[_, n, h, _], x| if (n, h) == (3, 0) || (n, h) == (66, 1) { 0.0 } else { x });
            assert_same("the other rows", &strip(&got[1]), &strip(&want[1]));
            let row = got[1].slice(1, 3, 1).slice(2, 0, 1);
            assert!(row.data.iter().all(|x| x.is_nan()), "the row of a NaN query");
        }
    }
}

/// The largest error is at most twice that of the same mathematics in plain halves, and errors
/// have no direction; a whole head of 1024 by 1024.
#[test]
fn flash_attentions_rule_and_a_real_head() {
    let mut rng = fresh("attention rule");
    for arch in archs() {
        for dim in head_dims([64, 72, 96, 128]) {
            let rows = if dim == 72 { 1024 } else { 256 };
            let spec = plain(Dtype::Bf16, 1, dim, rows, 1024);
            let kernel = Kernel::Attention(spec.clone());
            let inputs = random_operands(&kernel, &mut rng);
            let want = &truth(&kernel, &inputs)[1];
            let mut how = How::seeded(arch, rng.next() % 1000);
            how.device = wide(arch, true);
            how.options = Options { resident: 1, ..how.options };
            let got = &emulate(&kernel, &inputs, &how)[1];
            let plain = rounded_reference(&spec, &inputs);
            let worst = |x: &mut dyn Iterator<Item = f64>| x.zip(want).fold(0.0f64, |m, (x, w)| m.max((x - w).abs()));
            let own = worst(&mut got.data.iter().map(|&x| f64::from(x)));
            let reference = worst(&mut plain.iter().copied());
            assert!(own <= 2.0 * reference, "{arch:?} d {dim}: {own:e} against {reference:e}");
            let errors: Vec<f64> = got.data.iter().zip(want).map(|(&x, w)| f64::from(x) - w).collect();
            let mean = errors.iter().sum::<f64>() / errors.len() as f64;
            let rms = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
            // 6 standard deviations of a mean of independent errors.
            assert!(mean.abs() <= 6.0 * rms / (errors.len() as f64).sqrt(), "{arch:?} d {dim}: mean error {mean:e}");
        }
    }
}

/// Two samples in one launch and each in one of its own.
#[test]
fn samples_are_alone() {
    let mut rng = fresh("attention samples");
    for arch in archs() {
        let spec = Attention { batch: 2, ..plain(Dtype::F16, 1, 72, 50, 100) };
        let kernel = Kernel::Attention(spec.clone());
        let inputs = random_operands(&kernel, &mut rng);
        let both = emulate(&kernel, &inputs, &How::seeded(arch, 1));
        let each: Vec<Values> = (0..2)
            .map(|b| {
                let one: Vec<Values> = inputs.iter().map(|v| v.slice(0, b, 1)).collect();
                let kernel = Kernel::Attention(Attention { batch: 1, ..spec.clone() });
                emulate(&kernel, &one, &How::seeded(arch, 2))[1].clone()
            })
            .collect();
        assert_same("samples", &concat(0, &each), &both[1]);
    }
}
