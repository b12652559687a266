//! What a machine can do: the constants that predictions and the paced clock use.

use crate::dtype::Dtype;

/// Rates of one rank and of the links between ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Name printed in tables.
    pub name: String,
    /// Matrix rate of one rank in f32, FLOP/s.
    pub f32_flops: f64,
    /// Matrix rate of one rank in f16 and bf16, FLOP/s.
    pub half_flops: f64,
    /// Memory rate of one rank, bytes/s.
    pub memory_bytes_per_s: f64,
    /// Rate of one rank's port, each direction, bytes/s.
    pub link_bytes_per_s: f64,
    /// Time from the start of a transfer to its first byte, seconds.
    pub link_latency_s: f64,
    /// Fixed cost of starting an op, seconds.
    pub launch_s: f64,
}

impl Machine {
    /// One core with 512-bit vectors a rank, ranks as threads. The rates are round figures below
    /// what the benchmarks of this crate reach; they serve comparisons, not promises.
    pub fn cpu() -> Self {
        Self {
            name: "cpu".into(),
            f32_flops: 80e9,
            half_flops: 70e9,
            memory_bytes_per_s: 10e9,
            link_bytes_per_s: 8e9,
            link_latency_s: 20e-6,
            launch_s: 5e-6,
        }
    }

    /// Seconds that a kernel of `flops` and `bytes` takes: the slower of its two limits.
    pub fn kernel_s(&self, dtype: Dtype, flops: f64, bytes: f64) -> f64 {
        let rate = if dtype == Dtype::F32 { self.f32_flops } else { self.half_flops };
        self.launch_s + (flops / rate).max(bytes / self.memory_bytes_per_s)
    }

    /// Seconds that one message of `bytes` takes on an idle link.
    pub fn transfer_s(&self, bytes: f64) -> f64 {
        self.link_latency_s + bytes / self.link_bytes_per_s
    }
}
