//! One key tile against a few query rows: scores, softmax and values in registers.

// Loops over registers: two or three arrays share each index.
#![allow(clippy::needless_range_loop)]

use super::super::lanes::Lanes;
use super::super::math::exp2;
use super::keys::PackedTile;

/// Vectors of output columns at a time.
const COLUMNS: usize = 4;

/// `R` query rows and their state.
pub(super) struct Rows<'a> {
    /// `[R][dim]`, scaled.
    pub(super) q: *const f32,
    pub(super) m: &'a mut [f32],
    pub(super) l: &'a mut [f32],
    /// `[R][o_stride]`.
    pub(super) o: *mut f32,
    pub(super) o_stride: usize,
    pub(super) dim: usize,
}

/// Takes the tile into the rows' state.
#[inline(always)]
pub(super) fn visit<L: Lanes, const R: usize, const KV: usize>(lanes: L, rows: Rows<'_>, tile: &PackedTile) {
    let mut scores = scores::<L, R, KV>(lanes, &rows, tile);
    let mut p = [[0.0f32; 64]; R];
    let mut correction = [1.0f32; R];
    for r in 0..R {
        if !tile.whole {
            for (v, score) in scores[r].iter_mut().enumerate() {
                // SAFETY: `keep` has KV·N elements.
                *score = lanes.keep(unsafe { lanes.load(tile.keep.as_ptr().add(v * L::N)) }, *score);
            }
        }
        let mut largest = scores[r][0];
        for score in &scores[r][1..] {
            largest = lanes.max(largest, *score);
        }
        let old = rows.m[r];
        let tile_max = lanes.reduce_max(largest);
        let new = if tile_max > old { tile_max } else { old };
        // All keys so far scored -inf: any finite shift gives 2^-inf = 0, and no -inf - -inf.
        let shift = if new == f32::NEG_INFINITY { 0.0 } else { new };
        let mut sum = lanes.splat(0.0);
        for (v, score) in scores[r].iter().enumerate() {
            let e = exp2(lanes, lanes.sub(*score, lanes.splat(shift)));
            sum = lanes.add(sum, e);
            // SAFETY: KV·N is at most 64.
            unsafe { lanes.store(p[r].as_mut_ptr().add(v * L::N), e) };
        }
        if new != old {
            correction[r] = first(lanes, exp2(lanes, lanes.splat(old - shift)));
        }
        rows.m[r] = new;
        rows.l[r] = rows.l[r] * correction[r] + lanes.reduce_sum(sum);
    }
    values::<L, R>(lanes, &rows, tile, &p, &correction, KV * L::N);
}

/// `q·k` for R rows and KV vectors of keys.
#[inline(always)]
fn scores<L: Lanes, const R: usize, const KV: usize>(lanes: L, rows: &Rows<'_>, tile: &PackedTile) -> [[L::V; KV]; R] {
    let mut acc = [[lanes.splat(0.0); KV]; R];
    let k = tile.k.as_ptr();
    for d in 0..rows.dim {
        // SAFETY: the packed keys are [dim][KV·N], the queries [R][dim].
        unsafe {
            let mut keys = [lanes.splat(0.0); KV];
            for v in 0..KV {
                keys[v] = lanes.load(k.add((d * KV + v) * L::N));
            }
            for r in 0..R {
                let q = lanes.splat(*rows.q.add(r * rows.dim + d));
                for v in 0..KV {
                    acc[r][v] = lanes.fma(q, keys[v], acc[r][v]);
                }
            }
        }
    }
    acc
}

/// `o = o·correction + p·v`, keys in order.
#[inline(always)]
fn values<L: Lanes, const R: usize>(
    lanes: L,
    rows: &Rows<'_>,
    tile: &PackedTile,
    p: &[[f32; 64]; R],
    correction: &[f32; R],
    width: usize,
) {
    let vectors = rows.o_stride / L::N;
    let mut j = 0;
    while j < vectors {
        let at = j * L::N;
        match vectors - j {
            1 => columns::<L, R, 1>(lanes, rows, tile, p, correction, width, at),
            2 => columns::<L, R, 2>(lanes, rows, tile, p, correction, width, at),
            3 => columns::<L, R, 3>(lanes, rows, tile, p, correction, width, at),
            _ => columns::<L, R, COLUMNS>(lanes, rows, tile, p, correction, width, at),
        }
        j += COLUMNS;
    }
}

#[inline(always)]
fn columns<L: Lanes, const R: usize, const J: usize>(
    lanes: L,
    rows: &Rows<'_>,
    tile: &PackedTile,
    p: &[[f32; 64]; R],
    correction: &[f32; R],
    width: usize,
    at: usize,
) {
    // SAFETY: o is [R][o_stride], v [width][o_stride], and J vectors from `at` on lie within a
    // row of either; width is at most 64.
    unsafe {
        let o = |r: usize, j: usize| rows.o.add(r * rows.o_stride + at + j * L::N);
        let mut acc = [[lanes.splat(0.0); J]; R];
        for r in 0..R {
            for j in 0..J {
                acc[r][j] = lanes.mul(lanes.load(o(r, j)), lanes.splat(correction[r]));
            }
        }
        let v = tile.v.as_ptr().add(at);
        for key in 0..width {
            let mut values = [lanes.splat(0.0); J];
            for j in 0..J {
                values[j] = lanes.load(v.add(key * rows.o_stride + j * L::N));
            }
            for r in 0..R {
                let weight = lanes.splat(*p.get_unchecked(r).get_unchecked(key));
                for j in 0..J {
                    acc[r][j] = lanes.fma(weight, values[j], acc[r][j]);
                }
            }
        }
        for r in 0..R {
            for j in 0..J {
                lanes.store(o(r, j), acc[r][j]);
            }
        }
    }
}

#[inline(always)]
fn first<L: Lanes>(lanes: L, v: L::V) -> f32 {
    let mut all = [0.0f32; 16];
    // SAFETY: no vector has more than 16 lanes.
    unsafe { lanes.store(all.as_mut_ptr(), v) };
    all[0]
}
