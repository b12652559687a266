//! Sixteen f32 lanes: what the attention kernel needs of an instruction set.
//!
//! The kernel is written once over [`Lanes`]; `max` returns its second operand where either is
//! NaN, as x86 does, so that NaN scores reach the exponential.

/// Operations on sixteen f32 lanes.
///
/// # Safety
/// Every method may be called only on a machine that has the implementor's instruction set;
/// `load` and `store` touch sixteen f32 at their pointer, of any alignment.
pub(super) unsafe trait Lanes: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self·factor + addend`, fused where the instruction set has it.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    /// Lanes of `self` whose bit is set, of `other` elsewhere.
    unsafe fn select(self, bits: u16, other: Self) -> Self;
    /// Bit set where not `self < bound`.
    unsafe fn not_below(self, bound: Self) -> u16;
    unsafe fn round(self) -> Self;
    /// 2^n for integral lanes n of −126..=127.
    unsafe fn pow2(self) -> Self;
    /// Sum of the lanes in a fixed tree.
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;
}

/// 2^x for x ≤ 0 within 2 ulp, 0 below −126, NaN for NaN.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp2<L: Lanes>(x: L) -> L {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let bound = L::splat(-126.0);
        let clamped = bound.max(x);
        let n = clamped.round();
        let f = clamped.sub(n);
        // Minimax polynomial of Cephes' exp2f on |f| ≤ 1/2.
        let mut p = L::splat(1.535_336_2e-4);
        for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_6e-2, 2.402_264_9e-1, std::f32::consts::LN_2, 1.0] {
            p = p.mul_add(f, L::splat(c));
        }
        p.mul(n.pow2()).select(x.not_below(bound), L::splat(0.0))
    }
}

/// Plain arrays: no fused multiply-add.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY: no instruction set is assumed; `load` and `store` touch sixteen f32.
unsafe impl Lanes for Portable {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for sixteen f32.
        Self(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * factor.0[i] + addend.0[i]))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn select(self, bits: u16, other: Self) -> Self {
        Self(std::array::from_fn(|i| if bits >> i & 1 == 1 { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    unsafe fn not_below(self, bound: Self) -> u16 {
        (0..16).fold(0, |bits, i| bits | u16::from(!(self.0[i] < bound.0[i])) << i)
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|x| (x + MAGIC) - MAGIC))
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        Self(self.0.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        tree(self.0, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        tree(self.0, |a, b| if a > b { a } else { b })
    }
}

#[inline(always)]
fn tree(mut lanes: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// One 512-bit register.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // SAFETY: only AVX-512 F and BW instructions, which the caller vouches for; `load` and
    // `store` are the unaligned forms and touch sixteen f32.
    #[allow(clippy::undocumented_unsafe_blocks)]
    unsafe impl Lanes for Avx512 {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { Self(_mm512_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm512_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { Self(_mm512_max_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn select(self, bits: u16, other: Self) -> Self {
            unsafe { Self(_mm512_mask_blend_ps(bits, other.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn not_below(self, bound: Self) -> u16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, bound.0) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe { Self(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
        }
        #[inline(always)]
        unsafe fn pow2(self) -> Self {
            unsafe {
                let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            unsafe { _mm512_reduce_max_ps(self.0) }
        }
    }

    /// Two 256-bit registers.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256, __m256);

    // SAFETY: only AVX2 and FMA instructions, which the caller vouches for; `load` and `store`
    // are the unaligned forms and touch sixteen f32.
    #[allow(clippy::undocumented_unsafe_blocks)]
    unsafe impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn select(self, bits: u16, other: Self) -> Self {
            unsafe {
                let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let mask = |bits: i32| {
                    _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), lane), lane))
                };
                let (low, high) = (mask(i32::from(bits & 0xff)), mask(i32::from(bits >> 8)));
                Self(_mm256_blendv_ps(other.0, self.0, low), _mm256_blendv_ps(other.1, self.1, high))
            }
        }
        #[inline(always)]
        unsafe fn not_below(self, bound: Self) -> u16 {
            unsafe {
                let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, bound.0));
                let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(self.1, bound.1));
                (low | high << 8) as u16
            }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe {
                Self(
                    _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0),
                    _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.1),
                )
            }
        }
        #[inline(always)]
        unsafe fn pow2(self) -> Self {
            unsafe {
                let half = |x: __m256| {
                    let n = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
                };
                Self(half(self.0), half(self.1))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            let mut lanes = [0.0; 16];
            unsafe { self.store(lanes.as_mut_ptr()) };
            super::tree(lanes, |a, b| a + b)
        }
        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            let mut lanes = [0.0; 16];
            unsafe { self.store(lanes.as_mut_ptr()) };
            super::tree(lanes, |a, b| if a > b { a } else { b })
        }
    }
}
