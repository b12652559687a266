//! Exponential and activations on vectors, and loops over slices whose tail runs the same
//! arithmetic as the rest, so that an element's bits do not depend on where it stands.

use super::lanes::Lanes;

/// `2^x`, at most 2 units in the last place off; below 2^-126 it is 0, `2^-inf = 0`, NaN stays.
/// Above 2^127.5 the result is the largest power instead of infinity.
///
/// Range reduction by rounding to an integer, then the polynomial of Cephes' `exp2f` on
/// [-1/2, 1/2].
#[inline(always)]
pub(super) fn exp2<L: Lanes>(lanes: L, x: L::V) -> L::V {
    const SHIFT: f32 = 12_582_912.0;
    let low = lanes.splat(-126.0);
    // Operands of max in this order: NaN stays.
    let bounded = lanes.max(low, x);
    let shifted = lanes.add(bounded, lanes.splat(SHIFT));
    let r = lanes.sub(bounded, lanes.sub(shifted, lanes.splat(SHIFT)));
    let mut p = lanes.splat(1.535_336_2e-4);
    for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_6e-2, 2.402_264_8e-1, std::f32::consts::LN_2, 1.0] {
        p = lanes.fma(p, r, lanes.splat(c));
    }
    lanes.zero_below(x, low, lanes.mul(p, lanes.pow2(shifted)))
}

/// `1/(1 + e^-x)`; NaN stays.
#[inline(always)]
fn sigmoid<L: Lanes>(lanes: L, x: L::V) -> L::V {
    let one = lanes.splat(1.0);
    let scaled = lanes.mul(x, lanes.splat(-std::f32::consts::LOG2_E));
    // -max(-a, -b) is the smaller one, and NaN if b is.
    let bounded = lanes.mul(lanes.max(lanes.splat(-127.0), lanes.mul(scaled, lanes.splat(-1.0))), lanes.splat(-1.0));
    lanes.div(one, lanes.add(one, exp2(lanes, bounded)))
}

/// `x·sigmoid(x)`.
#[inline(always)]
pub(super) fn silu<L: Lanes>(lanes: L, x: L::V) -> L::V {
    lanes.mul(x, sigmoid(lanes, x))
}

/// GELU, tanh form: `0.5·x·(1 + tanh u) = x·sigmoid(2u)`, `u = √(2/π)·(x + 0.044715·x³)`.
#[inline(always)]
pub(super) fn gelu<L: Lanes>(lanes: L, x: L::V) -> L::V {
    const TWO_ROOT: f32 = 1.595_769_2;
    let cubic = lanes.fma(lanes.mul(x, x), lanes.splat(0.044_715 * TWO_ROOT), lanes.splat(TWO_ROOT));
    lanes.mul(x, sigmoid(lanes, lanes.mul(x, cubic)))
}

/// An element-wise function of `K` vectors. A trait, because a closure cannot be made
/// `inline(always)`, and one that is not inlined calls every instruction as a function.
pub(super) trait Map<const K: usize>: Copy {
    /// Must be `inline(always)`.
    fn at<L: Lanes>(self, lanes: L, x: [L::V; K]) -> L::V;
}

/// `x + y`.
#[derive(Clone, Copy)]
pub(super) struct Add;

/// [`gelu`].
#[derive(Clone, Copy)]
pub(super) struct Gelu;

/// [`silu`].
#[derive(Clone, Copy)]
pub(super) struct Silu;

/// `residual + gate·x`.
#[derive(Clone, Copy)]
pub(super) struct Gate;

/// `(x − mean)·inverse·(1 + scale) + shift` of x, shift, scale.
#[derive(Clone, Copy)]
pub(super) struct Modulate {
    pub(super) mean: f32,
    pub(super) inverse: f32,
}

/// x.
#[derive(Clone, Copy)]
pub(super) struct Itself;

/// `(x − center)²`.
#[derive(Clone, Copy)]
pub(super) struct SquareFrom(pub(super) f32);

impl Map<2> for Add {
    #[inline(always)]
    fn at<L: Lanes>(self, lanes: L, [x, y]: [L::V; 2]) -> L::V {
        lanes.add(x, y)
    }
}

impl Map<1> for Gelu {
    #[inline(always)]
    fn at<L: Lanes>(self, lanes: L, [x]: [L::V; 1]) -> L::V {
        gelu(lanes, x)
    }
}

impl Map<1> for Silu {
    #[inline(always)]
    fn at<L: Lanes>(self, lanes: L, [x]: [L::V; 1]) -> L::V {
        silu(lanes, x)
    }
}

impl Map<3> for Gate {
    #[inline(always)]
    fn at<L: Lanes>(self, lanes: L, [residual, gate, x]: [L::V; 3]) -> L::V {
        lanes.fma(gate, x, residual)
    }
}

impl Map<3> for Modulate {
    #[inline(always)]
    fn at<L: Lanes>(self, lanes: L, [x, shift, scale]: [L::V; 3]) -> L::V {
        let normed = lanes.mul(lanes.sub(x, lanes.splat(self.mean)), lanes.splat(self.inverse));
        lanes.fma(normed, lanes.add(lanes.splat(1.0), scale), shift)
    }
}

impl Map<1> for Itself {
    #[inline(always)]
    fn at<L: Lanes>(self, _: L, [x]: [L::V; 1]) -> L::V {
        x
    }
}

impl Map<1> for SquareFrom {
    #[inline(always)]
    fn at<L: Lanes>(self, lanes: L, [x]: [L::V; 1]) -> L::V {
        let d = lanes.sub(x, lanes.splat(self.0));
        lanes.mul(d, d)
    }
}

/// `out[i] = f(inputs[0][i], …)` for every i below `len`; past the caches if `stream`, which
/// wants `out` aligned to the vector.
///
/// # Safety
/// Each input holds `len` elements, `out` can hold them, and an input overlaps `out` only if it
/// starts where `out` does.
#[inline(always)]
pub(super) unsafe fn map<L: Lanes, const K: usize>(
    lanes: L,
    inputs: [*const f32; K],
    out: *mut f32,
    len: usize,
    stream: bool,
    f: impl Map<K>,
) {
    let full = len - len % L::N;
    let mut i = 0;
    while i < full {
        let mut x = [lanes.splat(0.0); K];
        for (x, p) in x.iter_mut().zip(inputs) {
            // SAFETY: i + N ≤ len.
            *x = unsafe { lanes.load(p.add(i)) };
        }
        let y = f.at(lanes, x);
        // SAFETY: i + N ≤ len; with `stream` the caller promises the alignment.
        unsafe { if stream { lanes.stream(out.add(i), y) } else { lanes.store(out.add(i), y) } };
        i += L::N;
    }
    if full < len {
        let rest = len - full;
        let mut x = [lanes.splat(0.0); K];
        for (x, p) in x.iter_mut().zip(inputs) {
            // SAFETY: `rest` elements are left in every input.
            *x = unsafe { load_tail(lanes, p.add(full), rest, 0.0) };
        }
        let mut tail = [0.0f32; 16];
        // SAFETY: no vector has more than 16 lanes; `rest` elements are left in `out`.
        unsafe {
            lanes.store(tail.as_mut_ptr(), f.at(lanes, x));
            std::ptr::copy_nonoverlapping(tail.as_ptr(), out.add(full), rest);
        }
    }
}

/// `Σ f(x[i])` in an order that depends on `len` and the number of lanes alone; `f(fill) = 0`.
#[inline(always)]
pub(super) fn sum<L: Lanes>(lanes: L, x: &[f32], fill: f32, f: impl Map<1>) -> f32 {
    let mut acc = [lanes.splat(0.0); 4];
    let blocks = x.chunks_exact(4 * L::N);
    let rest = blocks.remainder();
    for block in blocks {
        for (j, a) in acc.iter_mut().enumerate() {
            // SAFETY: the block has 4·N elements.
            *a = lanes.add(*a, f.at(lanes, [unsafe { lanes.load(block.as_ptr().add(j * L::N)) }]));
        }
    }
    for (a, part) in acc.iter_mut().zip(rest.chunks(L::N)) {
        // SAFETY: `part` has that many elements.
        *a = lanes.add(*a, f.at(lanes, [unsafe { load_tail(lanes, part.as_ptr(), part.len(), fill) }]));
    }
    lanes.reduce_sum(lanes.add(lanes.add(acc[0], acc[2]), lanes.add(acc[1], acc[3])))
}

/// # Safety
/// `len` elements, at most 16, can be read at `p`.
#[inline(always)]
unsafe fn load_tail<L: Lanes>(lanes: L, p: *const f32, len: usize, fill: f32) -> L::V {
    let mut tail = [fill; 16];
    // SAFETY: the caller's promise; no vector has more than 16 lanes.
    unsafe {
        std::ptr::copy_nonoverlapping(p, tail.as_mut_ptr(), len.min(16));
        lanes.load(tail.as_ptr())
    }
}
