use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::bound::Bound;
use super::kernels::Kernels;
use super::program::{self, Program};
use super::ranges::name_streams;
use super::transport::Transport;
use crate::comm::local::Link;
use crate::cuda::{Context, DeviceMemory, Event, Priority, Stream};
use crate::error::{Error, Result};
use crate::exec::placed::check_placement;
use crate::kernel::TensorView;
use crate::kernel::cuda::Arch;
use crate::plan::lower::{Gates, Lowered};
use crate::plan::memory::Memory;
use crate::plan::{Buffer, BufferId, Checked, OpId, Plan};

/// How a world runs. Nothing here changes a bit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CudaOptions {
    /// What gates become. Flags need communication that takes no SM: copies within a device do
    /// not promise that, so events are the default here.
    pub gates: Gates,
    /// Capture the world into one graph and launch that.
    pub graph: bool,
    /// Time every op by events.
    pub timed: bool,
    /// Fill temporaries with NaN before each run.
    pub poison: bool,
    /// SMs that a kernel may fill; `None`: all. With gates as flags, leave some to the others.
    pub sms: Option<u32>,
    /// By loopback: messages between ranks take that time, by the device's clock; `None`: as long as
    /// their copies. The model is that of the host executor: a message takes the sender's port and
    /// the receiver's, and arrives a latency later; but it takes them in the order in which messages
    /// become ready, not when it could start. What one op receives follows each other. Two launches
    /// of one thread a message: a kernel that fills every SM delays them.
    pub link: Option<Link>,
    /// By loopback: how messages between ranks travel.
    pub route: Route,
    /// Longest time of a run, and of a wait inside a kernel.
    pub deadline: Duration,
}

/// How a message between two ranks of one device travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// As one copy within the device.
    #[default]
    Device,
    /// Through pinned host memory, out by one copy engine and in by another: a real link.
    Pinned,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            gates: Gates::Events,
            graph: false,
            timed: false,
            poison: cfg!(debug_assertions),
            sms: None,
            link: None,
            route: Route::Device,
            deadline: Duration::from_secs(60),
        }
    }
}

/// What an external op is given, at enqueue time.
pub struct ExternalCall<'a> {
    /// The rank.
    pub rank: usize,
    /// Label of the op.
    pub label: &'a str,
    /// Where it enqueues its work.
    pub stream: &'a Stream,
    /// The parts of the buffers that it reads and writes, in the plan's order.
    pub parts: &'a [TensorView],
}

/// An op of the embedding framework: enqueues, never waits.
pub type External = Arc<dyn Fn(ExternalCall<'_>) -> Result<()> + Send + Sync>;

/// A world, or one rank of it, that is ready to be bound.
pub struct Prepared {
    pub(super) kernels: Kernels,
    /// Those that are here: all of the world, or one.
    pub(super) ranks: Vec<RankPlan>,
    pub(super) buffers: Vec<Vec<Buffer>>,
    pub(super) transport: Transport,
    pub(super) program: Program,
    pub(super) streams: Vec<Stream>,
    pub(super) events: Vec<Event>,
    pub(super) externals: HashMap<String, External>,
    pub(super) options: CudaOptions,
    /// The device may use its memory for ever.
    pub(super) wedged: AtomicBool,
    /// Last: what belongs to it goes before it.
    pub(super) context: Context,
}

/// One rank's plan and its memory.
pub(super) struct RankPlan {
    pub(super) plan: Plan,
    pub(super) memory: Memory,
    pub(super) arena: DeviceMemory,
    pub(super) events: usize,
}

impl RankPlan {
    pub(super) fn failed(&self, op: OpId, why: impl ToString) -> Error {
        Error::Rank { rank: self.plan.rank as usize, op: self.plan.label(op).to_string(), why: why.to_string() }
    }
}

/// Prepares the plans of all ranks, in order, for one device whose context is current.
///
/// # Errors
/// Plans of another world or in another order, kernels that the device has not, and what the
/// driver says.
pub fn prepare(
    context: Context,
    kernels: Kernels,
    plans: Vec<Checked<Plan>>,
    options: CudaOptions,
) -> Result<Prepared> {
    let lowered: Vec<Lowered> = plans.iter().map(|plan| plan.lowered(options.gates)).collect();
    prepare_lowered(context, kernels, plans, lowered, options)
}

/// [`prepare`] with lowered forms that nothing holds to the law, so that tests can drop a wait.
#[doc(hidden)]
pub fn prepare_lowered(
    context: Context,
    kernels: Kernels,
    plans: Vec<Checked<Plan>>,
    lowered: Vec<Lowered>,
    options: CudaOptions,
) -> Result<Prepared> {
    let world = plans.len();
    if world == 0 || lowered.len() != world {
        return Err(Error::Mesh(format!("{world} plans and {} lowered forms: one of each a rank", lowered.len())));
    }
    for (i, plan) in plans.iter().enumerate() {
        if (plan.rank as usize, plan.world as usize) != (i, world) {
            return Err(Error::Mesh(format!(
                "plan {i} is for rank {} of {}: pass the plans of all {world} ranks in order",
                plan.rank, plan.world
            )));
        }
    }
    let program = {
        let plans: Vec<&Plan> = plans.iter().map(|plan| &**plan).collect();
        program::world(&plans, &lowered.iter().collect::<Vec<_>>())?
    };
    Prepared::new(context, kernels, plans, &lowered, program, Transport::Loopback, options)
}

/// Prepares the plan of one rank for the device whose context is current; the other ranks are
/// threads or processes with devices of their own, met through `transport`. Each of them prepares
/// and runs its plan of the same world.
///
/// # Errors
/// A transport of another rank or world, tags that do not ascend in plan order, gates that a
/// communication library's kernels cannot open, and as [`prepare`].
pub fn prepare_rank(
    context: Context,
    kernels: Kernels,
    plan: Checked<Plan>,
    transport: Transport,
    options: CudaOptions,
) -> Result<Prepared> {
    let lowered = plan.lowered(options.gates);
    prepare_rank_lowered(context, kernels, plan, lowered, transport, options)
}

/// [`prepare_rank`] with a lowered form that nothing holds to the law, so that tests can drop a
/// wait.
#[doc(hidden)]
pub fn prepare_rank_lowered(
    context: Context,
    kernels: Kernels,
    plan: Checked<Plan>,
    lowered: Lowered,
    transport: Transport,
    options: CudaOptions,
) -> Result<Prepared> {
    transport.fits(&plan, &options)?;
    let Some(agreement) = transport.agreement() else {
        return prepare_lowered(context, kernels, vec![plan], vec![lowered], options);
    };
    let program = program::alone(&plan, &lowered, agreement)?;
    Prepared::new(context, kernels, vec![plan], &[lowered], program, transport, options)
}

/// A stream that communicates goes first where both could.
fn priority(plan: &Plan, stream: usize) -> Priority {
    let mine = |op: &OpId| plan.op(*op).stream.0 as usize == stream;
    if plan.op_ids().filter(mine).any(|op| plan.comm(op).is_some()) { Priority::High } else { Priority::Low }
}

impl Prepared {
    fn new(
        context: Context,
        kernels: Kernels,
        plans: Vec<Checked<Plan>>,
        lowered: &[Lowered],
        program: Program,
        transport: Transport,
        options: CudaOptions,
    ) -> Result<Self> {
        context.bind()?;
        let mut ranks = Vec::new();
        for (checked, lowered) in plans.into_iter().zip(lowered) {
            let memory = checked.memory().clone();
            let plan = checked.into_inner();
            plan.buffers.iter().try_for_each(|buffer| check_placement(plan.rank as usize, buffer))?;
            let arena = DeviceMemory::new(memory.arena_bytes)?;
            ranks.push(RankPlan { plan, memory, arena, events: lowered.events as usize });
        }
        let first = ranks.first().map_or(0, |rank| rank.plan.rank as usize);
        let streams = program.streams.iter().map(|&(rank, stream)| priority(&ranks[rank - first].plan, stream));
        let prepared = Self {
            streams: streams.map(Stream::new).collect::<Result<_>>()?,
            events: (0..program.events).map(|_| Event::new(false)).collect::<Result<_>>()?,
            buffers: ranks.iter().map(|rank| rank.plan.buffers.clone()).collect(),
            program,
            ranks,
            transport,
            context,
            kernels,
            externals: HashMap::new(),
            wedged: AtomicBool::new(false),
            options,
        };
        name_streams(&prepared);
        Ok(prepared)
    }

    /// Registers what an external op enqueues, on every rank.
    pub fn external(&mut self, name: impl Into<String>, call: External) {
        self.externals.insert(name.into(), call);
    }

    /// Number of ranks of the world.
    pub fn world(&self) -> usize {
        self.ranks.first().map_or(0, |rank| rank.plan.world as usize)
    }

    /// The plans that are here, by rank: all of the world, or one.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.ranks.iter().map(|rank| &rank.plan)
    }

    /// Device address of a rank's temporary, for tests; `None` for a bound buffer.
    #[doc(hidden)]
    pub fn temporary(&self, rank: usize, buffer: BufferId) -> Option<u64> {
        let rank = self.ranks.get(rank.checked_sub(self.first_rank())?)?;
        let offset = rank.memory.offsets.get(buffer.0 as usize).copied().flatten()?;
        Some(rank.arena.address() + offset as u64)
    }

    /// Resolves the program for the addresses of inputs and outputs: one list for each of
    /// [`Prepared::plans`], by index in [`Plan::buffers`]; temporaries are `None`.
    ///
    /// # Errors
    /// A buffer that is not bound, operands that no kernel takes, and what the driver says.
    ///
    /// # Safety
    /// Each address is a device allocation of the buffer's bytes, 16-byte aligned, alive as long as
    /// the result, and used by nobody else while a run is under way.
    pub unsafe fn bind(&self, addresses: &[Vec<Option<u64>>]) -> Result<Bound<'_>> {
        if addresses.len() != self.ranks.len() {
            return Err(Error::Bind(format!("addresses of {} ranks for {}", addresses.len(), self.ranks.len())));
        }
        self.context.bind()?;
        Bound::new(self, addresses)
    }

    /// Whether the device may use what is bound for ever: it must never be freed then.
    pub(super) fn is_wedged(&self) -> bool {
        self.wedged.load(Ordering::Relaxed)
    }

    /// A rank that is here.
    pub(super) fn rank(&self, rank: usize) -> &RankPlan {
        &self.ranks[rank - self.first_rank()]
    }

    pub(super) fn first_rank(&self) -> usize {
        self.ranks.first().map_or(0, |rank| rank.plan.rank as usize)
    }

    /// True where a kernel may wait inside for its gates.
    pub(super) fn waits_inside(&self) -> bool {
        self.options.gates == Gates::Flags && self.kernels.device().arch == Arch::Sm90
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.is_wedged() {
            self.ranks.iter_mut().for_each(|rank| rank.arena.leave());
            self.kernels.leave();
            self.context.leave();
        }
    }
}
