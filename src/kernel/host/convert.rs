//! Widening to f32 and rounding from it, over runs of memory; bit-equal to [`crate::dtype`].

use crate::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};

/// Widens `out.len()` elements at `src`. Integers become their values.
///
/// # Safety
/// That many elements can be read at `src`, aligned for `dtype`.
#[inline]
pub(super) unsafe fn widen(dtype: Dtype, src: *const u8, out: &mut [f32]) {
    let len = out.len();
    // SAFETY: the caller's promise, for each type; `out` is no part of a leased buffer.
    unsafe {
        match dtype {
            Dtype::F32 => std::ptr::copy_nonoverlapping(src.cast(), out.as_mut_ptr(), len),
            Dtype::F16 => widen_f16(std::slice::from_raw_parts(src.cast(), len), out),
            Dtype::Bf16 => widen_bf16(std::slice::from_raw_parts(src.cast(), len), out),
            Dtype::I32 => each(std::slice::from_raw_parts(src.cast(), len), out, |x: i32| x as f32),
            Dtype::U8 => each(std::slice::from_raw_parts(src, len), out, f32::from),
        }
    }
}

/// Rounds `values` to `dtype` at `dst`. Integers are not written by kernels.
///
/// # Safety
/// That many elements can be written at `dst`, aligned for `dtype`.
#[inline]
pub(super) unsafe fn narrow(dtype: Dtype, values: &[f32], dst: *mut u8) {
    let len = values.len();
    // SAFETY: the caller's promise, for each type; `values` is no part of a leased buffer.
    unsafe {
        match dtype {
            Dtype::F32 => std::ptr::copy_nonoverlapping(values.as_ptr(), dst.cast(), len),
            Dtype::F16 => narrow_f16(values, std::slice::from_raw_parts_mut(dst.cast(), len)),
            Dtype::Bf16 => narrow_bf16(values, std::slice::from_raw_parts_mut(dst.cast(), len)),
            Dtype::I32 | Dtype::U8 => {}
        }
    }
}

/// What a store and a load do to `values`.
#[inline]
pub(super) fn round_slice(dtype: Dtype, values: &mut [f32]) {
    let mut bits = [0u16; 64];
    for chunk in values.chunks_mut(64) {
        let bits = &mut bits[..chunk.len()];
        match dtype {
            Dtype::F16 => {
                narrow_f16(chunk, bits);
                widen_f16(bits, chunk);
            }
            Dtype::Bf16 => {
                narrow_bf16(chunk, bits);
                widen_bf16(bits, chunk);
            }
            _ => return,
        }
    }
}

#[inline(always)]
fn each<A: Copy, B>(from: &[A], to: &mut [B], f: impl Fn(A) -> B) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f(*from);
    }
}

fn widen_f16(src: &[u16], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("f16c") && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has F16C and AVX, just checked.
        unsafe { x86::widen(src, out) };
        return;
    }
    each(src, out, f16_to_f32);
}

fn narrow_f16(values: &[f32], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("f16c") && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has F16C and AVX, just checked.
        unsafe { x86::narrow(values, out) };
        return;
    }
    each(values, out, f16_from_f32);
}

fn widen_bf16(src: &[u16], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, just checked.
        unsafe { x86::widen_bf16(src, out) };
        return;
    }
    each(src, out, bf16_to_f32);
}

fn narrow_bf16(values: &[f32], out: &mut [u16]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, just checked.
        unsafe { x86::narrow_bf16(values, out) };
        return;
    }
    each(values, out, bf16_from_f32);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{bf16_from_f32, bf16_to_f32, each, f16_from_f32, f16_to_f32};

    /// The scalar loop, for the compiler to vectorise.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn widen_bf16(src: &[u16], out: &mut [f32]) {
        each(src, out, |x: u16| bf16_to_f32(x));
    }

    /// The scalar loop, for the compiler to vectorise.
    ///
    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn narrow_bf16(values: &[f32], out: &mut [u16]) {
        each(values, out, |x: f32| bf16_from_f32(x));
    }

    /// # Safety
    /// The processor has F16C and AVX.
    #[target_feature(enable = "f16c,avx")]
    pub(super) unsafe fn widen(src: &[u16], out: &mut [f32]) {
        let (from, to) = (src.chunks_exact(8), out.chunks_exact_mut(8));
        let tail = src.len() - from.remainder().len();
        for (from, to) in from.zip(to) {
            // SAFETY: both chunks have 8 elements.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
        }
        each(&src[tail..], &mut out[tail..], f16_to_f32);
    }

    /// # Safety
    /// The processor has F16C and AVX.
    #[target_feature(enable = "f16c,avx")]
    pub(super) unsafe fn narrow(values: &[f32], out: &mut [u16]) {
        let (from, to) = (values.chunks_exact(8), out.chunks_exact_mut(8));
        let tail = values.len() - from.remainder().len();
        for (from, to) in from.zip(to) {
            // SAFETY: both chunks have 8 elements.
            unsafe {
                let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()));
                _mm_storeu_si128(to.as_mut_ptr().cast(), bits);
            }
        }
        each(&values[tail..], &mut out[tail..], f16_from_f32);
    }
}
