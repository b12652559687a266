//! One key tile against groups of query rows, over the lanes of an instruction set.

use crate::kernel::host::isa::Isa;
use crate::kernel::host::lanes::{Lanes, Portable, exp2};
use crate::kernel::host::tensor::Rows;

/// Keys of a tile, on every instruction set, dtype and head dim.
pub(super) const KEYS: usize = 64;
const LANES: usize = 16;
const WORDS: usize = KEYS / LANES;

/// Which keys of a tile count, a bit each.
pub(super) struct Masks([u16; WORDS]);

impl Masks {
    /// The first `len` keys.
    pub(super) fn first(len: usize) -> Self {
        let bits = if len >= KEYS { u64::MAX } else { (1 << len) - 1 };
        Self(std::array::from_fn(|i| (bits >> (LANES * i)) as u16))
    }

    /// Key `i` does not count.
    pub(super) fn clear(&mut self, i: usize) {
        self.0[i / LANES] &= !(1 << (i % LANES));
    }

    /// True if a key counts.
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|word| *word != 0)
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / LANES] >> (i % LANES) & 1 == 1
    }
}

/// A packed tile: K as `[D, KEYS]`, V as `[KEYS, padded D]`.
pub(super) struct Tile {
    d: usize,
    /// D up to whole lanes.
    pub(super) padded: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    row: Vec<f32>,
}

impl Tile {
    pub(super) fn new(d: usize) -> Self {
        let padded = d.next_multiple_of(LANES);
        Self { d, padded, k: vec![0.0; d * KEYS], v: vec![0.0; KEYS * padded], row: vec![0.0; d] }
    }

    /// Packs the keys that count; the others are zeros, whatever memory holds there.
    pub(super) fn pack(&mut self, k: &Rows, v: &Rows, sample: usize, head: usize, start: usize, masks: &Masks) {
        for i in 0..KEYS {
            let target = &mut self.v[i * self.padded..i * self.padded + self.d];
            if masks.has(i) {
                let (tensor, row) = k.locate(start + i);
                tensor.load(tensor.offset(sample, row, head), &mut self.row);
                let (tensor, row) = v.locate(start + i);
                tensor.load(tensor.offset(sample, row, head), target);
            } else {
                self.row.fill(0.0);
                target.fill(0.0);
            }
            for (column, x) in self.k.chunks_exact_mut(KEYS).zip(&self.row) {
                column[i] = *x;
            }
        }
    }

    /// Folds the tile into the state of `rows` rows: `q [rows, D]`, `o [rows, padded]`, `m`, `l`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn step(
        &self,
        isa: Isa,
        masks: &Masks,
        rows: usize,
        q: &[f32],
        o: &mut [f32],
        m: &mut [f32],
        l: &mut [f32],
    ) {
        // Scratch holds whole groups: its row count is a multiple of 60, hence of 6, 2 and 1.
        debug_assert!(
            q.len() / self.d >= rows.next_multiple_of(6) && o.len() / self.padded >= rows.next_multiple_of(6)
        );
        match isa {
            // SAFETY: `run_piece_on` refuses an instruction set that the machine lacks; the
            // slices hold whole groups of rows.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { self.step_avx512(masks, rows, q, o, m, l) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { self.step_avx2(masks, rows, q, o, m, l) },
            // SAFETY: as above; the portable lanes need no instruction set.
            _ => unsafe { self.groups::<Portable, 2, 1, 1>(masks, rows, q, o, m, l) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
    fn step_avx512(&self, masks: &Masks, rows: usize, q: &[f32], o: &mut [f32], m: &mut [f32], l: &mut [f32]) {
        // SAFETY: the function has the instruction set; the slices are the caller's.
        unsafe { self.groups::<crate::kernel::host::lanes::Avx512, 6, 4, 5>(masks, rows, q, o, m, l) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn step_avx2(&self, masks: &Masks, rows: usize, q: &[f32], o: &mut [f32], m: &mut [f32], l: &mut [f32]) {
        // SAFETY: the function has the instruction set; the slices are the caller's.
        unsafe { self.groups::<crate::kernel::host::lanes::Avx2, 2, 2, 2>(masks, rows, q, o, m, l) }
    }

    /// All groups of R rows; K is read C lane columns at a time, O up to V lane columns.
    ///
    /// # Safety
    /// The machine has L's instruction set; `q`, `o`, `m`, `l` hold `rows` rounded up to whole
    /// groups.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn groups<L: Lanes, const R: usize, const C: usize, const V: usize>(
        &self,
        masks: &Masks,
        rows: usize,
        q: &[f32],
        o: &mut [f32],
        m: &mut [f32],
        l: &mut [f32],
    ) {
        for row in (0..rows).step_by(R) {
            let mut p = [[0.0f32; KEYS]; R];
            // SAFETY: the caller's contract, for this group's rows.
            unsafe {
                for column in (0..WORDS).step_by(C) {
                    self.scores::<L, R, C>(q.as_ptr().add(row * self.d), column, &mut p);
                }
                let mut rescale = [0.0f32; R];
                for (r, p) in p.iter_mut().enumerate() {
                    rescale[r] = softmax::<L>(masks, p, &mut m[row + r], &mut l[row + r]);
                }
                let o = o.as_mut_ptr().add(row * self.padded);
                let columns = self.padded / LANES;
                let step = columns.div_ceil(columns.div_ceil(V));
                let mut column = 0;
                while column < columns {
                    let width = step.min(columns - column);
                    match width {
                        5 => self.accumulate::<L, R, 5>(&p, &rescale, column, o),
                        4 => self.accumulate::<L, R, 4>(&p, &rescale, column, o),
                        3 => self.accumulate::<L, R, 3>(&p, &rescale, column, o),
                        2 => self.accumulate::<L, R, 2>(&p, &rescale, column, o),
                        _ => self.accumulate::<L, R, 1>(&p, &rescale, column, o),
                    }
                    column += width;
                }
            }
        }
    }

    /// Scores of R rows with C·16 keys from lane column `column` on.
    ///
    /// # Safety
    /// The machine has L's instruction set; `q` points at R rows of D.
    #[inline(always)]
    unsafe fn scores<L: Lanes, const R: usize, const C: usize>(
        &self,
        q: *const f32,
        column: usize,
        p: &mut [[f32; KEYS]; R],
    ) {
        // SAFETY: `k` is [D, KEYS] and column + C is at most WORDS; `q` holds R·D elements.
        unsafe {
            let mut sums = [[L::splat(0.0); C]; R];
            let mut k = self.k.as_ptr().add(column * LANES);
            for i in 0..self.d {
                let keys: [L; C] = std::array::from_fn(|c| L::load(k.add(c * LANES)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = L::splat(*q.add(r * self.d + i));
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = x.mul_add(key, *sum);
                    }
                }
                k = k.add(KEYS);
            }
            for (sums, p) in sums.iter().zip(p) {
                for (c, sum) in sums.iter().enumerate() {
                    sum.store(p.as_mut_ptr().add((column + c) * LANES));
                }
            }
        }
    }

    /// `o = o·rescale + p·v` for R rows and W lane columns from `column` on.
    ///
    /// # Safety
    /// The machine has L's instruction set; `o` points at R rows of the padded width.
    #[inline(always)]
    unsafe fn accumulate<L: Lanes, const R: usize, const W: usize>(
        &self,
        p: &[[f32; KEYS]; R],
        rescale: &[f32; R],
        column: usize,
        o: *mut f32,
    ) {
        // SAFETY: `v` is [KEYS, padded] and column + W lanes are within the padded width, as in
        // each of the R rows of `o`.
        unsafe {
            let o = o.add(column * LANES);
            let at = |r: usize, w: usize| o.add(r * self.padded + w * LANES);
            let mut sums: [[L; W]; R] =
                std::array::from_fn(|r| std::array::from_fn(|w| L::load(at(r, w)).mul(L::splat(rescale[r]))));
            let mut v = self.v.as_ptr().add(column * LANES);
            for i in 0..KEYS {
                let values: [L; W] = std::array::from_fn(|w| L::load(v.add(w * LANES)));
                for (sums, p) in sums.iter_mut().zip(p) {
                    let x = L::splat(p[i]);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = x.mul_add(value, *sum);
                    }
                }
                v = v.add(self.padded);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (w, sum) in sums.iter().enumerate() {
                    sum.store(at(r, w));
                }
            }
        }
    }
}

/// Turns one row's scores into exp2(score − m); updates m and l; returns the factor for O.
///
/// # Safety
/// The machine has L's instruction set.
#[inline(always)]
unsafe fn softmax<L: Lanes>(masks: &Masks, p: &mut [f32; KEYS], m: &mut f32, l: &mut f32) -> f32 {
    // SAFETY: `p` is KEYS = WORDS·16 elements.
    unsafe {
        let lowest = L::splat(f32::NEG_INFINITY);
        let mut scores = [lowest; WORDS];
        let mut largest = lowest;
        for (i, (score, bits)) in scores.iter_mut().zip(masks.0).enumerate() {
            *score = L::load(p.as_ptr().add(i * LANES)).select(bits, lowest);
            largest = largest.max(*score);
        }
        let new = m.max(largest.largest());
        // No key so far: subtracting −∞ from −∞ would make a NaN.
        let base = if new == f32::NEG_INFINITY { 0.0 } else { new };
        let shift = L::splat(base);
        let mut sum = L::splat(0.0);
        for (i, score) in scores.iter().enumerate() {
            let e = exp2(score.sub(shift));
            e.store(p.as_mut_ptr().add(i * LANES));
            sum = sum.add(e);
        }
        let mut lanes = [0.0f32; LANES];
        exp2(L::splat(*m - base)).store(lanes.as_mut_ptr());
        let rescale = lanes[0];
        *l = *l * rescale + sum.sum();
        *m = new;
        rescale
    }
}
