//! Times of repeated runs, condensed.

use std::time::{Duration, Instant};

use crate::error::Result;

/// Figures of a series of times, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Samples {
    /// How many.
    pub count: usize,
    /// The shortest.
    pub min_s: f64,
    /// The median.
    pub p50_s: f64,
    /// The 95th percentile, by nearest rank.
    pub p95_s: f64,
    /// How far apart the medians of the times' four series lie, as a part of the
    /// median: what the same measurement made again would show. 0 for fewer times than those.
    pub spread: f64,
}

/// Series in which a measurement is made, where it can be set up anew: what memory a run is given
/// and what else the machine does differ from one to the next.
pub(super) const SERIES: usize = 4;

impl Samples {
    /// Of times in the order in which they were measured; each quarter is a series.
    pub fn of(times_s: &[f64]) -> Self {
        let p50_s = percentile(times_s, 50);
        let quarter = |i: usize| &times_s[i * times_s.len() / SERIES..(i + 1) * times_s.len() / SERIES];
        let medians: Vec<f64> = (0..SERIES).map(|i| percentile(quarter(i), 50)).collect();
        let apart = percentile(&medians, 100) - percentile(&medians, 0);
        let spread = if times_s.len() < SERIES || p50_s <= 0.0 { 0.0 } else { apart / p50_s };
        Self { count: times_s.len(), min_s: percentile(times_s, 0), p50_s, p95_s: percentile(times_s, 95), spread }
    }

    /// The same times in a unit `scale` times as long.
    #[must_use]
    pub fn divided_by(self, scale: f64) -> Self {
        Self { min_s: self.min_s / scale, p50_s: self.p50_s / scale, p95_s: self.p95_s / scale, ..self }
    }
}

/// Times of about `iterations` runs in [`SERIES`] of equal length, each set up by `begin` and run
/// once to warm up. A series of short runs goes on until it has seen a stretch of time.
pub(super) fn series<W>(
    iterations: usize,
    begin: impl Fn() -> Result<W>,
    mut run: impl FnMut(&mut W) -> Result<f64>,
) -> Result<Vec<f64>> {
    const STRETCH: Duration = Duration::from_millis(50);
    let mut each = iterations.div_ceil(SERIES);
    let mut times = Vec::new();
    for of in 0..SERIES {
        let mut world = begin()?;
        run(&mut world)?;
        let since = Instant::now();
        let mut count = 0;
        while count < each || of == 0 && since.elapsed() < STRETCH && iterations >= SERIES {
            times.push(run(&mut world)?);
            count += 1;
        }
        each = count;
    }
    Ok(times)
}

/// By nearest rank; 0 for none.
fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// The median; 0 for none.
pub(super) fn median(times: &[f64]) -> f64 {
    percentile(times, 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let samples = Samples::of(&times);
        assert_eq!((samples.count, samples.min_s, samples.p50_s, samples.p95_s), (100, 1.0, 50.0, 95.0));
        // Quarters 100..76 to 25..1: medians 88 to 13.
        assert_eq!(samples.spread, 1.5);
        assert_eq!(Samples::of(&[]), Samples::default());
        assert_eq!(Samples::of(&[3.0]).p95_s, 3.0);
        assert_eq!(Samples::of(&[2.0; 8]).spread, 0.0);
    }
}
