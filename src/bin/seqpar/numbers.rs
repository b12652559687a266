//! Flag values with limits: a bad one is refused while the command line is parsed.

use std::str::FromStr;

use seqpar::dtype::Dtype;
use seqpar::exec::collective::Collective;
use seqpar::strategy::Strategy;

/// Most ranks of one world that this program plans for.
const MOST_RANKS: usize = 4096;

/// A strategy by name, or the choice of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The fastest by simulation.
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

/// What `seqpar simulate` is asked to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Simulated {
    /// Every strategy that the ranks allow.
    All,
    /// The fastest, or this one.
    One(Wanted),
}

pub(crate) fn strategies(text: &str) -> Result<Simulated, String> {
    match text {
        "all" => Ok(Simulated::All),
        _ => strategy(text).map(Simulated::One).map_err(|why| format!("{why}, or all")),
    }
}

pub(crate) fn collective(text: &str) -> Result<Collective, String> {
    Collective::from_str(text).map_err(|error| error.to_string())
}

/// A number of bytes, possibly with a unit: 4096, 64KiB, 1.5GiB, 1GB.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "use a size such as 4096, 64KiB, 16MiB or 1GB".to_string();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = f64::from_str(&text[..digits]).map_err(|_| wrong())?;
    let unit: f64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err(wrong()),
    };
    match number * unit {
        bytes if (1.0..=1e15).contains(&bytes) => Ok(bytes as u64),
        _ => Err(wrong()),
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

/// Sizes to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series(pub(crate) Vec<usize>);

/// `4096`, `1k,3k` or `1k:64k`, each twice the one before, with the units of [`bytes`].
pub(crate) fn series(text: &str) -> Result<Series, String> {
    let size = |text: &str| bytes(text).and_then(|n| usize::try_from(n).map_err(|error| error.to_string()));
    if let Some((first, last)) = text.split_once(':') {
        let (first, last) = (size(first)?, size(last)?);
        if first > last {
            return Err(format!("{first} is above {last}: put the smaller size first"));
        }
        let doubled = std::iter::successors(Some(first), |n| n.checked_mul(2));
        return Ok(Series(doubled.take_while(|n| *n <= last).collect()));
    }
    text.split(',').map(size).collect::<Result<Vec<_>, _>>().map(Series)
}

/// Strategies to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strategies {
    /// Every one that the problem allows.
    All,
    /// These.
    Named(Vec<Strategy>),
}

pub(crate) fn strategy_list(text: &str) -> Result<Strategies, String> {
    match text {
        "all" => Ok(Strategies::All),
        "auto" => Err("auto is no strategy to measure: use all, or a list such as fastseq,ulysses".into()),
        _ => {
            let named = text.split(',').map(|name| Strategy::from_str(name).map_err(|error| error.to_string()));
            named.collect::<Result<Vec<_>, _>>().map(Strategies::Named)
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("4096", 4096), ("64KiB", 65_536), ("64MiB", 64 << 20), ("1.5G", 3 << 29), ("1GB", 1_000_000_000)]
        {
            assert_eq!(super::bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "0", "1e3", "5 furlongs", "1..2", "99999999999999999999GiB"] {
            assert!(super::bytes(text).is_err(), "{text}");
        }
    }
}
