//! Times of repeated runs, condensed.

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
    /// How far the medians of the first and the second half lie apart, as a part of the median:
    /// what the same measurement made twice would show. 0 for fewer than 4 times.
    pub spread: f64,
}

impl Samples {
    /// Of times in the order in which they were measured.
    pub fn of(times_s: &[f64]) -> Self {
        let p50_s = percentile(times_s, 50);
        let (first, second) = times_s.split_at(times_s.len() / 2);
        let apart = (percentile(first, 50) - percentile(second, 50)).abs();
        let spread = if times_s.len() < 4 || p50_s <= 0.0 { 0.0 } else { apart / p50_s };
        Self { count: times_s.len(), min_s: percentile(times_s, 0), p50_s, p95_s: percentile(times_s, 95), spread }
    }

    /// The same times in a unit `scale` times as long.
    #[must_use]
    pub fn divided_by(self, scale: f64) -> Self {
        Self { min_s: self.min_s / scale, p50_s: self.p50_s / scale, p95_s: self.p95_s / scale, ..self }
    }
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
        // Halves 100..51 and 50..1: medians 75 and 25.
        assert_eq!(samples.spread, 1.0);
        assert_eq!(Samples::of(&[]), Samples::default());
        assert_eq!(Samples::of(&[3.0]).p95_s, 3.0);
        assert_eq!(Samples::of(&[2.0; 8]).spread, 0.0);
    }
}
