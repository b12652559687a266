//! Attention against float64.

use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Attention, Kernel, KeySegment};

use crate::support::Rng;
use crate::support::tensors::{How, Values, assert_close, isas, largest, launch, random_operands, truth};
use crate::{DTYPES, RAGGED, fresh};

/// One sample, as many key heads as query heads, one segment of each.
pub(crate) fn plain(dtype: Dtype, heads: usize, head_dim: usize, queries: usize, keys: usize) -> Attention {
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

/// Text and image, cut into segments; grouped heads that need not start at 0.
pub(crate) fn random(rng: &mut Rng, dtype: Dtype, queries: usize, head_dim: usize) -> Attention {
    let (kv_heads, group) = (rng.within(1, 2), rng.within(1, 3));
    let mut keys = Vec::new();
    for stream in [0, 1] {
        let mut base = 0;
        for _ in 0..rng.below(3) + stream {
            let len = if rng.chance(10) { 0 } else { RAGGED[rng.below(RAGGED.len() - 1)] };
            keys.push(KeySegment { len, base, stream });
            base += len;
        }
    }
    let first_kv_head = rng.below(3);
    Attention {
        batch: rng.within(1, 2),
        heads: kv_heads * group,
        kv_heads,
        first_head: first_kv_head * group,
        first_kv_head,
        group,
        queries: if rng.chance(40) { vec![queries, rng.within(0, 20)] } else { vec![queries] },
        keys,
        key_mask: rng.chance(50),
        key_len: rng.chance(40),
        ..plain(dtype, 1, head_dim, 0, 0)
    }
}

#[test]
fn every_ragged_size_and_variant_equals_float64() {
    let mut rng = fresh("attention");
    for dtype in DTYPES {
        for queries in RAGGED {
            let head_dim = [1, 4, 8, 20, 33, 64, 72, 80, 128, 129, 256][rng.below(11)];
            let mut spec = random(&mut rng, dtype, queries, head_dim);
            if queries * head_dim > 10_000 {
                (spec.batch, spec.heads, spec.kv_heads, spec.group) = (1, 1, 1, 1);
                (spec.first_head, spec.first_kv_head) = (0, 0);
            }
            check(spec, &mut rng);
        }
    }
}

#[test]
fn every_head_dim_equals_float64() {
    let mut rng = fresh("attention head dims");
    for (i, head_dim) in
        [1, 2, 3, 4, 8, 15, 16, 17, 20, 32, 48, 64, 65, 72, 80, 96, 128, 160, 255, 256].into_iter().enumerate()
    {
        check(plain(DTYPES[i % 3], 2, head_dim, 19, 70), &mut rng);
    }
}

#[test]
fn many_key_tiles_equal_float64() {
    let mut rng = fresh("attention many tiles");
    for dtype in DTYPES {
        check(plain(dtype, 1, 72, 18, 2051), &mut rng);
    }
}

/// Scores far apart: the running maximum jumps, and most weights vanish.
#[test]
fn large_scores_equal_float64() {
    let mut rng = fresh("attention large scores");
    for dtype in DTYPES {
        let spec = Attention { scale: 4.0, ..plain(dtype, 2, 64, 33, 200) };
        let kernel = Kernel::Attention(spec);
        let inputs = random_operands(&kernel, &mut rng);
        let want = truth(&kernel, &inputs);
        for isa in isas() {
            let got = launch(&kernel, &inputs, &How::plain(isa));
            // A unit in the last place of a score near 120 is 8e-6: a sum of 64 terms may be off
            // by a few of them, and a weight by as much of itself.
            assert_close(isa.name(), &got[1], &want[1], |_| 4e-5 * largest(&want[1]).max(4.0));
            assert_close(isa.name(), &got[2], &want[2], |_| 4e-5);
        }
    }
}

fn check(spec: Attention, rng: &mut Rng) {
    let kernel = Kernel::Attention(spec);
    let inputs = random_operands(&kernel, rng);
    let want = truth(&kernel, &inputs);
    let specs = kernel.operands();
    let values: Vec<&Values> = specs.iter().zip(&inputs).filter(|(o, _)| o.name == "v").map(|(_, v)| v).collect();
    let scale = values.iter().flat_map(|v| &v.data).fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
    for isa in isas() {
        let how = How::random(isa, rng);
        let got = launch(&kernel, &inputs, &how);
        let label = format!("{kernel:?} {how:?}");
        for (i, operand) in specs.iter().enumerate() {
            match operand.name {
                "out" => assert_close(&format!("out of {label}"), &got[i], &want[i], |_| 2e-6 * scale),
                "lse" => assert_close(&format!("lse of {label}"), &got[i], &want[i], |_| 2e-6),
                _ => 0.0,
            };
        }
    }
}
