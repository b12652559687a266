//! Flag values with limits: a bad one is refused while the command line is parsed.

use std::path::Path;
use std::str::FromStr;

use seqpar::dtype::Dtype;
use seqpar::exec::collective::Collective;
use seqpar::exec::sim::{Device, SimMachine};
use seqpar::machine::Machine;
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

/// Sizes to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series(pub(crate) Vec<usize>);

/// `4096`, `1k,3k` or `1k:64k`, each twice the one before, with k, m, g, KiB, MiB, GiB as powers
/// of 1024.
pub(crate) fn series(text: &str) -> Result<Series, String> {
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

fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        unit => return Err(format!("\"{unit}\" is no unit: use k, m or g (powers of 1024), or KiB, MiB, GiB")),
    };
    let n = count(digits)?;
    let whole = n.checked_mul(1 << shift).filter(|n| *n <= 1 << 40);
    whole.ok_or_else(|| format!("{text} is too large: use at most 1024g"))
}

/// Strategies to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strategies {
    /// Every one that the problem allows.
    All,
    /// These.
    Named(Vec<Strategy>),
}

pub(crate) fn strategies(text: &str) -> Result<Strategies, String> {
    match text {
        "all" => Ok(Strategies::All),
        "auto" => Err("auto is no strategy to measure: use all, or a list such as fastseq,ulysses".into()),
        _ => {
            let named = text.split(',').map(|name| Strategy::from_str(name).map_err(|error| error.to_string()));
            named.collect::<Result<Vec<_>, _>>().map(Strategies::Named)
        }
    }
}

pub(crate) fn collective(text: &str) -> Result<Collective, String> {
    Collective::from_str(text).map_err(|error| error.to_string())
}

/// The rates of a machine by name or file. Of a GPU: its matrix product, its memory, and among
/// ranks what a ring of sends reaches once it has all its channels.
pub(crate) fn machine(text: &str) -> Result<Machine, String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{text}: {error}"));
    let found = match Path::new(text) {
        path if path.is_file() => SimMachine::parse(text, &read(path)?),
        _ => SimMachine::named(text),
    };
    let found = found.map_err(|error| error.to_string())?;
    match &found.device {
        Device::Host(host) => Ok(host.machine.clone()),
        Device::Gpu(gpu) => Ok(Machine {
            name: found.name.clone(),
            f32_flops: gpu.f32_flops,
            half_flops: gpu.gemm_flops,
            memory_bytes_per_s: gpu.memory_bytes_per_s,
            link_bytes_per_s: gpu.link.peer_bytes_per_s.last().map_or(gpu.link.ring_bytes_per_s, |(_, rate)| *rate),
            link_latency_s: gpu.link.peer_s,
            launch_s: gpu.gap_s,
        }),
        _ => Err(format!("machine \"{text}\" has no rates to keep to: use a host or GPU machine")),
    }
}
