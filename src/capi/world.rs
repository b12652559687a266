//! A prepared world: its executor, what is bound to it, its last report.

use std::sync::{Mutex, MutexGuard, TryLockError};

use super::handle::{Handle, Held};
use super::overlap::{Range, overlapping};
use super::plans::no_rank;
use super::status::{Fault, Outcome};
use crate::exec::{Report, host};
use crate::plan::{Checked, Plan, Role};

/// A world, or one rank of it, that can run.
#[derive(Debug)]
pub struct OfPrepared {
    world: Mutex<World>,
}

/// `seqpar_prepared`.
pub type Prepared = Handle<OfPrepared>;

impl Held for OfPrepared {
    const NAME: &'static str = "seqpar_prepared";
}

/// What a call works on.
#[derive(Debug)]
pub(super) struct World {
    pub(super) executor: Executor,
    pub(super) strategy: &'static str,
    /// Inputs and outputs of each rank that is here, by index; `None` for temporaries.
    pub(super) slots: Vec<Vec<Option<Slot>>>,
    /// Everything is bound, and nothing overlaps what it must not.
    pub(super) is_bound: bool,
    /// A run was enqueued and not finished.
    pub(super) running: bool,
    pub(super) report: Option<Report>,
}

/// Where plans run.
pub(super) enum Executor {
    Host {
        prepared: Box<host::Prepared>,
        /// Of a run that was not finished.
        report: Option<Report>,
    },
    #[cfg(feature = "cuda")]
    Device(Box<super::prepare::on_device::OnDevice>),
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Host { .. } => "host",
            #[cfg(feature = "cuda")]
            Self::Device(_) => "device",
        })
    }
}

/// An input or output, and the memory bound to it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) writes: bool,
    pub(super) bytes: usize,
    pub(super) alignment: usize,
    pub(super) address: Option<usize>,
}

impl OfPrepared {
    /// All ranks of a world.
    pub(super) fn world(plans: &[Checked<Plan>], executor: Executor, strategy: &'static str) -> Self {
        Self::new(plans, |_| true, executor, strategy)
    }

    /// One rank of it.
    #[cfg(feature = "nccl")]
    pub(super) fn one(plans: &[Checked<Plan>], rank: usize, executor: Executor, strategy: &'static str) -> Self {
        Self::new(plans, |of| of == rank, executor, strategy)
    }

    fn new(plans: &[Checked<Plan>], here: impl Fn(usize) -> bool, executor: Executor, strategy: &'static str) -> Self {
        let aligned = match executor {
            Executor::Host { .. } => 1,
            #[cfg(feature = "cuda")]
            Executor::Device(_) => 16,
        };
        let slot = |buffer: &crate::plan::Buffer| {
            (buffer.role != Role::Temp).then(|| Slot {
                name: buffer.name.clone(),
                writes: buffer.role == Role::Output,
                bytes: buffer.bytes(),
                alignment: buffer.dtype.bytes().max(aligned),
                address: None,
            })
        };
        let slots_of = |(rank, plan): (usize, &Checked<Plan>)| match here(rank) {
            true => plan.buffers.iter().map(slot).collect(),
            false => Vec::new(),
        };
        let slots = plans.iter().enumerate().map(slots_of).collect();
        Self { world: Mutex::new(World { executor, strategy, slots, is_bound: false, running: false, report: None }) }
    }

    /// For one call at a time.
    pub(super) fn enter(&self) -> Outcome<MutexGuard<'_, World>> {
        match self.world.try_lock() {
            Ok(world) => Ok(world),
            // A panic was reported; what it left is checked again by the next run.
            Err(TryLockError::Poisoned(world)) => Ok(world.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(Fault::argument("another thread is in a call with this seqpar_prepared: use one thread at a time"))
            }
        }
    }
}

impl World {
    /// The slot of an input or output.
    pub(super) fn slot(&mut self, rank: usize, index: usize) -> Outcome<&mut Slot> {
        let world = self.slots.len();
        let slots = self.slots.get_mut(rank).ok_or_else(|| no_rank(rank, world))?;
        let buffers = slots.len();
        if buffers == 0 {
            return Err(Fault::argument(format!("rank {rank} is not here: bind the buffers of this rank")));
        }
        let slot = slots
            .get_mut(index)
            .ok_or_else(|| Fault::argument(format!("buffer {index} of rank {rank}: it has {buffers}")))?;
        slot.as_mut().ok_or_else(|| {
            Fault::argument(format!("buffer {index} of rank {rank} is a temporary: bind inputs and outputs"))
        })
    }

    /// Refuses what is not bound, and outputs that overlap something.
    pub(super) fn check_bound(&mut self) -> Outcome {
        if !self.is_bound {
            self.check_slots()?;
            self.is_bound = true;
        }
        Ok(())
    }

    fn check_slots(&self) -> Outcome {
        let unbound = |why: String| Fault::Crate(crate::Error::Bind(why));
        let mut ranges = Vec::new();
        for (rank, slots) in self.slots.iter().enumerate() {
            for slot in slots.iter().flatten() {
                let Some(begin) = slot.address else {
                    return Err(unbound(format!("buffer {} of rank {rank} is not bound: call seqpar_bind", slot.name)));
                };
                if slot.bytes > 0 {
                    ranges.push(Range {
                        begin,
                        end: begin + slot.bytes,
                        writes: slot.writes,
                        of: (slot.name.as_str(), rank),
                    });
                }
            }
        }
        match overlapping(ranges) {
            None => Ok(()),
            Some(((a, of_a), (b, of_b))) => Err(unbound(format!(
                "buffers {a} of rank {of_a} and {b} of rank {of_b} overlap, and one is an output: give it memory of its own"
            ))),
        }
    }
}
