//! Ranks as threads of one process, each with a device of its own: the short way to run a world over
//! NCCL where no launcher is wanted, for tests, examples and one machine.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::kernels::Kernels;
use super::options::CudaOptions;
use super::prepared::prepare_rank_lowered;
use super::tensors::{Outputs, check_names, gathered, run_local};
use super::transport::Nccl;
use crate::comm::nccl::{AbortHandle, Communicator, Config, Library, UniqueId};
use crate::cuda::Context;
use crate::error::{Error, FailureKind, Result};
use crate::exec::{HostTensor, Report};
use crate::plan::lower::Lowered;
use crate::plan::{Buffer, Checked, Plan};

/// How ranks come to their devices and to each other.
#[derive(Clone, Copy)]
pub struct RankThreads<'a> {
    /// NCCL.
    pub library: &'a Library,
    /// Ordinal of each rank's device, no two alike.
    pub devices: &'a [i32],
    /// Loads the kernels of a device whose context is current: [`Kernels::embedded`].
    pub kernels: &'a (dyn Fn(&Context) -> Result<Kernels> + Sync),
    /// How a rank runs.
    pub options: &'a CudaOptions,
    /// What to ask of the communicators.
    pub config: &'a Config,
    /// See [`Nccl::transport`].
    pub native_sums: bool,
    /// Longest time until all communicators are there, and until they have ended.
    pub deadline: Duration,
}

impl RankThreads<'_> {
    /// Scatters `inputs`, runs the plans of all ranks `times` times, and gathers the outputs of the
    /// last run. Times in the report count from the start of each rank's own run.
    ///
    /// # Errors
    /// The first failure of any rank; the others are aborted. Otherwise as
    /// [`super::run_tensors`].
    pub fn run_tensors(
        &self,
        plans: &[Checked<Plan>],
        inputs: &BTreeMap<String, HostTensor>,
        times: usize,
    ) -> Result<(BTreeMap<String, HostTensor>, Report)> {
        let lowered: Vec<Lowered> = plans.iter().map(|plan| plan.lowered(self.options.gates)).collect();
        self.run_lowered(plans, &lowered, inputs, times)
    }

    /// [`RankThreads::run_tensors`] with lowered forms that nothing holds to the law, so that tests
    /// can drop a wait.
    #[doc(hidden)]
    pub fn run_lowered(
        &self,
        plans: &[Checked<Plan>],
        lowered: &[Lowered],
        inputs: &BTreeMap<String, HostTensor>,
        times: usize,
    ) -> Result<(BTreeMap<String, HostTensor>, Report)> {
        let world = plans.len();
        if self.devices.len() != world || lowered.len() != world {
            return Err(Error::Mesh(format!("{} devices for {world} ranks: one each", self.devices.len())));
        }
        let buffers: Vec<Vec<Buffer>> = plans.iter().map(|plan| plan.buffers.clone()).collect();
        check_names(&buffers, inputs)?;
        // What can fail without the others comes first: nobody waits for a rank that never comes.
        let devices = each(world, |rank| {
            let held = Context::primary(self.devices[rank])?;
            let context = Context::primary(self.devices[rank])?;
            let kernels = (self.kernels)(&context)?;
            Ok(Mutex::new(Some((held, context, kernels))))
        })?;
        let id = self.library.unique_id()?;
        let failed = Failed::default();
        let done = each(world, |rank| {
            let ready = devices[rank].lock().unwrap_or_else(PoisonError::into_inner).take();
            let (mut held, context, kernels) =
                ready.ok_or_else(|| Error::Unsupported("a rank that ran before".into()))?;
            held.bind()?;
            let guard = Guard { failed: &failed, rank };
            let mut family = None;
            let inputs = Inputs { plans, lowered: &lowered[rank], tensors: inputs, times };
            let result = self.run_rank((context, kernels), &id, rank, &inputs, &failed, &mut family);
            // Aborted while the context is held: a drop would do it behind our back.
            let result = result.map_err(|error| failed.by(error));
            std::mem::forget(guard);
            if let Err(Error::Between(failure)) = &result
                && matches!(failure.kind, FailureKind::Unrecoverable { .. })
            {
                held.leave();
            }
            result
        });
        let done = done.map_err(|error| failed.first().unwrap_or(error))?;
        let (outputs, reports): (Vec<Outputs>, Vec<Report>) = done.into_iter().unzip();
        let outputs: Outputs = outputs.into_iter().flatten().collect();
        Ok((gathered(&buffers, &outputs)?, merged(reports)))
    }

    fn run_rank(
        &self,
        (context, kernels): (Context, Kernels),
        id: &UniqueId,
        rank: usize,
        inputs: &Inputs<'_>,
        failed: &Failed,
        family: &mut Option<Nccl>,
    ) -> Result<(Outputs, Report)> {
        let Inputs { plans, lowered, tensors, times } = *inputs;
        let nccl = Nccl::new(Communicator::new(self.library, id, rank, plans.len(), self.config, self.deadline)?);
        let nccl = family.insert(nccl);
        failed.watch(nccl.abort_handles())?;
        let transport = nccl.transport(plans, self.native_sums, self.config, self.deadline)?;
        failed.watch(nccl.abort_handles())?;
        let (plan, options) = (plans[rank].clone(), self.options.clone());
        let prepared = prepare_rank_lowered(context, kernels, plan, lowered.clone(), transport, options)?;
        let done = run_local(&prepared, tensors, times)?;
        drop(prepared);
        family.take().map_or(Ok(()), |nccl| nccl.finalize(self.deadline))?;
        Ok(done)
    }
}

/// What every rank is given.
struct Inputs<'a> {
    plans: &'a [Checked<Plan>],
    lowered: &'a Lowered,
    tensors: &'a BTreeMap<String, HostTensor>,
    times: usize,
}

/// Runs `work` for every rank on a thread of its own; all have ended when it returns.
fn each<T: Send>(ranks: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let mut threads = Vec::new();
        for rank in 0..ranks {
            let thread = std::thread::Builder::new().name(format!("rank {rank}"));
            threads.push(thread.spawn_scoped(scope, move || work(rank)).map_err(|error| Error::Rank {
                rank,
                op: "start".into(),
                why: format!("no thread for a rank: {error}; use fewer ranks"),
            }));
        }
        let join = |(rank, thread): (usize, Result<std::thread::ScopedJoinHandle<'_, Result<T>>>)| {
            let panicked = || Error::Rank { rank, op: "run".into(), why: "its thread panicked".into() };
            thread?.join().unwrap_or_else(|_| Err(panicked()))
        };
        let results: Vec<Result<T>> = threads.into_iter().enumerate().map(join).collect();
        results.into_iter().collect()
    })
}

/// The first failure of any rank, and how to end the others.
#[derive(Default)]
struct Failed {
    first: Mutex<Option<Error>>,
    handles: Mutex<Vec<AbortHandle>>,
}

impl Failed {
    fn first(&self) -> Option<Error> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has these aborted when a rank fails.
    fn watch(&self, handles: Vec<AbortHandle>) -> Result<()> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).extend(handles);
        self.first().map_or(Ok(()), Err)
    }

    fn by(&self, error: Error) -> Error {
        let first = {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error.clone()).clone()
        };
        let handles: Vec<AbortHandle> = self.handles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for handle in handles {
            if let Err(stuck) = handle.abort(&first.to_string()) {
                log::error!("{stuck}");
            }
        }
        error
    }
}

/// Dropped where a rank panics.
struct Guard<'a> {
    failed: &'a Failed,
    rank: usize,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let why = "its thread panicked".to_string();
        self.failed.by(Error::Rank { rank: self.rank, op: "run".into(), why });
    }
}

/// The report of a world, of those of its ranks.
fn merged(reports: Vec<Report>) -> Report {
    let mut whole = Report::default();
    for (rank, report) in reports.into_iter().enumerate() {
        whole.streams.extend(report.streams.into_iter().nth(rank));
        whole.bytes_sent.extend(report.bytes_sent.get(rank));
        whole.peak_bytes.extend(report.peak_bytes.get(rank));
        whole.spans.extend(report.spans);
        whole.wall_ns = whole.wall_ns.max(report.wall_ns);
    }
    whole
}
