//! Scalar functions written so that loops over them vectorise, and sums whose order depends on
//! nothing but the length.

use crate::dtype::{Dtype, round_to};

/// e^x within 2 ulp; 0 below −87.3, infinity above 88.7, NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Cody-Waite: x = n·ln 2 + r with |r| ≤ ln 2 / 2; the magic constant rounds to nearest.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.7);
    let n = (clamped * std::f32::consts::LOG2_E + MAGIC) - MAGIC;
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let poly = 1.987_569_1e-4;
    let poly = poly * r + 1.398_199_9e-3;
    let poly = poly * r + 8.333_452e-3;
    let poly = poly * r + 4.166_579_6e-2;
    let poly = poly * r + 1.666_666_5e-1;
    let poly = poly * r + 5.000_000_1e-1;
    let value = poly * (r * r) + r + 1.0;
    // 2^n in two factors: n may be 128.
    let half = (n * 0.5) as i32;
    let scale = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    let value = value * scale(half) * scale(n as i32 - half);
    let value = if x < -87.3 { 0.0 } else { value };
    let value = if x > 88.7 { f32::INFINITY } else { value };
    if x.is_nan() { x } else { value }
}

/// GELU, tanh form, as x·sigmoid(2u).
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * u))
}

/// x·sigmoid(x).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Interleaved sums of a row: four registers of sixteen, so that additions overlap.
const LANES: usize = 64;

/// Sum of `f(x)` over a row: interleaved sums, then a fixed tree.
#[inline(always)]
pub(super) fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane += f(*x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Rounds a row to its storage type in registers, where the chain of kernels would store it.
#[inline(always)]
pub(super) fn round_row(dtype: Dtype, row: &mut [f32]) {
    match dtype {
        Dtype::F16 => row.iter_mut().for_each(|x| *x = round_to(Dtype::F16, *x)),
        Dtype::Bf16 => row.iter_mut().for_each(|x| *x = round_to(Dtype::Bf16, *x)),
        _ => {}
    }
}
