//! RMS norm of each head and rotary embedding, in place.

use super::Isa;
use super::convert::round_slice;
use super::lanes::{Lanes, Task};
use super::math;
use super::parallel::{for_each, threads_for};
use super::tensor::{Rows, Tensor};
use crate::kernel::spec::{QkNormRope, RopePairs};

pub(super) fn run(isa: Isa, spec: &QkNormRope, operands: &[Vec<Tensor>], threads: usize) {
    let after_weights = if spec.norm_eps.is_some() { 4 } else { 2 };
    let turns = spec.rope.map(|_| [Rows::new(&operands[after_weights]), Rows::new(&operands[after_weights + 1])]);
    let block = 32;
    let blocks = spec.rows.div_ceil(block);
    for (which, heads) in [(0, spec.heads), (1, spec.kv_heads)] {
        let rows = Rows::new(&operands[which]);
        let mut weight = vec![1.0f32; spec.head_dim];
        if spec.norm_eps.is_some() {
            Rows::new(&operands[2 + which]).row(0, 0).load(0, &mut weight);
        }
        let work = 10.0 * (spec.batch * spec.rows * heads * spec.head_dim) as f64;
        let items = spec.batch * blocks;
        for_each(threads_for(threads, work, items), items, Scratch::default, |scratch, item| {
            let (b, first) = (item / blocks, item % blocks * block);
            for n in first..(first + block).min(spec.rows) {
                let row = rows.row(b, n);
                scratch.row.resize(heads * spec.head_dim, 0.0);
                row.load(0, &mut scratch.row);
                if let Some([cos, sin]) = &turns {
                    scratch.cos.resize(spec.head_dim / 2, 0.0);
                    scratch.sin.resize(spec.head_dim / 2, 0.0);
                    cos.row(0, n).load(0, &mut scratch.cos);
                    sin.row(0, n).load(0, &mut scratch.sin);
                }
                isa.run(Heads { spec, weight: &weight, scratch });
                row.store(0, &scratch.row);
            }
        });
    }
}

#[derive(Default)]
struct Scratch {
    row: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// The heads of one row.
struct Heads<'a> {
    spec: &'a QkNormRope,
    weight: &'a [f32],
    scratch: &'a mut Scratch,
}

impl Task for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { spec, weight, scratch } = self;
        for head in scratch.row.chunks_exact_mut(spec.head_dim.max(1)) {
            if let Some(eps) = spec.norm_eps {
                let mean = math::sum(lanes, head, 0.0, math::SquareFrom(0.0)) / head.len() as f32;
                let inverse = 1.0 / (mean + eps).sqrt();
                head.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * inverse * w);
                round_slice(spec.dtype, head);
            }
            if let Some(pairs) = spec.rope {
                turn(pairs, head, &scratch.cos, &scratch.sin);
            }
        }
    }
}

#[inline(always)]
fn turn(pairs: RopePairs, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let rotate = |a: f32, b: f32, c: f32, s: f32| (a * c - b * s, a * s + b * c);
    match pairs {
        RopePairs::Interleaved => {
            for (pair, (c, s)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
                (pair[0], pair[1]) = rotate(pair[0], pair[1], *c, *s);
            }
        }
        RopePairs::Halves => {
            let (left, right) = head.split_at_mut(cos.len());
            for ((a, b), (c, s)) in left.iter_mut().zip(right).zip(cos.iter().zip(sin)) {
                (*a, *b) = rotate(*a, *b, *c, *s);
            }
        }
    }
}
