//! The devices that occupancy and bounds are computed for: data-sheet figures, no measurement.

use super::Arch;

/// A device. Rates per SM are of one clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Name in tables.
    pub name: &'static str,
    /// Code that it runs.
    pub arch: Arch,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// SM clock under load.
    pub clock_hz: f64,
    /// Dense matrix rate of an SM in f16 and bf16, FLOP.
    pub sm_flops: f64,
    /// Exponentials of an SM.
    pub sm_exps: f64,
    /// Device memory, bytes/s.
    pub memory_bytes_per_s: f64,
    /// Shared memory of an SM.
    pub sm_shared_bytes: u32,
    /// The most shared memory that a block may have.
    pub block_shared_bytes: u32,
}

/// CUDA C++ Programming Guide, "Compute Capabilities"; NVIDIA A100 80 GB SXM data sheet.
const A100: Gpu = Gpu {
    name: "A100",
    arch: Arch::Sm80,
    sms: 108,
    clock_hz: 1.41e9,
    sm_flops: 2048.0,
    sm_exps: 16.0,
    memory_bytes_per_s: 2.04e12,
    sm_shared_bytes: 164 << 10,
    block_shared_bytes: 163 << 10,
};

/// As above; NVIDIA H200 SXM data sheet, whose 989 TFLOP/s are those of 1.83 GHz.
const H200: Gpu = Gpu {
    name: "H200",
    arch: Arch::Sm90,
    sms: 132,
    clock_hz: 1.83e9,
    sm_flops: 4096.0,
    sm_exps: 16.0,
    memory_bytes_per_s: 4.8e12,
    sm_shared_bytes: 228 << 10,
    block_shared_bytes: 227 << 10,
};

impl Gpu {
    /// The device that code for `arch` (`sm_80`, `sm_90a`) is judged on: A100, H200.
    pub fn of(arch: &str) -> Option<&'static Self> {
        match arch {
            "sm_80" => Some(&A100),
            "sm_90a" => Some(&H200),
            _ => None,
        }
    }

    /// Matrix rate of the device, FLOP/s.
    pub fn flops_per_s(&self) -> f64 {
        f64::from(self.sms) * self.clock_hz * self.sm_flops
    }
}
