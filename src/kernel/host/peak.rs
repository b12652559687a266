//! The arithmetic roof: multiply-adds on registers alone, as many at a time as the processor has.

use super::lanes::{Isa, Lanes, Task};
use super::parallel;

/// Independent sums: enough to fill two units of five cycles, few enough for 16 registers.
const SUMS: usize = 12;

/// Does `rounds` rounds of independent multiply-adds on each of `threads` threads and returns how
/// many floating-point operations that was; a multiply-add counts two.
pub fn multiply_adds(threads: usize, rounds: usize) -> f64 {
    let isa = Isa::detect();
    let width = isa.run(Width);
    parallel::for_each(
        threads,
        threads,
        || (),
        |(), _| {
            std::hint::black_box(isa.run(Rounds(rounds)));
        },
    );
    2.0 * (threads * rounds * SUMS * width) as f64
}

struct Width;

impl Task for Width {
    type Output = usize;
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> usize {
        L::N
    }
}

struct Rounds(usize);

impl Task for Rounds {
    type Output = f32;
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f32 {
        // Values that neither grow nor fall to denormal ones.
        let (factor, term) = (lanes.splat(std::hint::black_box(0.5)), lanes.splat(std::hint::black_box(0.25)));
        let mut sums = [lanes.splat(1.0); SUMS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = lanes.fma(*sum, factor, term);
            }
        }
        sums.iter().map(|sum| lanes.reduce_sum(*sum)).sum()
    }
}
