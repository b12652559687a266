//! What this machine can do: a memory copy and multiply-adds on registers, measured.

use std::time::Instant;

use crate::kernel::host::multiply_adds;
use crate::kernel::spec::Cost;
use crate::plan::Plan;

const REPEATS: usize = 9;
/// Beyond the caches that a thread has to itself.
const LARGE_BYTES: usize = 64 << 20;
/// Within the cache that a core has to itself, twice.
const SMALL_BYTES: usize = 128 << 10;

/// Rates that no kernel of this machine exceeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// Threads that were measured together.
    pub threads: usize,
    /// Multiply-adds on registers in f32, FLOP/s. The host computes half types in f32.
    pub flops_per_s: f64,
    /// Copy of memory, bytes read and written per second.
    pub bytes_per_s: f64,
    /// Copy within the caches, bytes read and written per second.
    pub cached_bytes_per_s: f64,
}

impl Roof {
    /// Measures `threads` threads together; takes about a tenth of a second.
    pub fn measure(threads: usize) -> Self {
        const ROUNDS: usize = 1 << 20;
        Self {
            threads,
            flops_per_s: rate(REPEATS, || multiply_adds(threads, ROUNDS)),
            bytes_per_s: copy_bytes_per_s(threads, LARGE_BYTES),
            cached_bytes_per_s: copy_bytes_per_s(threads, threads * SMALL_BYTES),
        }
    }

    /// The shortest time that `cost` can take where its bytes come from memory.
    pub fn seconds(&self, cost: Cost) -> f64 {
        (cost.flops / self.flops_per_s).max(cost.bytes / self.bytes_per_s)
    }

    /// The shortest time that the kernels of all ranks can take, one after the other.
    pub fn plans_s(&self, plans: &[Plan]) -> f64 {
        costs(plans).map(|cost| self.seconds(cost)).sum()
    }
}

/// What the kernels of all ranks cost together.
pub fn cost_of(plans: &[Plan]) -> Cost {
    costs(plans).fold(Cost::default(), |a, b| a + b)
}

fn costs(plans: &[Plan]) -> impl Iterator<Item = Cost> {
    plans.iter().flat_map(|plan| plan.op_ids().filter_map(|id| plan.kernel(id)).map(|kernel| kernel.cost()))
}

/// Rate at which `threads` threads together copy `bytes` bytes, again and again: bytes read and
/// written a second. What fits in the caches is copied faster than memory allows.
pub fn copy_bytes_per_s(threads: usize, bytes: usize) -> f64 {
    let part = (bytes / threads.max(1)).max(1);
    // So many at a time that starting the threads does not count.
    let times = (LARGE_BYTES / bytes.max(1)).clamp(1, 1 << 12);
    let mut buffers: Vec<(Vec<u8>, Vec<u8>)> = (0..threads).map(|_| (vec![1; part], vec![0; part])).collect();
    rate(REPEATS, || {
        std::thread::scope(|scope| {
            for (from, to) in &mut buffers {
                scope.spawn(|| {
                    for _ in 0..times {
                        std::hint::black_box(&mut *to).copy_from_slice(std::hint::black_box(from));
                    }
                });
            }
        });
        (2 * part * threads * times) as f64
    })
}

/// The most that a run does a second, after one to warm up: a roof is what can be reached.
fn rate(repeats: usize, mut run: impl FnMut() -> f64) -> f64 {
    run();
    let rates = (0..repeats).map(|_| {
        let begin = Instant::now();
        let done = run();
        done / begin.elapsed().as_secs_f64().max(1e-9)
    });
    rates.fold(0.0, f64::max)
}
