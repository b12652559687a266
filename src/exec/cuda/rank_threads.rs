//! Ranks as threads of one process, each with a device of its own: the short way to run a world over
//! NCCL where no launcher is wanted, for tests, examples and one machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::kernels::Kernels;
use super::options::CudaOptions;
use super::prepared::prepare_rank_lowered;
use super::tensors::{Outputs, check_names, gathered, run_local};
use super::transport::Nccl;
use crate::comm::nccl::{AbortHandle, Communicator, Config, Library, UniqueId, abort_all};
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
        });
        let devices: Vec<_> = devices.into_iter().collect::<Result<_>>()?;
        let id = self.library.unique_id()?;
        let failed = Arc::<Failed>::default();
        let run = |rank: usize| {
            let ready = devices[rank].lock().unwrap_or_else(PoisonError::into_inner).take();
            let (mut held, context, kernels) =
                ready.ok_or_else(|| Error::Unsupported("a rank that ran before".into()))?;
            held.bind()?;
            let guard = Guard { failed: &failed, rank };
            let mut handles = Vec::new();
            let inputs = Inputs { plans, lowered: &lowered[rank], tensors: inputs, times };
            let result = self.run_rank((context, kernels), &id, rank, &inputs, &failed, &mut handles);
            std::mem::forget(guard);
            if result.is_err() {
                failed.by(rank);
                // While the context is held; others may be at it, behind our back.
                if let Err(stuck) = abort_all(&handles, "its rank has failed") {
                    log::error!("{stuck}");
                }
            }
            if let Err(Error::Between(failure)) = &result
                && matches!(failure.kind, FailureKind::Unrecoverable { .. })
            {
                held.leave();
            }
            result
        };
        let mut done = std::thread::scope(|scope| {
            let abort = std::thread::Builder::new().name("abort".into()).spawn_scoped(scope, || failed.abort_all());
            let done = abort.map(|_| each(world, run)).map_err(|error| no_thread(0, &error));
            failed.over();
            done
        })?;
        if let Some(first) = failed.first().filter(|&first| done[first].is_err()) {
            done.swap(0, first);
        }
        let done = done.into_iter().collect::<Result<Vec<_>>>()?;
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
        failed: &Arc<Failed>,
        handles: &mut Vec<AbortHandle>,
    ) -> Result<(Outputs, Report)> {
        let Inputs { plans, lowered, tensors, times } = *inputs;
        let world = Communicator::new(self.library, id, rank, plans.len(), self.config, self.deadline)?;
        let told = failed.clone();
        world.at_failure(move || told.by(rank));
        let nccl = Nccl::new(world);
        *handles = nccl.abort_handles();
        failed.watch(handles);
        let transport = nccl.transport(plans, self.native_sums, self.config, self.deadline);
        *handles = nccl.abort_handles();
        failed.watch(handles);
        let transport = transport?;
        let (plan, options) = (plans[rank].clone(), self.options.clone());
        let prepared = prepare_rank_lowered(context, kernels, plan, lowered.clone(), transport, options)?;
        let done = run_local(&prepared, tensors, times)?;
        drop(prepared);
        nccl.finalize(self.deadline)?;
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
fn each<T: Send>(ranks: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Vec<Result<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let start = |rank: usize| {
            let thread = std::thread::Builder::new().name(format!("rank {rank}"));
            thread.spawn_scoped(scope, move || work(rank)).map_err(|error| no_thread(rank, &error))
        };
        let threads: Vec<_> = (0..ranks).map(start).collect();
        let join = |(rank, thread): (usize, Result<std::thread::ScopedJoinHandle<'_, Result<T>>>)| {
            let panicked = || Error::Rank { rank, op: "run".into(), why: "its thread panicked".into() };
            thread?.join().unwrap_or_else(|_| Err(panicked()))
        };
        threads.into_iter().enumerate().map(join).collect()
    })
}

fn no_thread(rank: usize, error: &std::io::Error) -> Error {
    Error::Rank { rank, op: "start".into(), why: format!("no thread for a rank: {error}; use fewer ranks") }
}

/// The first rank that failed, and how to end the others.
#[derive(Default)]
struct Failed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    first: Option<usize>,
    /// Of ranks under way.
    handles: Vec<AbortHandle>,
    is_over: bool,
}

impl Failed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> Option<usize> {
        self.state().first
    }

    /// Has these aborted when a rank fails.
    fn watch(&self, handles: &[AbortHandle]) {
        self.state().handles.extend_from_slice(handles);
        self.changed.notify_all();
    }

    /// A rank has failed, and may wait in its own abort for the others to be aborted too.
    fn by(&self, rank: usize) {
        self.state().first.get_or_insert(rank);
        self.changed.notify_all();
    }

    fn over(&self) {
        self.state().is_over = true;
        self.changed.notify_all();
    }

    /// Aborts all ranks once one has failed, until all are over.
    fn abort_all(&self) {
        let mut state = self.state();
        while !state.is_over {
            let handles = if state.first.is_some() { std::mem::take(&mut state.handles) } else { Vec::new() };
            if handles.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let why = format!("rank {} has failed", state.first.unwrap_or_default());
            drop(state);
            if let Err(stuck) = abort_all(&handles, &why) {
                log::error!("{stuck}");
            }
            state = self.state();
        }
    }
}

/// Dropped where a rank panics.
struct Guard<'a> {
    failed: &'a Failed,
    rank: usize,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.failed.by(self.rank);
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
