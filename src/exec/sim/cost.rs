//! How long kernels last on a machine.
//!
//! On the host what [`crate::machine::Machine::kernel_s`] says. On a GPU the longer of two times: arithmetic at
//! the rate of its kind, less what ragged waves of tiles and short sums lose, and memory traffic.

use super::machine::{Device, Gpu, SimMachine};
use crate::dtype::Dtype;
use crate::kernel::spec::{Attention, Gemm, Kernel};

/// Time of one piece of a kernel, taken apart by what slows it down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// Seconds that nothing changes.
    pub(super) fixed_s: f64,
    /// Seconds of arithmetic on all SMs.
    pub(super) compute_s: f64,
    /// Seconds of memory traffic alone.
    pub(super) memory_s: f64,
}

impl Cost {
    /// Nanoseconds with part of the SMs and of the memory rate left, each above 0.
    pub(super) fn ns(&self, sms: f64, memory: f64) -> f64 {
        (self.fixed_s + (self.compute_s / sms).max(self.memory_s / memory)) * 1e9
    }

    pub(super) fn add(&mut self, other: Cost) {
        self.fixed_s += other.fixed_s;
        self.compute_s += other.compute_s;
        self.memory_s += other.memory_s;
    }
}

/// One piece of a kernel.
pub(super) fn piece(machine: &SimMachine, kernel: &Kernel, piece: usize) -> Cost {
    let cost = kernel.piece_cost(piece);
    match &machine.device {
        Device::Host(host) => {
            Cost { fixed_s: host.machine.kernel_s(kernel.dtype(), cost.flops, cost.bytes), ..Cost::default() }
        }
        Device::Gpu(gpu) => Cost {
            // One launch, whatever the pieces.
            fixed_s: if piece == 0 { gpu.gap_s } else { 0.0 },
            compute_s: arithmetic_s(gpu, kernel, piece, cost.flops),
            memory_s: cost.bytes / gpu.memory_bytes_per_s,
        },
    }
}

/// A copy that reads and writes `bytes` in all.
pub(super) fn copy(machine: &SimMachine, bytes: f64) -> Cost {
    match &machine.device {
        Device::Host(host) => Cost { fixed_s: host.machine.kernel_s(Dtype::F32, 0.0, bytes), ..Cost::default() },
        Device::Gpu(gpu) => Cost { fixed_s: gpu.gap_s, compute_s: 0.0, memory_s: bytes / gpu.memory_bytes_per_s },
    }
}

fn arithmetic_s(gpu: &Gpu, kernel: &Kernel, piece: usize, flops: f64) -> f64 {
    match kernel {
        Kernel::Gemm(spec) => flops / gemm_flops(gpu, spec, piece),
        Kernel::Attention(spec) => flops / attention_flops(gpu, spec),
        // The rest is bound by memory on every GPU of interest.
        _ => 0.0,
    }
}

/// Tiles of a product; the best one is taken, as a library's heuristic does.
const TILES: [(f64, f64); 6] =
    [(128.0, 256.0), (256.0, 128.0), (128.0, 192.0), (192.0, 128.0), (128.0, 128.0), (256.0, 192.0)];

fn gemm_flops(gpu: &Gpu, spec: &Gemm, piece: usize) -> f64 {
    let rows = (spec.batch * spec.chunks.get(piece).copied().unwrap_or(1)) as f64;
    let cols = spec.parts.iter().sum::<usize>() as f64;
    let useful = |(m, n): (f64, f64)| {
        let tiles = (rows / m).ceil() * (cols / n).ceil();
        rows * cols / (waves(tiles, gpu.sms) * gpu.sms * m * n)
    };
    let waves = TILES.into_iter().map(useful).fold(0.0, f64::max).clamp(1e-6, 1.0);
    let k = spec.k as f64;
    rate(gpu, spec.dtype, gpu.gemm_flops) * waves * k / (k + gpu.gemm_fill_k)
}

/// Rows of one tile of queries.
const QUERY_TILE: usize = 128;

fn attention_flops(gpu: &Gpu, spec: &Attention) -> f64 {
    let keys: usize = spec.keys.iter().map(|key| key.len).sum();
    let tiles: usize = spec.queries.iter().map(|rows| rows.div_ceil(QUERY_TILE)).sum();
    let tiles = (tiles * spec.batch * spec.heads).max(1) as f64;
    // What is padded to the next head dim of the table is not useful.
    let dim = spec.head_dim;
    let by_dim = gpu.attention_flops.iter().find(|(of, _)| *of >= dim).or(gpu.attention_flops.last());
    let full = by_dim.map_or(gpu.gemm_flops, |(of, flops)| flops * (dim as f64 / *of as f64).min(1.0));
    let keys = keys.max(1) as f64;
    rate(gpu, spec.dtype, full) * keys / (keys + gpu.attention_half_keys) * tiles / (waves(tiles, gpu.sms) * gpu.sms)
}

/// Waves of tiles over the SMs.
fn waves(tiles: f64, sms: f64) -> f64 {
    (tiles / sms).ceil().max(1.0)
}

fn rate(gpu: &Gpu, dtype: Dtype, half: f64) -> f64 {
    if dtype == Dtype::F32 { half.min(gpu.f32_flops) } else { half }
}
