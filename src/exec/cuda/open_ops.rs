//! Which ops of a run have not ended, as far as its events say: asked where a run takes long, so that
//! an error can name them.
//!
//! An event says that everything before it on its stream has ended. Between the last such one and the
//! next, the first op is named: it may have ended too. A run that is timed has an event behind every
//! op. Of the ops of a graph nothing is known: its events are edges, and those that keep the time may
//! be the launch's before. Test: `tests/cuda_runs.rs`.

use super::bound::Bound;
use super::enqueue::op_of;
use super::resolve::Call;
use crate::cuda::Event;
use crate::plan::OpId;

/// How far the streams of a run are known to have come.
pub(super) struct OpenOps<'a, 'p> {
    bound: &'a Bound<'p>,
    /// Made when first asked.
    streams: Option<Vec<Stream>>,
}

/// One stream.
struct Stream {
    /// Its calls, by place in [`Bound::calls`].
    calls: Vec<usize>,
    /// How many of them are behind its work, as far as is known.
    passed: usize,
    /// The first of them that may not have ended.
    open: Option<usize>,
}

impl<'a, 'p> OpenOps<'a, 'p> {
    pub(super) fn new(bound: &'a Bound<'p>) -> Self {
        Self { bound, streams: None }
    }

    /// Asks the events.
    pub(super) fn look(&mut self) {
        let bound = self.bound;
        if bound.prepared.options.graph {
            return;
        }
        let streams = self.streams.get_or_insert_with(|| {
            let mut streams: Vec<Stream> =
                bound.joins.iter().map(|_| Stream { calls: Vec::new(), passed: 0, open: None }).collect();
            bound.calls.iter().enumerate().for_each(|(at, call)| streams[call.stream].calls.push(at));
            streams
        });
        for (stream, join) in streams.iter_mut().zip(&bound.joins) {
            stream.look(bound);
            if stream.passed == stream.calls.len() && is_done(join) {
                stream.open = None;
            }
        }
    }

    /// Rank and op of the first in plan order that may not have ended.
    pub(super) fn first(&self) -> Option<(usize, OpId)> {
        self.ops().map(|(rank, op, _)| (rank, op)).min_by_key(|&(rank, op)| (op, rank))
    }

    /// One of each stream that may not have ended, in words; `None` if there is none.
    pub(super) fn text(&self) -> Option<String> {
        let named = |(rank, op, stream): (usize, OpId, usize)| {
            let plan = &self.bound.prepared.rank(rank).plan;
            let own = self.bound.prepared.program.streams[stream].1;
            let name = plan.streams.get(own).map_or("", String::as_str);
            format!("op \"{}\" of rank {rank} on stream \"{name}\"", plan.label(op))
        };
        let list: Vec<String> = self.ops().map(named).collect();
        (!list.is_empty()).then(|| list.join(", "))
    }

    fn ops(&self) -> impl Iterator<Item = (usize, OpId, usize)> + '_ {
        let calls = &self.bound.calls;
        let open = self.streams.iter().flatten().filter_map(|stream| stream.open);
        open.filter_map(|at| op_of(calls, at).map(|(rank, op)| (rank, op, calls[at].stream)))
    }
}

impl Stream {
    /// Goes on to the first event that has not come.
    fn look(&mut self, bound: &Bound<'_>) {
        while let Some(&at) = self.calls.get(self.passed) {
            match bound.calls[at].call {
                Call::Wait(event) if !is_done(&bound.prepared.events[event]) => return,
                Call::Record(event) if !is_done(&bound.prepared.events[event]) => return,
                Call::End(timer) if !is_done(&bound.timers[timer].1) => return,
                Call::Record(_) | Call::End(_) => self.open = None,
                Call::Wait(_) | Call::Begin(_) | Call::Tell { .. } => {}
                _ => self.open = self.open.or(Some(at)),
            }
            self.passed += 1;
        }
    }
}

/// A failure says nothing of the event.
fn is_done(event: &Event) -> bool {
    matches!(event.is_done(), Ok(true))
}
