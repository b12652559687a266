//! The host executor: ranks as threads of one process, no GPU.
//!
//! Every stream of every rank is a thread that runs its lowered commands in order; events, flags
//! and messages meet on a board where threads sleep, never spin. A gated kernel waits, leases and
//! runs piece by piece. Every wait has a deadline; the first failure of any stream, a panic or an
//! early exit included, ends every other one and is what [`Prepared::run`] returns. Afterwards
//! the world may run again.
//!
//! It refuses plans that are not [`Checked`], and assumes that an external call returns. Threads,
//! clock, link and checks change no bit. Tests: `tests/exec_host.rs`, `tests/schedules.rs`.

mod bind;
mod external;
mod memory;
mod stream;

pub use crate::comm::local::{Cut, Faults, Link, Spoil};
pub use crate::exec::HostTensor;
pub use bind::{Bindings, run_tensors};
pub use external::{External, ExternalCall};

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{Builder, scope};
use std::time::{Duration, Instant};

use super::Report;
use super::placed::check_placement;
use crate::comm::local::{Links, Local};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::plan::edges::derive;
use crate::plan::lower::{Command, EventId, Gates, Lowered};
use crate::plan::memory::{Memory, place};
use crate::plan::order::HappensBefore;
use crate::plan::{Buffer, Checked, OpId, Plan};
use memory::{Bytes, Part, RankMemory};
use stream::{Done, Stream};

/// How long kernels take.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Clock {
    /// As long as they take here.
    #[default]
    Real,
    /// At least as long as their flops and bytes say on that machine, so that the overlap of more
    /// ranks than cores can be shown.
    Paced(Machine),
}

/// How a world runs. Nothing here changes a bit, but for [`Faults::spoil`].
#[derive(Clone, Debug, PartialEq)]
pub struct HostOptions {
    /// Kernel threads of all ranks together; each rank has at least one.
    pub threads: usize,
    /// The link model; `None` copies at memory speed.
    pub link: Option<Link>,
    /// How long kernels take.
    pub clock: Clock,
    /// Longest time that one wait may take.
    pub deadline: Duration,
    /// What gates become.
    pub gates: Gates,
    /// Compare every lease with all live ones; on in debug builds.
    pub check_leases: bool,
    /// Fill temporaries and own outputs with NaN before each run; on in debug builds.
    pub poison: bool,
    /// What goes wrong on the links, to see what comes of it.
    pub faults: Faults,
    /// Compare what arrives with what was sent: a difference is
    /// [`FailureKind::Corrupt`](crate::error::FailureKind::Corrupt). Without it a spoiled message
    /// is not noticed.
    pub checksums: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            link: None,
            clock: Clock::Real,
            deadline: Duration::from_secs(60),
            gates: Gates::Flags,
            check_leases: cfg!(debug_assertions),
            poison: cfg!(debug_assertions),
            faults: Faults::default(),
            checksums: false,
        }
    }
}

/// Prepares the plans of all ranks, in order, to be run many times.
///
/// # Errors
/// Plans of another world or in another order, and options that make no sense.
pub fn prepare(plans: Vec<Checked<Plan>>, options: HostOptions) -> Result<Prepared> {
    let ranks = plans.into_iter().map(|checked| {
        let (memory, lowered) = (checked.memory().clone(), checked.lowered(options.gates));
        (checked.into_inner(), memory, lowered)
    });
    Prepared::new(ranks.collect(), options)
}

/// Prepares plans without holding them to the law, so that tests can run mutated ones. Their
/// temporaries share no bytes unless the plan's order allows it.
#[doc(hidden)]
pub fn prepare_unchecked(plans: Vec<Plan>, lowered: Option<Vec<Lowered>>, options: HostOptions) -> Result<Prepared> {
    // Without leases being checked, an unlawful plan could race.
    let options = HostOptions { check_leases: true, ..options };
    let lowered =
        lowered.unwrap_or_else(|| plans.iter().map(|plan| crate::plan::lower::lower(plan, options.gates)).collect());
    let ranks = plans.into_iter().zip(lowered).map(|(plan, lowered)| {
        let memory = place(&plan, &HappensBefore::derived(&plan, &derive(&plan)));
        (plan, memory, lowered)
    });
    Prepared::new(ranks.collect(), options)
}

/// A world that is ready to run.
pub struct Prepared {
    ranks: Vec<RankPlan>,
    buffers: Arc<Vec<Vec<Buffer>>>,
    arenas: Vec<Bytes>,
    transport: Local<Part>,
    externals: HashMap<String, External>,
    options: HostOptions,
    epoch: u64,
}

impl Prepared {
    /// Registers what an external op runs, on every rank.
    pub fn external(&mut self, name: impl Into<String>, call: External) {
        self.externals.insert(name.into(), call);
    }

    /// Bindings for this world, with nothing bound yet.
    pub fn bindings<'a>(&self) -> Bindings<'a> {
        Bindings::new(self.buffers.clone())
    }

    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.ranks.len()
    }

    /// The plan of a rank below [`Prepared::world`].
    pub fn plan(&self, rank: usize) -> &Plan {
        &self.ranks[rank].plan
    }

    /// Runs the plans once. Outputs that nothing is bound to get bytes of their own, which
    /// [`Bindings::gather`] reads.
    ///
    /// # Errors
    /// [`Error::Bind`] for a missing input; the first failure of any rank, as [`Error::Rank`] or
    /// [`Error::Timeout`].
    pub fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<Report> {
        if !bindings.fits(&self.buffers) {
            return Err(Error::Bind("bindings of another world: take them from this one".into()));
        }
        let externals = self.ranks.iter().map(|rank| self.externals_of(rank)).collect::<Result<Vec<_>>>()?;
        if self.options.poison {
            self.arenas.iter_mut().for_each(|arena| arena.as_mut_slice().fill(POISON));
        }
        let slots = bindings.lend(self.options.poison)?;
        let mut memories = Vec::with_capacity(self.ranks.len());
        for ((rank, arena), slots) in self.ranks.iter().zip(&mut self.arenas).zip(slots) {
            let memory = RankMemory::new(&rank.plan, &rank.memory, arena, slots, self.options.check_leases);
            memories.push(memory.map_err(|why| Error::Bind(format!("rank {}: {why}", rank.rank())))?);
        }
        self.epoch += 1;
        self.transport.clear();
        let start = Instant::now();
        let mut streams = Vec::new();
        for ((rank, memory), externals) in self.ranks.iter().zip(&memories).zip(&externals) {
            streams.extend((0..rank.plan.streams.len()).map(|index| Stream {
                rank,
                index,
                memory,
                transport: &self.transport,
                externals,
                clock: &self.options.clock,
                threads: (self.options.threads / self.ranks.len()).max(1),
                epoch: self.epoch,
                start,
            }));
        }
        let done = run_all(&self.transport, streams);
        if let Some(error) = self.transport.failure(0) {
            return Err(error);
        }
        let mut report = Report {
            streams: self.ranks.iter().map(|rank| rank.plan.streams.clone()).collect(),
            spans: Vec::new(),
            bytes_sent: vec![0; self.ranks.len()],
            peak_bytes: memories.iter().map(RankMemory::peak_bytes).collect(),
            wall_ns: start.elapsed().as_nanos() as u64,
        };
        for (rank, done) in done {
            report.bytes_sent[rank] += done.bytes_sent;
            report.spans.extend(done.spans);
        }
        Ok(report)
    }

    fn externals_of(&self, rank: &RankPlan) -> Result<Vec<Option<External>>> {
        let find = |name: &String| match self.externals.get(name) {
            Some(call) => Ok(Some(call.clone())),
            None => Err(Error::Bind(format!("the plan calls \"{name}\": register it with Prepared::external"))),
        };
        rank.plan.externals.iter().map(find).collect()
    }

    fn new(ranks: Vec<(Plan, Memory, Lowered)>, options: HostOptions) -> Result<Self> {
        let world = ranks.len();
        if world == 0 {
            return Err(Error::Mesh("0 ranks: a world has at least one".into()));
        }
        options.link.iter().try_for_each(Link::check)?;
        for (i, (plan, _, lowered)) in ranks.iter().enumerate() {
            if (plan.rank as usize, plan.world as usize) != (i, world) {
                return Err(Error::Mesh(format!(
                    "plan {i} is for rank {} of {}: pass the plans of all {world} ranks in order",
                    plan.rank, plan.world
                )));
            }
            if lowered.streams.len() != plan.streams.len() {
                return Err(Error::Unsupported(format!("rank {i}: the lowered form has other streams than the plan")));
            }
            plan.buffers.iter().try_for_each(|buffer| check_placement(i, buffer))?;
        }
        let ranks: Vec<RankPlan> =
            ranks.into_iter().map(|(plan, memory, lowered)| RankPlan::new(plan, memory, lowered)).collect();
        let events: Vec<usize> = ranks.iter().map(|rank| rank.lowered.events as usize).collect();
        log::debug!(
            "prepared {world} ranks: {} threads, kernels on {}, largest arena {} bytes",
            options.threads,
            crate::kernel::host::instruction_set(),
            ranks.iter().map(|rank| rank.memory.arena_bytes).max().unwrap_or(0)
        );
        Ok(Self {
            buffers: Arc::new(ranks.iter().map(|rank| rank.plan.buffers.clone()).collect()),
            arenas: ranks.iter().map(|rank| Bytes::filled(rank.memory.arena_bytes, 0)).collect(),
            transport: Local::new(
                &events,
                Links { link: options.link, faults: options.faults.clone(), checksums: options.checksums },
                options.deadline,
            ),
            externals: HashMap::new(),
            ranks,
            options,
            epoch: 0,
        })
    }
}

/// One thread a stream; all have ended when this returns.
fn run_all(transport: &Local<Part>, streams: Vec<Stream<'_>>) -> Vec<(usize, Done)> {
    scope(|scope| {
        let mut threads = Vec::new();
        for stream in streams {
            let rank = stream.rank.rank();
            let name = format!("rank {rank} {}", stream.rank.plan.streams[stream.index]);
            match Builder::new().name(name).spawn_scoped(scope, || stream.run()) {
                Ok(thread) => threads.push((rank, thread)),
                Err(error) => transport.fail(Error::Rank {
                    rank,
                    op: "start".into(),
                    why: format!("no thread for a stream: {error}; use fewer ranks"),
                }),
            }
        }
        let join = |(rank, thread): (usize, std::thread::ScopedJoinHandle<'_, Done>)| {
            let done = thread.join().unwrap_or_else(|_| {
                let why = "a stream panicked between two ops".to_string();
                transport.fail(Error::Rank { rank, op: "end".into(), why });
                Done::default()
            });
            (rank, done)
        };
        threads.into_iter().map(join).collect()
    })
}

/// All bits set: a NaN in every float type.
const POISON: u8 = 0xff;

/// One rank's plan with what its streams look up.
struct RankPlan {
    plan: Plan,
    memory: Memory,
    lowered: Lowered,
    labels: Vec<Arc<str>>,
    event_names: Vec<String>,
    gates: HashMap<OpId, Vec<(u16, EventId)>>,
}

impl RankPlan {
    fn new(plan: Plan, memory: Memory, lowered: Lowered) -> Self {
        let labels: Vec<Arc<str>> = plan.labels.iter().map(|label| label.as_str().into()).collect();
        let mut event_names = vec!["an event that nothing records".to_string(); lowered.events as usize];
        for (stream, commands) in lowered.streams.iter().enumerate() {
            let mut last = None;
            for command in commands {
                match command {
                    Command::Run(op) => last = Some(*op),
                    Command::Wait(_) => {}
                    Command::Record(event) | Command::Raise(event) => {
                        let what = if matches!(command, Command::Record(_)) { "event" } else { "flag" };
                        let op = last.map_or("start", |op| plan.label(op));
                        let name = format!("{what} of op \"{op}\" on stream \"{}\"", plan.streams[stream]);
                        event_names[event.0 as usize] = name;
                    }
                }
            }
        }
        let mut gates: HashMap<OpId, Vec<(u16, EventId)>> = HashMap::new();
        for gate in &lowered.gates {
            gates.entry(gate.op).or_default().push((gate.piece, gate.flag));
        }
        Self { plan, memory, lowered, labels, event_names, gates }
    }

    fn rank(&self) -> usize {
        self.plan.rank as usize
    }

    fn label(&self, op: OpId) -> &Arc<str> {
        &self.labels[self.plan.op(op).label as usize]
    }
}
