//! How many blocks of a kernel share an SM, and what keeps another one out. The rules are those of
//! NVIDIA's occupancy calculator for compute capabilities 8.0 and 9.0.

use super::gpu::Gpu;
use super::variants::Variant;

const SM_REGISTERS: u32 = 65536;
const SM_THREADS: u32 = 2048;
const SM_BLOCKS: u32 = 32;
/// Registers are given to a warp in units of so many.
const REGISTER_UNIT: u32 = 256;
/// An SM has four partitions, each with a quarter of the registers and every fourth warp.
const PARTITIONS: u32 = 4;
/// Shared memory that the system takes from each block, and the unit of what a block takes.
const SHARED_RESERVED_BYTES: u32 = 1024;
const SHARED_UNIT_BYTES: u32 = 128;

/// What is exhausted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Threads of an SM.
    Threads,
    /// Blocks of an SM.
    Blocks,
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
}

impl Limit {
    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Blocks => "blocks",
            Self::Registers => "registers",
            Self::Shared => "shared",
        }
    }
}

/// What shares an SM. No blocks: the kernel cannot be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Blocks.
    pub blocks: u32,
    /// Their warps, of 64.
    pub warps: u32,
    /// What keeps another block out.
    pub limit: Limit,
}

/// The occupancy of a variant on a device that runs its code.
pub fn occupancy(variant: &Variant, gpu: &Gpu) -> Occupancy {
    let shared_bytes = variant.shared_bytes + variant.resources.shared_bytes;
    occupancy_of(variant.resources.registers, variant.threads, shared_bytes, gpu)
}

fn occupancy_of(registers: u32, threads: u32, shared_bytes: u32, gpu: &Gpu) -> Occupancy {
    let warps = threads.div_ceil(32).max(1);
    let of_warp = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
    let resident = SM_REGISTERS / PARTITIONS / of_warp * PARTITIONS;
    let of_block = (shared_bytes + SHARED_RESERVED_BYTES).next_multiple_of(SHARED_UNIT_BYTES);
    let shared = if shared_bytes > gpu.block_shared_bytes { 0 } else { gpu.sm_shared_bytes / of_block };
    let limits = [
        (Limit::Registers, resident / warps),
        (Limit::Shared, shared),
        (Limit::Threads, SM_THREADS / (32 * warps)),
        (Limit::Blocks, SM_BLOCKS),
    ];
    let first = limits.into_iter().min_by_key(|&(_, blocks)| blocks);
    let (limit, blocks) = first.unwrap_or((Limit::Blocks, SM_BLOCKS));
    Occupancy { blocks, warps: blocks * warps, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(arch: &str, registers: u32, threads: u32, shared_bytes: u32) -> (u32, u32, Limit) {
        let o = occupancy_of(registers, threads, shared_bytes, Gpu::of(arch).unwrap());
        (o.blocks, o.warps, o.limit)
    }

    /// Of the CUDA occupancy calculator (CUDA toolkit, compute capabilities 8.0 and 9.0).
    #[test]
    fn the_calculators_examples_hold() {
        assert_eq!(on("sm_80", 32, 256, 0), (8, 64, Limit::Registers));
        assert_eq!(on("sm_80", 16, 256, 0), (8, 64, Limit::Threads));
        assert_eq!(on("sm_80", 128, 256, 0), (2, 16, Limit::Registers));
        assert_eq!(on("sm_80", 129, 256, 0), (1, 8, Limit::Registers));
        assert_eq!(on("sm_80", 16, 32, 0), (32, 32, Limit::Blocks));
        // 48 KB and the reserved 1 KB: three of 49 KB in 164 KB, four in 228 KB.
        assert_eq!(on("sm_80", 32, 128, 48 << 10), (3, 12, Limit::Shared));
        assert_eq!(on("sm_90a", 32, 128, 48 << 10), (4, 16, Limit::Shared));
        assert_eq!(on("sm_90a", 168, 384, 227 << 10), (1, 12, Limit::Registers));
        assert_eq!(on("sm_90a", 168, 384, (227 << 10) + 1), (0, 0, Limit::Shared));
        assert_eq!(on("sm_90a", 255, 512, 0), (0, 0, Limit::Registers));
    }
}
