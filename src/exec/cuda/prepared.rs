use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::bound::Bound;
use super::kernels::Kernels;
use super::program::{Program, program};
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
    /// Longest time of a run, and of a wait inside a kernel.
    pub deadline: Duration,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            gates: Gates::Events,
            graph: false,
            timed: false,
            poison: cfg!(debug_assertions),
            sms: None,
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

/// A world that is ready to be bound.
pub struct Prepared {
    pub(super) kernels: Kernels,
    pub(super) ranks: Vec<RankPlan>,
    pub(super) buffers: Vec<Vec<Buffer>>,
    pub(super) program: Program,
    pub(super) streams: Vec<Stream>,
    pub(super) events: Vec<Event>,
    pub(super) externals: HashMap<String, External>,
    pub(super) options: CudaOptions,
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
    context.bind()?;
    let mut ranks = Vec::new();
    for (i, (checked, lowered)) in plans.into_iter().zip(&lowered).enumerate() {
        let memory = checked.memory().clone();
        let plan = checked.into_inner();
        if (plan.rank as usize, plan.world as usize) != (i, world) {
            return Err(Error::Mesh(format!(
                "plan {i} is for rank {} of {}: pass the plans of all {world} ranks in order",
                plan.rank, plan.world
            )));
        }
        plan.buffers.iter().try_for_each(|buffer| check_placement(i, buffer))?;
        let arena = DeviceMemory::new(memory.arena_bytes)?;
        ranks.push(RankPlan { plan, memory, arena, events: lowered.events as usize });
    }
    let program = {
        let plans: Vec<&Plan> = ranks.iter().map(|rank| &rank.plan).collect();
        program(&plans, &lowered.iter().collect::<Vec<_>>())?
    };
    let streams = program.streams.iter().map(|&(rank, stream)| Stream::new(priority(&ranks[rank].plan, stream)));
    Ok(Prepared {
        streams: streams.collect::<Result<_>>()?,
        events: (0..program.events).map(|_| Event::new(false)).collect::<Result<_>>()?,
        buffers: ranks.iter().map(|rank| rank.plan.buffers.clone()).collect(),
        program,
        ranks,
        context,
        kernels,
        externals: HashMap::new(),
        options,
    })
}

/// A stream that communicates goes first where both could.
fn priority(plan: &Plan, stream: usize) -> Priority {
    let mine = |op: &OpId| plan.op(*op).stream.0 as usize == stream;
    if plan.op_ids().filter(mine).any(|op| plan.comm(op).is_some()) { Priority::High } else { Priority::Low }
}

impl Prepared {
    /// Registers what an external op enqueues, on every rank.
    pub fn external(&mut self, name: impl Into<String>, call: External) {
        self.externals.insert(name.into(), call);
    }

    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.ranks.len()
    }

    /// The plan of a rank below [`Prepared::world`].
    pub fn plan(&self, rank: usize) -> &Plan {
        &self.ranks[rank].plan
    }

    /// Device address of a rank's temporary, for tests; `None` for a bound buffer.
    #[doc(hidden)]
    pub fn temporary(&self, rank: usize, buffer: BufferId) -> Option<u64> {
        let rank = self.ranks.get(rank)?;
        let offset = rank.memory.offsets.get(buffer.0 as usize).copied().flatten()?;
        Some(rank.arena.address() + offset as u64)
    }

    /// Resolves the program for the addresses of inputs and outputs: `addresses[rank][buffer]`, by
    /// index in [`Plan::buffers`]; temporaries are `None`.
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

    /// True where a kernel may wait inside for its gates.
    pub(super) fn waits_inside(&self) -> bool {
        self.options.gates == Gates::Flags && self.kernels.device().arch == Arch::Sm90
    }
}
