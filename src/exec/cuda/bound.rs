use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::enqueue::{enqueue, launch_graph};
use super::memory::Addresses;
use super::prepared::Prepared;
use super::resolve::{Call, Resolved, Resolver, Timed};
use crate::cuda::{DeviceMemory, Event, Graph, PinnedMemory, Stream, capture};
use crate::error::{Error, Result};
use crate::exec::{Report, Span, SpanKind};
use crate::plan::{OpId, OpKind, Role};

/// Bytes of a `SeqparStatus`.
const STATUS_BYTES: usize = 16;

/// A world with its addresses: runs again and again.
pub struct Bound<'a> {
    // Before what its work touches.
    graph: Option<Graph>,
    pub(super) prepared: &'a Prepared,
    pub(super) calls: Vec<Resolved>,
    pub(super) timers: Vec<(Event, Event)>,
    pub(super) flags: DeviceMemory,
    /// Fork of the streams from the caller's, and their joins.
    pub(super) fork: Event,
    pub(super) joins: Vec<Event>,
    start: Event,
    end: Event,
    timed: Vec<Timed>,
    status: PinnedMemory,
    /// Offset of each rank's first status.
    first_status: Vec<usize>,
    _scratch: Vec<DeviceMemory>,
    bytes_sent: Vec<u64>,
}

impl<'a> Bound<'a> {
    pub(super) fn new(prepared: &'a Prepared, addresses: &[Vec<Option<u64>>]) -> Result<Self> {
        let flag_count: usize = prepared.ranks.iter().map(|rank| rank.events).sum();
        let flags = DeviceMemory::new(4 * flag_count)?;
        let ops: usize = prepared.ranks.iter().map(|rank| rank.plan.ops.len()).sum();
        let status = PinnedMemory::new(STATUS_BYTES * ops)?;
        let mut first_flag = Vec::new();
        let mut first_status = Vec::new();
        let (mut flag, mut op) = (0, 0);
        let mut homes = Vec::new();
        for (rank, bound) in prepared.ranks.iter().zip(addresses) {
            first_flag.push(flags.address() + 4 * flag as u64);
            first_status.push(STATUS_BYTES * op);
            flag += rank.events;
            op += rank.plan.ops.len();
            homes.push(Addresses::new(&rank.plan, &rank.memory, &rank.arena, bound)?);
        }
        let mut resolver = Resolver {
            prepared,
            addresses: homes,
            flags: first_flag,
            status: first_status.iter().map(|offset| status.address() + *offset as u64).collect(),
            scratch: Vec::new(),
            sums: HashMap::new(),
            calls: Vec::new(),
            timed: Vec::new(),
            bytes_sent: vec![0; prepared.ranks.len()],
        };
        resolver.run()?;
        let Resolver { scratch, mut calls, timed, bytes_sent, .. } = resolver;
        if !prepared.options.timed {
            calls.retain(|call| !matches!(call.call, Call::Begin(_) | Call::End(_)));
        }
        let timers = if prepared.options.timed { timed.len() } else { 0 };
        let timers = (0..timers).map(|_| Ok((Event::new(true)?, Event::new(true)?))).collect::<Result<_>>()?;
        Ok(Self {
            graph: None,
            prepared,
            calls,
            timers,
            flags,
            fork: Event::new(false)?,
            joins: prepared.streams.iter().map(|_| Event::new(false)).collect::<Result<_>>()?,
            start: Event::new(true)?,
            end: Event::new(true)?,
            timed,
            status,
            first_status,
            _scratch: scratch,
            bytes_sent,
        })
    }

    /// Enqueues one run behind all earlier work of `stream`, which waits for its end. The first run
    /// with [`super::CudaOptions::graph`] captures it.
    ///
    /// # Errors
    /// What the driver says, with the op at which it said so.
    pub fn run(&mut self, stream: &Stream) -> Result<()> {
        self.prepared.context.bind()?;
        self.start.record(stream)?;
        if self.prepared.options.graph {
            if self.graph.is_none() {
                self.graph = Some(self.captured()?);
            }
            if let Some(graph) = &self.graph {
                launch_graph(graph, stream)?;
            }
        } else {
            enqueue(self, stream)?;
        }
        self.end.record(stream)
    }

    fn captured(&self) -> Result<Graph> {
        // The default stream cannot be captured, and the caller's is not ours to capture.
        let origin = Stream::new(crate::cuda::Priority::Low)?;
        capture(&origin, || enqueue(self, &origin))
    }

    /// Waits for the end of the last run.
    ///
    /// # Errors
    /// A failure on the device, a gate that did not open (both name the op), and a run that takes
    /// longer than the deadline.
    pub fn finish(&mut self) -> Result<Report> {
        let options = &self.prepared.options;
        let begin = Instant::now();
        let mut pause = Duration::from_micros(5);
        while !self.end.is_done()? {
            // A wait inside a kernel ends by itself at the deadline: leave it the time to say so.
            if begin.elapsed() > 2 * options.deadline {
                return Err(Error::Timeout {
                    rank: 0,
                    op: "run".into(),
                    waited_for: "the device to finish".into(),
                    after_ms: (2 * options.deadline).as_millis() as u64,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
        self.closed_gate()?;
        self.report()
    }

    /// The first gate that a kernel waited for in vain.
    fn closed_gate(&mut self) -> Result<()> {
        for (rank, first) in self.prepared.ranks.iter().zip(&self.first_status) {
            for op in rank.plan.op_ids() {
                let at = first + STATUS_BYTES * op.0 as usize;
                let words: &[u8] = &self.status.as_slice()[at..at + STATUS_BYTES];
                let word = |i: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|b| words[4 * i + b]));
                if word(0) == 0 {
                    continue;
                }
                let error = Error::Timeout {
                    rank: rank.plan.rank as usize,
                    op: rank.plan.label(op).to_string(),
                    waited_for: format!("chunk {} (flag at {}, {} wanted)", word(1), word(3), word(2)),
                    after_ms: self.prepared.options.deadline.as_millis() as u64,
                };
                self.status.as_mut_slice().fill(0);
                return Err(error);
            }
        }
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let ns = |event: &Event| Ok::<_, Error>((f64::from(event.milliseconds_since(&self.start)?) * 1e6) as u64);
        let mut spans = Vec::new();
        for (timed, (begin, end)) in self.timed.iter().zip(&self.timers) {
            spans.push(self.span(timed, ns(begin)?, ns(end)?));
        }
        Ok(Report {
            streams: self.prepared.ranks.iter().map(|rank| rank.plan.streams.clone()).collect(),
            spans,
            bytes_sent: self.bytes_sent.clone(),
            peak_bytes: self.prepared.ranks.iter().map(|rank| rank.memory.peak_bytes).collect(),
            wall_ns: ns(&self.end)?,
        })
    }

    fn span(&self, timed: &Timed, begin_ns: u64, end_ns: u64) -> Span {
        let plan = &self.prepared.ranks[timed.rank].plan;
        let (kind, bytes, flops) = match plan.op(timed.op).kind {
            OpKind::Kernel(i) => {
                let cost = plan.kernels[i as usize].cost();
                (SpanKind::Compute, cost.bytes as u64, cost.flops)
            }
            OpKind::Comm(_) => (SpanKind::Comm, plan.op_bytes_sent(timed.op), 0.0),
            OpKind::Copy => (SpanKind::Copy, touched(plan, timed.op), 0.0),
            OpKind::External(_) => (SpanKind::External, touched(plan, timed.op), 0.0),
            OpKind::Mark => (SpanKind::Mark, 0, 0.0),
        };
        Span {
            rank: timed.rank,
            stream: self.prepared.program.streams[timed.stream].1,
            op: plan.label(timed.op).into(),
            kind,
            begin_ns,
            end_ns,
            piece: None,
            bytes,
            flops,
        }
    }

    /// Rank and op of each kernel launch and copy of a run, in the order in which they are enqueued:
    /// with what a driver sees of them, tests hold them to the plans.
    #[doc(hidden)]
    pub fn launches(&self) -> Vec<(usize, OpId)> {
        let moves = |call: &&Resolved| matches!(call.call, Call::Launch { .. } | Call::Copy { .. });
        self.calls.iter().filter(moves).filter_map(|call| Some((call.rank, call.op?))).collect()
    }

    /// Buffers of a role, by rank and index.
    pub(super) fn buffers_of(prepared: &Prepared, role: Role) -> impl Iterator<Item = (usize, usize)> + '_ {
        let all = prepared.buffers.iter().enumerate();
        all.flat_map(move |(rank, list)| {
            list.iter().enumerate().filter(move |(_, b)| b.role == role).map(move |(i, _)| (rank, i))
        })
    }
}

fn touched(plan: &crate::plan::Plan, op: OpId) -> u64 {
    plan.accesses(op).iter().map(|access| plan.access_bytes(access) as u64).sum()
}
