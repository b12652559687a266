//! Vectors of f32 on three instruction sets, so that each kernel is written once.
//!
//! A value of [`Avx512`] or [`Avx2`] exists only where the processor has the instructions: it is
//! the proof that the safe methods rely on. Kernels are generic over [`Lanes`] and `inline(always)`;
//! [`Isa::run`] instantiates them inside functions that enable the instructions. A sum's order
//! depends on the number of lanes, hence on the instruction set and on nothing else.
//! The portable vectors multiply and add in two roundings: a fused multiply-add without hardware
//! is a library call.

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isa {
    /// 16 lanes, AVX-512F.
    Avx512,
    /// 8 lanes, AVX2 and FMA.
    Avx2,
    /// 8 lanes of whatever the compiler's baseline has.
    Portable,
}

impl Isa {
    /// The best one of this processor.
    pub fn detect() -> Self {
        [Self::Avx512, Self::Avx2].into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// True if this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => std::arch::is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Name in benchmark records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Runs `task` with the vectors of this instruction set; portable ones where it is missing.
    pub(super) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if self.is_available() => {
                // SAFETY: the processor has AVX-512F, just checked.
                unsafe { x86::run_avx512(task) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if self.is_available() => {
                // SAFETY: the processor has AVX2 and FMA, just checked.
                unsafe { x86::run_avx2(task) }
            }
            _ => task.run(Portable(())),
        }
    }
}

/// A kernel's inner loop, compiled once an instruction set. `run` must be `inline(always)`.
pub(super) trait Task {
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Arithmetic on vectors of `N` lanes.
pub(super) trait Lanes: Copy {
    /// The vector.
    type V: Copy;
    /// Lanes.
    const N: usize;
    /// True if [`Lanes::fma`] is one instruction.
    const FUSED: bool;
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `N` elements can be read at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `N` elements can be written at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Stores past the caches; other threads see it after [`Lanes::flush`].
    ///
    /// # Safety
    /// As `store`, `p` is aligned to the vector, and this thread calls `flush` before it tells
    /// another one that the data is there.
    unsafe fn stream(self, p: *mut f32, v: Self::V);
    /// Orders earlier `stream`s before later stores.
    fn flush(self);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, in one rounding where the instruction set has it.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` for a vector that holds `n + 1.5·2^23`, `n` in −127..=127 (−127 gives 0).
    fn pow2(self, shifted: Self::V) -> Self::V;
    /// `v` where `x ≥ limit` or `x` is NaN, else 0.
    fn zero_below(self, x: Self::V, limit: Self::V, v: Self::V) -> Self::V;
    /// `v` where `keep` is not 0, else −inf.
    fn keep(self, keep: Self::V, v: Self::V) -> Self::V;
    /// Largest lane; NaN or not if a lane is NaN.
    fn reduce_max(self, v: Self::V) -> f32;
    /// Sum of the lanes, as a tree.
    fn reduce_sum(self, v: Self::V) -> f32;
}

/// Lanes of the compiler's baseline.
#[derive(Clone, Copy)]
pub(super) struct Portable(());

const PORTABLE: usize = 8;

#[inline(always)]
fn zip(a: [f32; PORTABLE], b: [f32; PORTABLE], f: impl Fn(f32, f32) -> f32) -> [f32; PORTABLE] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Lanes for Portable {
    type V = [f32; PORTABLE];
    const N: usize = PORTABLE;
    const FUSED: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; PORTABLE]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { self.store(p, v) }
    }
    #[inline(always)]
    fn flush(self) {}
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn pow2(self, shifted: Self::V) -> Self::V {
        shifted.map(|t| f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
    #[inline(always)]
    fn zero_below(self, x: Self::V, limit: Self::V, v: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    fn keep(self, keep: Self::V, v: Self::V) -> Self::V {
        zip(keep, v, |keep, v| if keep != 0.0 { v } else { f32::NEG_INFINITY })
    }
    #[inline(always)]
    fn reduce_max(self, v: Self::V) -> f32 {
        let half: [f32; 4] = std::array::from_fn(|i| if v[i] > v[i + 4] { v[i] } else { v[i + 4] });
        half.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn reduce_sum(self, v: Self::V) -> f32 {
        let half: [f32; 4] = std::array::from_fn(|i| v[i] + v[i + 4]);
        (half[0] + half[2]) + (half[1] + half[3])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Lanes, Task};

    /// Proof of AVX-512F.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(());

    /// Proof of AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn run_avx512<T: Task>(task: T) -> T::Output {
        task.run(Avx512(()))
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<T: Task>(task: T) -> T::Output {
        task.run(Avx2(()))
    }

    macro_rules! methods {
        ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty { $body:expr })*) => {$(
            #[inline(always)]
            fn $name(self, $($arg: $type),*) -> $out {
                // SAFETY: `self` exists only where the processor has the instructions.
                unsafe { $body }
            }
        )*};
    }

    macro_rules! accesses {
        ($load:ident, $store:ident, $stream:ident) => {
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> Self::V {
                // SAFETY: the caller's promise; `self` proves the instructions.
                unsafe { $load(p) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, v: Self::V) {
                // SAFETY: the caller's promise; `self` proves the instructions.
                unsafe { $store(p, v) }
            }
            #[inline(always)]
            unsafe fn stream(self, p: *mut f32, v: Self::V) {
                // SAFETY: the caller's promise; `self` proves the instructions.
                unsafe { $stream(p, v) }
            }
            #[inline(always)]
            fn flush(self) {
                // SAFETY: every x86-64 processor has SSE.
                unsafe { _mm_sfence() }
            }
        };
    }

    impl Lanes for Avx512 {
        type V = __m512;
        const N: usize = 16;
        const FUSED: bool = true;
        accesses!(_mm512_loadu_ps, _mm512_storeu_ps, _mm512_stream_ps);
        methods! {
            splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
            add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
            sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
            mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
            div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
            fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
            max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
            pow2(t: __m512) -> __m512 {
                _mm512_castsi512_ps(_mm512_add_epi32(
                    _mm512_slli_epi32::<23>(_mm512_castps_si512(t)),
                    _mm512_set1_epi32(0x3f80_0000),
                ))
            }
            zero_below(x: __m512, limit: __m512, v: __m512) -> __m512 {
                _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), v)
            }
            keep(keep: __m512, v: __m512) -> __m512 {
                _mm512_mask_mov_ps(
                    _mm512_set1_ps(f32::NEG_INFINITY),
                    _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(keep, _mm512_setzero_ps()),
                    v,
                )
            }
            reduce_max(v: __m512) -> f32 { _mm512_reduce_max_ps(v) }
            reduce_sum(v: __m512) -> f32 {{
                let v: [f32; 16] = std::mem::transmute(v);
                let w: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
                let w: [f32; 4] = std::array::from_fn(|i| w[i] + w[i + 4]);
                (w[0] + w[2]) + (w[1] + w[3])
            }}
        }
    }

    impl Lanes for Avx2 {
        type V = __m256;
        const N: usize = 8;
        const FUSED: bool = true;
        accesses!(_mm256_loadu_ps, _mm256_storeu_ps, _mm256_stream_ps);
        methods! {
            splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
            add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
            sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
            mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
            div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
            fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
            max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
            pow2(t: __m256) -> __m256 {
                _mm256_castsi256_ps(_mm256_add_epi32(
                    _mm256_slli_epi32::<23>(_mm256_castps_si256(t)),
                    _mm256_set1_epi32(0x3f80_0000),
                ))
            }
            zero_below(x: __m256, limit: __m256, v: __m256) -> __m256 {
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, limit), v)
            }
            keep(keep: __m256, v: __m256) -> __m256 {
                _mm256_blendv_ps(
                    _mm256_set1_ps(f32::NEG_INFINITY),
                    v,
                    _mm256_cmp_ps::<_CMP_NEQ_UQ>(keep, _mm256_setzero_ps()),
                )
            }
            reduce_max(v: __m256) -> f32 {{
                let w = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let w = _mm_max_ps(w, _mm_movehl_ps(w, w));
                _mm_cvtss_f32(_mm_max_ss(w, _mm_shuffle_ps::<1>(w, w)))
            }}
            reduce_sum(v: __m256) -> f32 {{
                let w = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let w = _mm_add_ps(w, _mm_movehl_ps(w, w));
                _mm_cvtss_f32(_mm_add_ss(w, _mm_shuffle_ps::<1>(w, w)))
            }}
        }
    }
}
