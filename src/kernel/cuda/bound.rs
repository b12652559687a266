//! What bounds a kernel on a device, from data-sheet rates: no schedule is faster.
//!
//! - Attention: for each (row, key) pair an SM multiplies `2·(columns of q·k + columns of p·v)` and
//!   takes one exponential; the slower of the two, were they to overlap without a gap. Columns are
//!   those that the kernel multiplies, padding included; the rate counts those of the head only.
//! - Linear layers: the matrix rate times the share of it that [`GEMM_SHAPE`] can use when the tiles
//!   are dealt to the SMs in waves.
//! - Everything else reads and writes memory.

use std::fmt;

use super::gpu::Gpu;
use super::occupancy::occupancy;
use super::variants::{Variant, Work};

/// Rows, columns (of three equal parts) and length of the sums of the linear layer that bounds are
/// given for: q, k and v of a DiT of width 1152 over 16384 tokens.
pub const GEMM_SHAPE: [usize; 3] = [16384, 3456, 1152];

/// A rate in the kernel's own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rate {
    /// Useful FLOP/s.
    Flops(f64),
    /// Bytes/s.
    Bytes(f64),
}

impl Rate {
    /// The number, whatever its unit.
    pub fn per_s(self) -> f64 {
        let (Self::Flops(rate) | Self::Bytes(rate)) = self;
        rate
    }

    /// Its name with its unit, in JSON.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Flops(_) => "flops_per_s",
            Self::Bytes(_) => "bytes_per_s",
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flops(rate) => write!(f, "{:.0} TFLOP/s", rate / 1e12),
            Self::Bytes(rate) => write!(f, "{:.2} TB/s", rate / 1e12),
        }
    }
}

/// The most that a device allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// What is busy all the time: `tensor`, `exp` or `memory`.
    pub resource: &'static str,
    /// Nothing is faster.
    pub rate: Rate,
}

/// The bound of a variant on a device that runs its code.
pub fn bound(variant: &Variant, gpu: &Gpu) -> Bound {
    match variant.work {
        Work::Attention { head_dim, columns, .. } => attention(head_dim, columns, gpu),
        Work::Gemm { rows, cols, .. } => {
            let blocks = occupancy(variant, gpu).blocks.max(1) as usize * gpu.sms as usize;
            let share = useful(GEMM_SHAPE, [rows, cols], blocks);
            Bound { resource: "tensor", rate: Rate::Flops(share * gpu.flops_per_s()) }
        }
        Work::Memory => Bound { resource: "memory", rate: Rate::Bytes(gpu.memory_bytes_per_s) },
    }
}

fn attention(head_dim: usize, [scores, values]: [u32; 2], gpu: &Gpu) -> Bound {
    let tensor_clocks = 2.0 * f64::from(scores + values) / gpu.sm_flops;
    let exp_clocks = 1.0 / gpu.sm_exps;
    let resource = if tensor_clocks > exp_clocks { "tensor" } else { "exp" };
    let pairs_per_s = f64::from(gpu.sms) * gpu.clock_hz / tensor_clocks.max(exp_clocks);
    Bound { resource, rate: Rate::Flops(4.0 * head_dim as f64 * pairs_per_s) }
}

/// Share of the tiles' elements that are elements of the output, the idle places of the last wave
/// counted as tiles.
fn useful([m, n, _]: [usize; 3], [rows, cols]: [usize; 2], blocks: usize) -> f64 {
    let tiles = m.div_ceil(rows) * 3 * (n / 3).div_ceil(cols);
    let places = tiles.next_multiple_of(blocks);
    (m * n) as f64 / (places * rows * cols) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tera(bound: Bound) -> (&'static str, f64) {
        (bound.resource, (bound.rate.per_s() / 1e12).round())
    }

    #[test]
    fn attention_is_bound_by_exponentials_at_64_and_by_multiplication_above() {
        let h200 = Gpu::of("sm_90a").unwrap();
        assert_eq!(tera(attention(64, [64, 64], h200)), ("exp", 989.0));
        assert_eq!(tera(attention(72, [80, 72], h200)), ("tensor", 937.0));
        assert_eq!(tera(attention(72, [80, 80], h200)), ("tensor", 890.0));
        assert_eq!(tera(attention(128, [128, 128], h200)), ("tensor", 989.0));
        assert_eq!(tera(attention(32, [32, 32], h200)), ("exp", 495.0));
        assert_eq!(tera(attention(72, [72, 72], Gpu::of("sm_80").unwrap())), ("tensor", 312.0));
    }

    #[test]
    fn the_last_wave_and_the_last_column_count() {
        assert_eq!(useful([1024, 384, 8], [128, 128], 24), 1.0);
        assert_eq!(useful([1024, 384, 8], [128, 128], 48), 0.5);
        assert_eq!(useful([1024, 288, 8], [128, 128], 24), 0.75);
    }
}
