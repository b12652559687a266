//! A world, or one rank of it, on a device. What is bound borrows what is prepared: both live in one
//! value, which frees them in order.

use super::super::abi::CudaOptions;
use super::super::device::{Cuda, enter, entered};
use super::super::status::Outcome;
use super::super::tensor::flag;
use super::super::world::Slot;
use super::deadline;
use crate::cuda::{Context, Stream};
use crate::exec::Report;
use crate::exec::cuda::{self, Bound, Prepared};
use crate::plan::lower::Gates;
use crate::plan::{Checked, Plan};

/// What is prepared, and its last binding.
pub(crate) struct OnDevice {
    /// Borrows `prepared`.
    bound: Option<Bound<'static>>,
    /// From `Box::into_raw`, freed in drop.
    prepared: *mut Prepared,
    context: Context,
}

// SAFETY: the pointer owns what it points to; that and what borrows it may go to another thread, as
// the line below has the compiler say.
unsafe impl Send for OnDevice {}
const _: fn(Prepared, Bound<'static>) = {
    fn may_go<A: Send, B: Send>(_: A, _: B) {}
    may_go::<Prepared, Bound<'static>>
};

impl OnDevice {
    /// All ranks.
    pub(crate) fn loopback(cuda: &Cuda, plans: &[Checked<Plan>], given: Option<CudaOptions>) -> Outcome<Self> {
        cuda.enter()?;
        let options = options(cuda, given)?;
        let prepared = cuda::prepare(cuda.context.borrowed(), cuda.kernels.clone(), plans.to_vec(), options)?;
        Ok(Self::new(cuda, prepared))
    }

    /// One rank, by a transport to the others.
    #[cfg(feature = "nccl")]
    pub(crate) fn rank(
        cuda: &Cuda,
        plan: Checked<Plan>,
        transport: cuda::Transport,
        options: cuda::CudaOptions,
    ) -> Outcome<Self> {
        let prepared = cuda::prepare_rank(cuda.context.borrowed(), cuda.kernels.clone(), plan, transport, options)?;
        Ok(Self::new(cuda, prepared))
    }

    fn new(cuda: &Cuda, prepared: Prepared) -> Self {
        Self { bound: None, prepared: Box::into_raw(Box::new(prepared)), context: cuda.context.borrowed() }
    }

    /// Forgets the addresses that the program was resolved for.
    pub(crate) fn unbind(&mut self) -> Outcome {
        enter(&self.context)?;
        self.bound = None;
        Ok(())
    }

    /// Enqueues a run on a stream of the caller.
    pub(crate) fn run(&mut self, slots: &[Vec<Option<Slot>>], stream: u64) -> Outcome {
        enter(&self.context)?;
        let bound = match &mut self.bound {
            Some(bound) => bound,
            None => {
                let address = |slot: &Option<Slot>| slot.as_ref().and_then(|slot| slot.address).map(|a| a as u64);
                // Ranks that are elsewhere have no slots.
                let here = slots.iter().filter(|list| !list.is_empty());
                let addresses: Vec<Vec<Option<u64>>> = here.map(|list| list.iter().map(address).collect()).collect();
                // SAFETY: `prepared` is alive until drop, which drops `bound` before it.
                let prepared: &'static Prepared = unsafe { &*self.prepared };
                // SAFETY: the caller keeps what he bound alive and to himself, as the header asks;
                // sizes, alignment and overlaps were checked.
                self.bound.insert(unsafe { prepared.bind(&addresses) }?)
            }
        };
        // SAFETY: a stream of the current context, by the caller's promise, during this call.
        let stream = unsafe { Stream::borrowed(stream) };
        Ok(bound.run(&stream)?)
    }

    /// Waits for the last run.
    pub(crate) fn finish(&mut self) -> Outcome<Option<Report>> {
        enter(&self.context)?;
        Ok(self.bound.as_mut().map(Bound::finish).transpose()?)
    }

    /// Whether the device has let go of what is bound.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.bound.as_ref().is_none_or(Bound::is_at_rest)
    }
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        let _current = entered(&self.context);
        self.bound = None;
        // SAFETY: from `Box::into_raw`, and nothing borrows it any more.
        drop(unsafe { Box::from_raw(self.prepared) });
    }
}

/// As given, and what the kernels were told.
pub(crate) fn options(cuda: &Cuda, given: Option<CudaOptions>) -> Outcome<cuda::CudaOptions> {
    let mut options = cuda::CudaOptions { sms: cuda.sms, ..cuda::CudaOptions::default() };
    if let Some(given) = given {
        if flag(given.gates_as_flags, "gates_as_flags")? {
            options.gates = Gates::Flags;
        }
        options.graph = flag(given.graph, "graph")?;
        options.timed = flag(given.timed, "timed")?;
        options.poison = flag(given.poison, "poison")?;
        options.deadline = deadline(given.deadline_ms);
    }
    Ok(options)
}
