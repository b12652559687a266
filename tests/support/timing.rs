//! Host options that make time: a link model, a paced clock; and reading spans.
#![allow(dead_code, unreachable_pub)]

use std::time::{Duration, Instant};

use seqpar::exec::host::{Clock, HostOptions, Link};
use seqpar::exec::{Report, Span};
use seqpar::machine::Machine;

/// How long a neighbour that takes the cores is sat out.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The first result that is good, else the last that [`PATIENCE`] holds: a busy machine can only add
/// time, so one good run shows what is asked.
pub fn first_good<T>(is_good: impl Fn(&T) -> bool, mut attempt: impl FnMut() -> T) -> T {
    let begin = Instant::now();
    loop {
        let result = attempt();
        if is_good(&result) || begin.elapsed() > PATIENCE {
            return result;
        }
    }
}

/// One thread a rank, transfers take time.
pub fn linked(bytes_per_s: f64, latency_s: f64) -> HostOptions {
    HostOptions {
        threads: 1,
        deadline: Duration::from_secs(60),
        link: Some(Link { bytes_per_s, latency_s }),
        ..HostOptions::default()
    }
}

/// Kernels and transfers last as long as `machine` says.
pub fn paced(machine: &Machine) -> HostOptions {
    HostOptions { clock: Clock::Paced(machine.clone()), ..linked(machine.link_bytes_per_s, machine.link_latency_s) }
}

/// The spans of one rank whose label is `label`.
pub fn spans<'a>(report: &'a Report, rank: usize, label: &str) -> Vec<&'a Span> {
    report.spans.iter().filter(|span| span.rank == rank && &*span.op == label).collect()
}

pub fn span<'a>(report: &'a Report, rank: usize, label: &str) -> &'a Span {
    let found = spans(report, rank, label);
    assert_eq!(found.len(), 1, "spans of \"{label}\" on rank {rank}");
    found[0]
}
