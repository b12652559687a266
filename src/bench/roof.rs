//! What this machine can do: a memory copy and multiply-adds on registers, measured.

use std::time::Instant;

use super::samples::median;
use crate::kernel::host::multiply_adds;
use crate::kernel::spec::Cost;

/// Rates that no kernel of this machine exceeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// Threads that were measured together.
    pub threads: usize,
    /// Multiply-adds on registers in f32, FLOP/s. The host computes half types in f32.
    pub flops_per_s: f64,
    /// Copy of memory, bytes read and written per second.
    pub bytes_per_s: f64,
}

impl Roof {
    /// Measures `threads` threads together; takes about a tenth of a second.
    pub fn measure(threads: usize) -> Self {
        const ROUNDS: usize = 1 << 20;
        const REPEATS: usize = 7;
        const COPIED_BYTES: usize = 64 << 20;
        let flops = rate(REPEATS, || multiply_adds(threads, ROUNDS));
        let part = COPIED_BYTES / threads.max(1);
        let mut buffers: Vec<(Vec<u8>, Vec<u8>)> = (0..threads).map(|_| (vec![1; part], vec![0; part])).collect();
        let bytes = rate(REPEATS, || {
            std::thread::scope(|scope| {
                for (from, to) in &mut buffers {
                    scope.spawn(|| to.copy_from_slice(from));
                }
            });
            (2 * part * threads) as f64
        });
        Self { threads, flops_per_s: flops, bytes_per_s: bytes }
    }

    /// The shortest time that `cost` can take.
    pub fn seconds(&self, cost: Cost) -> f64 {
        (cost.flops / self.flops_per_s).max(cost.bytes / self.bytes_per_s)
    }
}

/// Median of what a run does a second, after one to warm up.
fn rate(repeats: usize, mut run: impl FnMut() -> f64) -> f64 {
    run();
    let rates: Vec<f64> = (0..repeats)
        .map(|_| {
            let begin = Instant::now();
            let done = run();
            done / begin.elapsed().as_secs_f64().max(1e-9)
        })
        .collect();
    median(&rates)
}
