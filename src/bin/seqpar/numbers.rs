//! Flag values with limits: a bad one is refused while the command line is parsed.

use std::str::FromStr;

use seqpar::dtype::Dtype;
use seqpar::strategy::Strategy;

/// Most ranks of one world that this program plans for.
const MOST_RANKS: usize = 4096;

/// A strategy by name, or the choice of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The cheapest by its plan.
    Auto,
    /// This one.
    Named(Strategy),
}

pub(crate) fn strategy(text: &str) -> Result<Wanted, String> {
    match text {
        "auto" => Ok(Wanted::Auto),
        _ => Strategy::from_str(text).map(Wanted::Named).map_err(|error| error.to_string()),
    }
}

pub(crate) fn dtype(text: &str) -> Result<Dtype, String> {
    Dtype::from_str(text).map_err(|error| error.to_string())
}

pub(crate) fn ranks(text: &str) -> Result<usize, String> {
    match count(text)? {
        n if n <= MOST_RANKS => Ok(n),
        n => Err(format!("{n} ranks: use at most {MOST_RANKS}")),
    }
}

/// A whole number of at least 1 that fits the regions of a plan.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match usize::from_str(text) {
        Ok(0) => Err("0 is not enough: use at least 1".into()),
        Ok(n) if n <= 1 << 30 => Ok(n),
        Ok(n) => Err(format!("{n} is too large: use at most {}", 1u64 << 30)),
        Err(_) => Err("use a whole number of at least 1".into()),
    }
}

/// As [`count`], with 0 allowed.
pub(crate) fn count_or_none(text: &str) -> Result<usize, String> {
    if text == "0" { Ok(0) } else { count(text).map_err(|_| "use a whole number".into()) }
}

pub(crate) fn steps(text: &str) -> Result<usize, String> {
    match count(text)? {
        n if n <= 1000 => Ok(n),
        n => Err(format!("{n} steps, but the schedule has 1000: use 1 to 1000")),
    }
}

/// A rate: neither so small nor so large that a time computed from it would be absurd.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(x) if (1e-6..=1e9).contains(&x) => Ok(x),
        _ => Err("use a number from 1e-6 to 1e9".into()),
    }
}

/// A positive time.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(x) if x > 0.0 && x <= 1e9 => Ok(x),
        _ => Err("use a number above 0 and at most 1e9".into()),
    }
}

/// A time that may be 0.
pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(x) if (0.0..=1e9).contains(&x) => Ok(x),
        _ => Err("use a number from 0 to 1e9".into()),
    }
}

pub(crate) fn finite(text: &str) -> Result<f64, String> {
    match f64::from_str(text) {
        Ok(x) if x.is_finite() && x.abs() <= 1e6 => Ok(x),
        _ => Err("use a finite number, at most 1e6 in size".into()),
    }
}
