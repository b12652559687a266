//! The runs of one rank's communicators that are not known to have ended, in the order in which they
//! were begun, for whoever asks from another thread.

use std::sync::Arc;

use crate::exec::cuda::progress::Progress;

#[derive(Default)]
pub(super) struct InFlight {
    runs: Vec<Run>,
    /// Number of groups that have ended, by communicator.
    ended: Vec<u64>,
    /// Where the runs stood when they were about to be aborted: streams go on over aborted work.
    stopped: Option<Option<Place>>,
}

struct Run {
    progress: Arc<Progress>,
    /// Among the runs of `progress`.
    number: u32,
    /// Number of its first group, by communicator.
    first: Vec<u64>,
}

/// A communication that has not ended.
#[derive(Clone)]
pub(super) struct Place {
    /// Of its op.
    pub(super) label: String,
    /// Communicator and number of its first group, if it has any here.
    pub(super) group: Option<(usize, u64)>,
}

impl InFlight {
    /// A run begins, on communicators that have issued so many groups.
    pub(super) fn begin(&mut self, progress: &Arc<Progress>, number: u32, issued: Vec<u64>) {
        self.look();
        self.ended.resize(issued.len().max(self.ended.len()), 0);
        let is_known = |run: &Run| Arc::ptr_eq(&run.progress, progress);
        if progress.is_graph() && self.runs.iter().any(is_known) {
            return;
        }
        let first = progress.first_groups(issued);
        self.runs.push(Run { progress: progress.clone(), number, first });
    }

    /// Forgets the runs of `progress`.
    pub(super) fn let_go(&mut self, progress: &Arc<Progress>) {
        self.look();
        self.runs.retain(|run| !Arc::ptr_eq(&run.progress, progress));
    }

    /// Number of groups of a communicator that the device is known to be done with.
    pub(super) fn ended(&mut self, communicator: usize) -> u64 {
        self.look();
        self.ended.get(communicator).copied().unwrap_or(0)
    }

    /// The first communication of all runs that has not ended, or had not when they were stopped.
    pub(super) fn first_open(&self) -> Option<Place> {
        self.stopped.clone().unwrap_or_else(|| self.runs.iter().find_map(Run::open))
    }

    /// What is in flight is about to be aborted.
    pub(super) fn stop(&mut self) {
        self.look();
        self.stopped = Some(self.first_open());
    }

    /// A communicator ends its groups in their order: the largest number counts.
    fn look(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        for run in &self.runs {
            for (communicator, (ended, first)) in self.ended.iter_mut().zip(&run.first).enumerate() {
                *ended = (*ended).max(first + run.progress.groups_ended(communicator, run.number));
            }
        }
        // The words of a graph may be those of the run before: only who waits for its end knows.
        self.runs.retain(|run| run.progress.is_graph() || !run.progress.is_over(run.number));
    }
}

impl Run {
    fn open(&self) -> Option<Place> {
        let open = self.progress.open(self.number)?;
        let group = open.group.and_then(|(of, before)| Some((of, self.first.get(of)? + before)));
        Some(Place { label: open.label.clone(), group })
    }
}
