//! What all transports share: streams, events, and every op that is no communication.

use std::collections::HashMap;

use super::{Action, Part, Program, Step, StreamIndex};
use crate::error::{Error, Result};
use crate::plan::lower::{Command, EventId, Lowered};
use crate::plan::{OpId, OpKind, Plan};

/// How far a communication has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing can be enqueued before another stream has moved.
    Blocked,
    /// Something was enqueued, more is to come.
    Moved,
    /// All of it is enqueued.
    Done,
}

/// Writes the steps of `plans`, which are those of the ranks from `plans[0].rank` on.
pub(super) struct Writer<'a> {
    pub(super) plans: &'a [&'a Plan],
    pub(super) program: Program,
    lowered: &'a [&'a Lowered],
    /// (rank, event of its lowered form) to the event of the program, once recorded.
    recorded: HashMap<(usize, EventId), usize>,
    gates: HashMap<(usize, OpId), Vec<(u16, EventId)>>,
    position: Vec<usize>,
    remaining: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(plans: &'a [&'a Plan], lowered: &'a [&'a Lowered]) -> Self {
        let mut streams = Vec::new();
        let mut gates: HashMap<(usize, OpId), Vec<(u16, EventId)>> = HashMap::new();
        for (plan, lowered) in plans.iter().zip(lowered) {
            let rank = plan.rank as usize;
            streams.extend((0..lowered.streams.len()).map(|stream| (rank, stream)));
            for gate in &lowered.gates {
                gates.entry((rank, gate.op)).or_default().push((gate.piece, gate.flag));
            }
        }
        Self {
            plans,
            lowered,
            position: vec![0; streams.len()],
            remaining: lowered.iter().flat_map(|l| &l.streams).map(Vec::len).sum(),
            program: Program { streams, ..Program::default() },
            recorded: HashMap::new(),
            gates,
        }
    }

    pub(super) fn plan(&self, rank: usize) -> &'a Plan {
        self.plans[self.index(rank)]
    }

    pub(super) fn is_done(&self) -> bool {
        self.remaining == 0
    }

    /// The next command of a stream.
    pub(super) fn next(&self, stream: StreamIndex) -> Option<Command> {
        let (rank, own) = self.program.streams[stream];
        self.lowered[self.index(rank)].streams[own].get(self.position[stream]).copied()
    }

    /// Enqueues the next command of a stream, or a part of it; false if it cannot be yet.
    pub(super) fn advance(
        &mut self,
        stream: StreamIndex,
        communicate: &mut dyn FnMut(&mut Self, StreamIndex, OpId) -> Result<Progress>,
    ) -> Result<bool> {
        let rank = self.program.streams[stream].0;
        match self.next(stream) {
            None => return Ok(false),
            Some(Command::Wait(event)) => match self.recorded.get(&(rank, event)) {
                Some(&event) => self.push(stream, Action::Wait(event)),
                None => return Ok(false),
            },
            Some(Command::Record(event)) => {
                let of_program = self.record(stream);
                self.recorded.insert((rank, event), of_program);
            }
            Some(Command::Raise(flag)) => self.push(stream, Action::Raise(flag)),
            Some(Command::Run(op)) => match self.plan(rank).op(op).kind {
                OpKind::Comm(_) => match communicate(self, stream, op)? {
                    Progress::Blocked => return Ok(false),
                    Progress::Moved => return Ok(true),
                    Progress::Done => {}
                },
                _ => self.run(stream, rank, op),
            },
        }
        self.position[stream] += 1;
        self.remaining -= 1;
        Ok(true)
    }

    pub(super) fn push(&mut self, stream: StreamIndex, action: Action) {
        let rank = self.program.streams[stream].0;
        self.program.steps.push(Step { rank, stream, action });
    }

    /// Records an event of its own.
    pub(super) fn record(&mut self, stream: StreamIndex) -> usize {
        let event = self.program.events;
        self.program.events += 1;
        self.push(stream, Action::Record(event));
        event
    }

    /// Records an event of its own behind the first `at` steps.
    pub(super) fn record_at(&mut self, stream: StreamIndex, at: usize) -> usize {
        let event = self.program.events;
        self.program.events += 1;
        let rank = self.program.streams[stream].0;
        self.program.steps.insert(at, Step { rank, stream, action: Action::Record(event) });
        event
    }

    pub(super) fn scratch(&mut self, like: Part) -> usize {
        self.program.scratch.push(like);
        self.program.scratch.len() - 1
    }

    pub(super) fn failed(&self, rank: usize, op: OpId, why: &str) -> Error {
        Error::Law { rank, op: self.plan(rank).label(op).to_string(), why: why.to_string() }
    }

    pub(super) fn stuck(&self) -> Error {
        for (stream, &(rank, own)) in self.program.streams.iter().enumerate() {
            let commands = &self.lowered[self.index(rank)].streams[own];
            let rest = commands.get(self.position[stream]..).unwrap_or_default();
            let next = rest.iter().find_map(|c| if let Command::Run(op) = c { Some(*op) } else { None });
            if let Some(op) = next {
                return self.failed(rank, op, "waits for what no rank will do: the streams wait for each other");
            }
        }
        Error::Unsupported("the streams of this world wait for each other".into())
    }

    fn run(&mut self, stream: StreamIndex, rank: usize, op: OpId) {
        self.push(stream, Action::Begin(op));
        match self.plan(rank).op(op).kind {
            OpKind::Kernel(_) => {
                let gates = self.gates.get(&(rank, op)).cloned().unwrap_or_default();
                self.push(stream, Action::Kernel(op, gates));
            }
            OpKind::Copy => self.push(stream, Action::Copy(op)),
            OpKind::External(_) => self.push(stream, Action::External(op)),
            OpKind::Comm(_) | OpKind::Mark => {}
        }
        self.push(stream, Action::End(op));
    }

    fn index(&self, rank: usize) -> usize {
        rank - self.plans.first().map_or(0, |plan| plan.rank as usize)
    }
}
