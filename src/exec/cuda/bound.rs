use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::enqueue::{enqueue, launch_graph, op_of};
use super::link::Ports;
use super::memory::Addresses;
use super::prepared::Prepared;
use super::progress::Progress;
use super::ranges::Ranges;
use super::resolve::{Call, Home, Resolved, Resolver, Timed};
use super::transport::Wires;
use crate::cuda::{DeviceMemory, Event, Graph, PinnedMemory, Priority, Staging, Stream, capture};
use crate::error::{Error, Result};
use crate::plan::OpId;

/// Bytes of a `SeqparStatus`.
pub(super) const STATUS_BYTES: usize = 16;

/// Most bytes of a slot of pinned memory: copies of that size reach most of a PCIe link's rate.
const SLOT_BYTES: usize = 4 << 20;

/// A world, or a rank of it, with its addresses: runs again and again.
pub struct Bound<'a> {
    /// What a profiler is told.
    pub(super) ranges: Option<Ranges>,
    // Before what its work touches.
    pub(super) graph: Option<Graph>,
    pub(super) prepared: &'a Prepared,
    pub(super) calls: Vec<Resolved>,
    pub(super) timers: Vec<(Event, Event)>,
    pub(super) timed: Vec<Timed>,
    pub(super) flags: DeviceMemory,
    /// Fork of the streams from the caller's, and their joins.
    pub(super) fork: Event,
    pub(super) joins: Vec<Event>,
    pub(super) start: Event,
    pub(super) end: Arc<Event>,
    pub(super) state: State,
    /// What kernels say of gates that did not open, by op; offset of each rank's first.
    pub(super) status: PinnedMemory,
    pub(super) first_status: Vec<usize>,
    /// Of its communications, also for who watches them.
    pub(super) progress: Arc<Progress>,
    pub(super) bytes_sent: Vec<u64>,
    /// Before the scratch that peers write.
    wires: Wires,
    pub(super) ports: Option<Ports>,
    pub(super) stagings: Vec<Staging>,
    scratch: Vec<DeviceMemory>,
}

/// What is known of the last run.
#[derive(Debug)]
pub(super) enum State {
    /// There was none.
    Idle,
    /// It was enqueued.
    UnderWay,
    /// It was waited for, until its end or until its deadline.
    Waited,
    /// It was not enqueued whole.
    Failed(Error),
}

impl<'a> Bound<'a> {
    pub(super) fn new(prepared: &'a Prepared, addresses: &[Vec<Option<u64>>]) -> Result<Self> {
        let flag_count: usize = prepared.ranks.iter().map(|rank| rank.events).sum();
        let flags = DeviceMemory::new(4 * flag_count)?;
        let ops: usize = prepared.plans().map(|plan| plan.ops.len()).sum();
        let status = PinnedMemory::new(STATUS_BYTES * ops)?;
        let mut first_status = Vec::new();
        let (mut flag, mut op) = (0, 0);
        let mut homes = Vec::new();
        for (rank, bound) in prepared.ranks.iter().zip(addresses) {
            first_status.push(STATUS_BYTES * op);
            homes.push(Home {
                addresses: Addresses::new(&rank.plan, &rank.memory, &rank.arena, bound)?,
                flags: flags.address() + 4 * flag as u64,
                status: status.address() + (STATUS_BYTES * op) as u64,
            });
            flag += rank.events;
            op += rank.plan.ops.len();
        }
        let words = PinnedMemory::new(4 * prepared.streams.len())?;
        let told = match prepared.transport.agreement() {
            Some(_) => (0..prepared.streams.len()).map(|stream| words.address() + 4 * stream as u64).collect(),
            None => Vec::new(),
        };
        let options = &prepared.options;
        let messages = prepared.program.messages();
        let ports = options.link.map(|link| Ports::new(link, options.deadline, prepared.world(), messages));
        let mut resolver = Resolver::new(prepared, homes, told, ports.transpose()?);
        resolver.run()?;
        let Resolver { scratch, mut calls, timed, bytes_sent, communications, sides, ports, stagings, .. } = resolver;
        let staging = |(_, bytes): (usize, usize)| Staging::new(bytes.min(SLOT_BYTES));
        let wires = prepared.transport.connect(&sides)?;
        calls = wires.expanded(calls);
        if !prepared.options.timed {
            calls.retain(|call| !matches!(call.call, Call::Begin(_) | Call::End(_)));
        }
        let progress = Arc::new(Progress::new(words, communications, &calls, options.graph));
        let timers = if prepared.options.timed { timed.len() } else { 0 };
        let timers = (0..timers).map(|_| Ok((Event::new(true)?, Event::new(true)?))).collect::<Result<_>>()?;
        Ok(Self {
            ranges: Ranges::new(prepared, &calls, op_of),
            graph: None,
            prepared,
            calls,
            timers,
            timed,
            flags,
            fork: Event::new(false)?,
            joins: prepared.streams.iter().map(|_| Event::new(false)).collect::<Result<_>>()?,
            start: Event::new(true)?,
            end: Arc::new(Event::new(true)?),
            state: State::Idle,
            status,
            first_status,
            progress,
            bytes_sent,
            wires,
            ports,
            stagings: stagings.into_iter().map(staging).collect::<Result<_>>()?,
            scratch,
        })
    }

    /// Enqueues one run behind all earlier work of `stream`, which waits for its end, and behind the
    /// run before, whatever stream that was on. The first run with [`super::CudaOptions::graph`]
    /// captures it. Waits on the host only until a communication library has put its calls on their
    /// streams.
    ///
    /// # Errors
    /// A stream that is being captured: a run is no part of another graph. What the driver and the
    /// library say, with the op at which they said so; the other ranks' ops are then aborted.
    pub fn run(&mut self, stream: &Stream) -> Result<()> {
        self.prepared.transport.health()?;
        let _current = self.prepared.context.enter()?;
        if stream.is_captured()? {
            return Err(Error::Unsupported(
                "a run on a stream that is being captured: run it outside, with the option graph for a graph of its own"
                    .into(),
            ));
        }
        let Err(error) = self.try_run(stream) else {
            self.state = State::UnderWay;
            return Ok(());
        };
        let error = match self.prepared.transport.abort(&error.to_string()) {
            Ok(()) => error,
            // Freeing what the ops that were enqueued before may use would wait for ever.
            Err(_) => self.wedged(error),
        };
        self.state = State::Failed(error.clone());
        Err(error)
    }

    fn try_run(&mut self, stream: &Stream) -> Result<()> {
        let prepared = self.prepared;
        let mut last = prepared.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = &*last {
            stream.wait(end)?;
        }
        let enqueued = self.enqueued(stream);
        // After a failure too: what was enqueued goes on.
        let recorded = self.end.record(stream);
        *last = Some(self.end.clone());
        enqueued.and(recorded)
    }

    fn enqueued(&mut self, stream: &Stream) -> Result<()> {
        let _run = self.ranges.as_ref().map(Ranges::run);
        self.prepared.transport.begin(&self.progress);
        self.start.record(stream)?;
        if !self.prepared.options.graph {
            return enqueue(self, stream);
        }
        if self.graph.is_none() {
            self.graph = Some(self.captured()?);
        }
        self.graph.iter().try_for_each(|graph| launch_graph(graph, stream))
    }

    fn captured(&self) -> Result<Graph> {
        // The default stream cannot be captured, and the caller's is not ours to capture.
        let origin = Stream::new(Priority::Low)?;
        capture(&origin, || enqueue(self, &origin))
    }

    /// Rank and op of each kernel launch and copy of a run, in the order in which they are enqueued:
    /// with what a driver sees of them, tests hold them to the plans.
    #[doc(hidden)]
    pub fn launches(&self) -> Vec<(usize, OpId)> {
        let moves = |call: &&Resolved| matches!(call.call, Call::Launch { .. } | Call::Copy { .. });
        self.calls.iter().filter(moves).filter_map(|call| Some((call.rank, call.op?))).collect()
    }

    /// Nothing that the device may still use is ever freed: that would wait for it.
    pub(super) fn leave_behind(&mut self) {
        self.prepared.wedged.store(true, Ordering::Relaxed);
        self.scratch.iter_mut().chain([&mut self.flags]).for_each(DeviceMemory::leave);
        self.stagings.iter_mut().for_each(Staging::leave);
        self.ports.iter_mut().for_each(Ports::leave);
        self.wires.leave();
        self.status.leave();
        // One that is never dropped.
        std::mem::forget(self.progress.clone());
    }
}

impl Drop for Bound<'_> {
    /// Freeing what the device still uses waits for it without end: here it has the run's deadline.
    fn drop(&mut self) {
        if matches!(self.state, State::UnderWay)
            && let Err(error) = self.finish()
        {
            log::warn!("the last run of what is dropped: {error}");
        }
        if self.prepared.is_wedged() || !self.is_at_rest() {
            log::error!("a run does not end: its memory is left behind");
            self.leave_behind();
        }
        self.prepared.transport.let_go(&self.progress);
    }
}
