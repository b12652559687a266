use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::bound::Bound;
use super::kernels::Kernels;
use super::options::CudaOptions;
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
    /// End of the run that was enqueued last, unless it was finished. All that is bound shares events
    /// and temporaries: a run waits for the one before, whoever's it was and on whatever stream.
    pub(super) last: Mutex<Option<Arc<Event>>>,
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

/// Prepares the plans of all ranks, in order, for the device of `context`.
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

/// Prepares the plan of one rank for the device of `context`; the other ranks are threads or
/// processes with devices of their own, met through `transport`. Each of them prepares and runs its
/// plan of the same world.
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
        options.link.iter().try_for_each(Link::check)?;
        let _current = context.enter()?;
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
            last: Mutex::default(),
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
    /// A buffer that is not bound or not aligned, operands that no kernel takes, and what the driver says.
    ///
    /// # Safety
    /// Each address is a device allocation of the buffer's bytes, 16-byte aligned, alive as long as
    /// the result, and used by nobody else while a run is under way.
    pub unsafe fn bind(&self, addresses: &[Vec<Option<u64>>]) -> Result<Bound<'_>> {
        if addresses.len() != self.ranks.len() {
            return Err(Error::Bind(format!("addresses of {} ranks for {}", addresses.len(), self.ranks.len())));
        }
        let _current = self.context.enter()?;
        Bound::new(self, addresses)
    }

    /// The run that ends there is over: later ones need not wait for it.
    pub(super) fn forget(&self, end: &Arc<Event>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.take_if(|last| Arc::ptr_eq(last, end));
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
