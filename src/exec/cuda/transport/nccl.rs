//! One rank's communicators: that of the world, and one for each group of the plans.
//!
//! Groups get communicators of their own, split off by all ranks in the order of their
//! [`Agreement`]: two ranks of a small group have more channels between them than two of the world.
//! All of them are one family, and fail together. Plans that are prepared later share what is
//! there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::in_flight::{InFlight, Place};
use super::{OpenOp, Transport};
use crate::comm::nccl::{AbortHandle, Communicator, Config, Group, abort_all};
use crate::comm::watchdog::{Watch, Watchdog};
use crate::error::{Error, Result};
use crate::exec::cuda::agreement::Agreement;
use crate::exec::cuda::options::CudaOptions;
use crate::plan::lower::Gates;
use crate::plan::{Checked, Plan};

/// One rank's communicators, for all plans that it prepares.
#[derive(Clone)]
pub struct Nccl {
    rank: usize,
    world: usize,
    family: Arc<Mutex<Family>>,
    aborts: Arc<Mutex<Vec<AbortHandle>>>,
    in_flight: Arc<Mutex<InFlight>>,
}

struct Family {
    /// With their ranks, in group order; the world's first.
    members: Vec<(Vec<u32>, Communicator)>,
    /// All groups that were split off, this rank's or not.
    known: BTreeSet<Vec<u32>>,
    /// Of the first members, in their order.
    watches: Vec<Watch>,
}

impl Nccl {
    /// From the communicator of all ranks, whose ranks are those of the plans.
    pub fn new(world: Communicator) -> Self {
        let ranks: Vec<u32> = (0..world.world() as u32).collect();
        let in_flight = Arc::<Mutex<InFlight>>::default();
        let stopped = in_flight.clone();
        world.at_failure(move || lock(&stopped).stop());
        Self {
            in_flight,
            rank: world.rank(),
            world: world.world(),
            aborts: Arc::new(Mutex::new(vec![world.abort_handle()])),
            family: Arc::new(Mutex::new(Family {
                known: BTreeSet::from([ranks.clone()]),
                members: vec![(ranks, world)],
                watches: Vec::new(),
            })),
        }
    }

    /// What [`super::super::prepare_rank`] needs to run one of `plans`, which are those of all ranks, in
    /// order. Splits off the communicators that are missing, so all ranks call it, with the same
    /// arguments.
    ///
    /// `native_sums`: the library's own reductions, where they fit, instead of ours in group order;
    /// bits then differ between transports and between worlds (R2 instead of R1).
    ///
    /// # Errors
    /// Plans of another world, and what NCCL says.
    pub fn transport(
        &self,
        plans: &[Checked<Plan>],
        native_sums: bool,
        config: &Config,
        deadline: Duration,
    ) -> Result<Transport> {
        if plans.len() != self.world {
            return Err(Error::Mesh(format!(
                "the plans of {} ranks for a communicator of {}",
                plans.len(),
                self.world
            )));
        }
        let agreement = Agreement::of(plans, native_sums)?;
        let mut family = self.family();
        let missing: Vec<Vec<u32>> = agreement.groups.difference(&family.known).cloned().collect();
        for round in Agreement::rounds(missing) {
            self.split(&mut family, round, config, deadline)?;
        }
        drop(family);
        Ok(Transport::Nccl(Agreed { nccl: self.clone(), agreement }))
    }

    /// Ends the communicators, once all work is done, together with all other ranks. When this returns
    /// they have ended, unless the failure is [`crate::error::FailureKind::Unrecoverable`].
    ///
    /// # Errors
    /// A plan that still uses them, and what NCCL says.
    pub fn finalize(self, deadline: Duration) -> Result<()> {
        let handles = self.abort_handles();
        let family = Arc::try_unwrap(self.family).map_err(|_| {
            Error::Unsupported("communicators that a prepared plan still uses: drop the plan before".into())
        })?;
        let mut family = family.into_inner().unwrap_or_else(PoisonError::into_inner);
        let healthy = family.members.iter().try_for_each(|(_, communicator)| communicator.async_error());
        // The parent last.
        let mut members = std::mem::take(&mut family.members).into_iter().rev();
        let finalize = |(_, communicator): (_, Communicator)| communicator.finalize(deadline);
        let finalized = healthy.and_then(|()| members.try_for_each(finalize));
        match finalized {
            // All at once; and who is told of an end may release what NCCL used.
            Err(error) if handles.iter().all(|handle| handle.unrecoverable().is_none()) => {
                Err(abort_all(&handles, "its family has failed").err().unwrap_or(error))
            }
            finalized => finalized,
        }
    }

    /// Has a watchdog watch all communicators that are there and not watched yet; call it again when
    /// [`Nccl::transport`] has made more. A run then fails with what the watchdog says, which names
    /// the culprits. What an op's stream tells of its end counts, whether its run is finished or not; give
    /// the watchdog a deadline below [`CudaOptions::deadline`]. What a graph replays is not on record;
    /// lost ranks are noticed all the same.
    ///
    /// # Errors
    /// A communicator that is watched already.
    pub fn watch(&self, watchdog: &Watchdog) -> Result<()> {
        let family = &mut *self.family();
        for (index, (ranks, communicator)) in family.members.iter().enumerate().skip(family.watches.len()) {
            let members: Vec<usize> = ranks.iter().map(|&rank| rank as usize).collect();
            let in_flight = self.in_flight.clone();
            family.watches.push(communicator.watch(watchdog, &members, move || lock(&in_flight).ended(index))?);
        }
        Ok(())
    }

    /// For watchdogs: one a communicator.
    pub fn abort_handles(&self) -> Vec<AbortHandle> {
        lock(&self.aborts).clone()
    }

    fn split(&self, family: &mut Family, round: Vec<Vec<u32>>, config: &Config, deadline: Duration) -> Result<()> {
        let place = |group: &Vec<u32>| group.iter().position(|&rank| rank as usize == self.rank);
        let mine = round.iter().enumerate().find_map(|(color, group)| Some((color, group, place(group)?)));
        let (color, key) = mine.map_or((None, 0), |(color, _, place)| (Some(color as u32), place as u32));
        let name = mine.map_or_else(String::new, |(_, group, _)| format!("group {group:?}"));
        let config = Config { name, ..config.clone() };
        let Some((_, parent)) = family.members.first_mut() else { return Ok(()) };
        let part = parent.split(color, key, &config, deadline)?;
        if let (Some(part), Some((_, group, _))) = (part, mine) {
            lock(&self.aborts).push(part.abort_handle());
            family.members.push((group.clone(), part));
        }
        family.known.extend(round);
        Ok(())
    }

    fn family(&self) -> MutexGuard<'_, Family> {
        lock(&self.family)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Family {
    fn drop(&mut self) {
        self.watches.iter().for_each(Watch::close);
    }
}

/// The communicators of one rank, and what all ranks agreed on for a world of plans.
pub struct Agreed {
    nccl: Nccl,
    agreement: Agreement,
}

impl Agreed {
    pub(super) fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    pub(super) fn fits(&self, plan: &Plan, options: &CudaOptions) -> Result<()> {
        let (rank, world) = (plan.rank as usize, plan.world as usize);
        if (rank, world) != (self.nccl.rank, self.nccl.world) {
            return Err(Error::Mesh(format!(
                "the plan of rank {rank} of {world} on the communicator of rank {} of {}",
                self.nccl.rank, self.nccl.world
            )));
        }
        // A waiting kernel that fills the device leaves no SM to the one that opens its gate.
        if options.gates == Gates::Flags && options.sms.is_none() {
            return Err(Error::Unsupported(
                "gates as flags over NCCL, whose kernels need SMs: leave it some with sms, or make gates events".into(),
            ));
        }
        Ok(())
    }

    pub(super) fn communicator(&self, group: &[u32]) -> Option<usize> {
        self.nccl.family().members.iter().position(|(ranks, _)| ranks == group)
    }

    pub(super) fn first_open(&self) -> Option<OpenOp> {
        let Place { label, group } = self.in_flight().first_open()?;
        let family = self.nccl.family();
        let name = |(of, _): (usize, u64)| Some(family.members.get(of)?.1.status().comm().to_string());
        let comm = group.and_then(name).unwrap_or_default();
        Some(OpenOp { op: label, comm, seq: group.map(|(_, seq)| seq) })
    }

    /// One group on the communicator of that index.
    pub(in crate::exec::cuda) fn group(
        &self,
        communicator: usize,
        label: &str,
        body: impl FnOnce(&mut Group<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut family = self.nccl.family();
        match family.members.get_mut(communicator) {
            Some((_, communicator)) => communicator.group(label, body),
            None => Err(Error::Unsupported(format!("op \"{label}\": no communicator {communicator}"))),
        }
    }

    pub(super) fn health(&self) -> Result<()> {
        let family = self.nccl.family();
        family.watches.iter().try_for_each(Watch::check)?;
        family.members.iter().try_for_each(|(_, communicator)| communicator.async_error())
    }

    /// Fails once a communicator was aborted.
    pub(super) fn is_whole(&self) -> Result<()> {
        let was_aborted = self.nccl.abort_handles().iter().any(|handle| handle.has_ended());
        if was_aborted { self.health() } else { Ok(()) }
    }

    /// Number of groups that each communicator has issued.
    pub(super) fn issued(&self) -> Vec<u64> {
        let family = self.nccl.family();
        let issued =
            |(_, communicator): &(_, Communicator)| communicator.status().last(|op| op.map_or(0, |op| op.seq + 1));
        family.members.iter().map(issued).collect()
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        lock(&self.nccl.in_flight)
    }

    pub(super) fn abort(&self, why: &str) -> Result<()> {
        abort_all(&self.nccl.abort_handles(), why)
    }
}

impl std::fmt::Debug for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agreed").field("rank", &self.nccl.rank).field("agreement", &self.agreement).finish()
    }
}
