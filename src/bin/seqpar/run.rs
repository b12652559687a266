//! Flags that every running command shares: from numbers to a strategy on a mesh.

use std::time::Duration;

use seqpar::exec::host::{HostOptions, Link};
use seqpar::machine::Machine;
use seqpar::mesh::Mesh;
use seqpar::strategy::Strategy;

use crate::args::{RunArgs, SpreadArgs};
use crate::fault::{Fault, Result};
use crate::numbers::Wanted;

/// Most ranks that run at once in one process: each has threads of its own.
pub(crate) const MOST_RUNNING: usize = 256;

/// A strategy, its mesh, and how to run them.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) strategy: Strategy,
    pub(crate) mesh: Mesh,
    threads: usize,
    timeout: Duration,
    link: Option<Link>,
}

impl Launch {
    /// The launch that `args` ask for; `auto` chooses a strategy where they leave that open.
    pub(crate) fn new(
        args: &RunArgs,
        heads: usize,
        kv_heads: usize,
        auto: impl FnOnce(&Machine) -> Result<(Strategy, Mesh)>,
    ) -> Result<Self> {
        if args.spread.ranks > MOST_RUNNING {
            return Err(Fault::Usage(format!(
                "--ranks {}: a rank is a group of threads here; use at most {MOST_RUNNING}, or `seqpar plan`",
                args.spread.ranks
            )));
        }
        let (strategy, mesh) = spread(&args.spread, heads, kv_heads, auto)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            strategy,
            mesh,
            threads: args.threads.unwrap_or(cores),
            timeout: Duration::from_secs_f64(args.timeout),
            link: link(&args.spread),
        })
    }

    /// What the executor is told.
    pub(crate) fn host_options(&self) -> HostOptions {
        HostOptions { threads: self.threads, deadline: self.timeout, link: self.link, ..HostOptions::default() }
    }

    /// The same run on one rank, with which others are compared.
    pub(crate) fn on_one_rank(&self) -> Self {
        let mesh = Mesh { data: 1, cfg: 1, ring: 1, ulysses: 1 };
        Self { strategy: Strategy::Single, mesh, ..self.clone() }
    }

    /// `fastseq, 4 ranks`, with the degrees where they matter.
    pub(crate) fn describe(&self) -> String {
        describe(self.strategy, &self.mesh)
    }
}

/// `usp (ulysses 2, ring 2), 4 ranks`.
pub(crate) fn describe(strategy: Strategy, mesh: &Mesh) -> String {
    let degrees = match strategy {
        Strategy::Usp => format!(" (ulysses {}, ring {})", mesh.ulysses, mesh.ring),
        _ => String::new(),
    };
    let groups = if mesh.cfg > 1 { format!("{} guidance groups of ", mesh.cfg) } else { String::new() };
    let ranks = mesh.sequence();
    format!("{}{degrees}, {groups}{ranks} rank{}", strategy.name(), if ranks == 1 { "" } else { "s" })
}

/// The strategy and mesh that the flags name.
pub(crate) fn spread(
    args: &SpreadArgs,
    heads: usize,
    kv_heads: usize,
    auto: impl FnOnce(&Machine) -> Result<(Strategy, Mesh)>,
) -> Result<(Strategy, Mesh)> {
    let ranks = args.ranks;
    if let (Some(u), Some(r)) = (args.ulysses, args.ring)
        && u.checked_mul(r) != Some(ranks)
    {
        return Err(Fault::Usage(format!("--ulysses {u} times --ring {r} is not --ranks {ranks}: make them equal")));
    }
    for (flag, degree) in [("--ulysses", args.ulysses), ("--ring", args.ring)] {
        if let Some(degree) = degree.filter(|degree| !ranks.is_multiple_of(*degree)) {
            return Err(Fault::Usage(format!("{flag} {degree} does not divide --ranks {ranks}: use a divisor")));
        }
    }
    let wanted = args.strategy.unwrap_or(if ranks == 1 { Wanted::Named(Strategy::Single) } else { Wanted::Auto });
    match wanted {
        Wanted::Named(Strategy::Single) if ranks != 1 => {
            Err(Fault::Usage(format!("single runs on one rank: use --ranks 1, or another strategy for {ranks} ranks")))
        }
        Wanted::Named(strategy) => Ok((strategy, strategy.mesh(ranks, args.ulysses, args.ring, heads, kv_heads)?)),
        Wanted::Auto if args.ulysses.is_some() || args.ring.is_some() => {
            Err(Fault::Usage("auto chooses the degrees: leave out --ulysses and --ring, or use --strategy usp".into()))
        }
        Wanted::Auto => auto(&machine(args)),
    }
}

/// The link model, if a flag asks for one: what is not given costs nothing.
fn link(args: &SpreadArgs) -> Option<Link> {
    if args.link_gbps.is_none() && args.link_us.is_none() {
        return None;
    }
    let bytes_per_s = args.link_gbps.map_or(f64::INFINITY, |gbps| gbps * 1e9);
    Some(Link { bytes_per_s, latency_s: args.link_us.unwrap_or(0.0) * 1e-6 })
}

/// The machine that predictions assume, with the links of the flags.
pub(crate) fn machine(args: &SpreadArgs) -> Machine {
    let mut machine = Machine::cpu();
    if let Some(gbps) = args.link_gbps {
        machine.link_bytes_per_s = gbps * 1e9;
    }
    if let Some(us) = args.link_us {
        machine.link_latency_s = us * 1e-6;
    }
    machine
}
