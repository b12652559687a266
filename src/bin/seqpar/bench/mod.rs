//! `seqpar bench`: what this machine does, one aligned line a row in the manner of nccl-tests.
//!
//! Lines that begin with `#` say how it was measured; what follows them is one row each, printed
//! as soon as it is there. `--json` writes the same rows, with a report of each, as a record
//! ([`crate::record`]). The measuring itself is the library's ([`seqpar::bench`]).
//! Proof: `tests/bench_cli.rs`.

pub(crate) mod args;
mod collectives;
mod kernels;
mod layer;
mod lines;
mod overlap;
mod shape;
mod world;

use std::time::Duration;

use seqpar::exec::host::Link;

use self::args::{BenchCommand, Executor, LinkArgs, MeasureArgs};
use crate::fault::{Fault, Result};
use crate::output::{self, Output};
use crate::record::{self, Named};
use seqpar::bench::Roof;
use serde_json::Value;

pub(crate) fn run(command: &BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Overlap(args) => overlap::run(args),
        BenchCommand::Layer(args) => layer::run(args),
        BenchCommand::Collectives(args) => collectives::run(args),
        BenchCommand::Attention(args) => kernels::run(args, kernels::Family::Attention),
        BenchCommand::Adaln(args) => kernels::run(args, kernels::Family::Adaln),
        BenchCommand::Gemm(args) => kernels::run(args, kernels::Family::Gemm),
    }
}

/// Longest that one wait of a measured run may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// What all measurements share: where rows go, how many threads, the roof.
struct Session {
    threads: usize,
    iterations: usize,
    roof: Roof,
    json: Option<Output>,
    rows: Vec<Value>,
    reports: Vec<Named>,
}

impl Session {
    /// Refuses what cannot be measured here, then measures the roof.
    fn new(args: &MeasureArgs) -> Result<Self> {
        if args.executor == Executor::Cuda {
            return Err(Fault::Usage("--executor cuda: this build has no CUDA executor; use --executor host".into()));
        }
        let json = args.json.as_deref().map(|path| Output::claim("--json", path)).transpose()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = args.threads.unwrap_or(cores);
        let roof = Roof::measure(threads.min(cores));
        Ok(Self { threads, iterations: args.iterations, roof, json, rows: Vec::new(), reports: Vec::new() })
    }

    /// Says so before a row that takes minutes: `flops` in each of `runs` runs, at half the roof.
    fn announce(&self, what: &str, flops: f64, runs: usize) {
        let minutes = flops * runs as f64 / (0.5 * self.roof.flops_per_s) / 60.0;
        if minutes >= 1.0 {
            output::note(&format!("{what}: about {minutes:.0} min; fewer --iterations, --tokens or --batch take less"));
        }
    }

    /// Writes the record, if one was asked for.
    fn finish(self) -> Result<()> {
        let Some(json) = self.json else { return Ok(()) };
        let path = json.path().display().to_string();
        let mut text = record::record(Some(&self.roof), self.rows, &self.reports).to_string();
        text.push('\n');
        output::commit(vec![(json, text.into_bytes())])?;
        output::note(&format!("{path}: `seqpar report {path} -o report.html` shows it"));
        Ok(())
    }
}

/// The link model, if a flag asks for one: what is not given costs nothing.
fn link(args: &LinkArgs) -> Option<Link> {
    if args.link_gbps.is_none() && args.link_us.is_none() {
        return None;
    }
    let bytes_per_s = args.link_gbps.map_or(f64::INFINITY, |gbps| gbps * 1e9);
    Some(Link { bytes_per_s, latency_s: args.link_us.unwrap_or(0.0) * 1e-6 })
}

fn link_text(link: Option<Link>) -> String {
    link.map_or("memory speed".into(), |link| {
        format!("{:.3} GB/s a port and direction + {:.1} us", link.bytes_per_s / 1e9, link.latency_s * 1e6)
    })
}
