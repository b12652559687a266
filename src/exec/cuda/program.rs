//! A world of plans on one device, as one sequence of steps on its streams.
//!
//! Every rank has streams of its own; all are fed by one thread, in an order in which each event
//! is recorded before anything waits for it. A communication is copies between the ranks'
//! buffers, enqueued by the rank that receives: they wait until every sender has arrived at the
//! op, and the senders' op ends when the copies have been made. A reducing one sums into scratch
//! first, since what it writes may be what others still read.
//!
//! Refuses worlds whose communications do not match (the law does before). Tests:
//! `tests/cuda_program.rs`.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::plan::lower::{Command, EventId, Lowered};
use crate::plan::{Comm, Direction, OpId, OpKind, Plan, Tag};

/// Index of a stream of the world.
pub type StreamIndex = usize;

/// One access of one op of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// The rank.
    pub rank: usize,
    /// Its op.
    pub op: OpId,
    /// Index in [`Plan::accesses`] of the op.
    pub access: usize,
}

/// What is enqueued on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Waits for an event of the world.
    Wait(usize),
    /// Records an event of the world.
    Record(usize),
    /// Begins an op: its timer starts.
    Begin(OpId),
    /// Ends an op.
    End(OpId),
    /// Launches the kernel of an op; the flags that its pieces wait for.
    Kernel(OpId, Vec<(u16, EventId)>),
    /// Makes the copy of an op.
    Copy(OpId),
    /// Calls the embedding framework.
    External(OpId),
    /// Copies one message, from the sender's region to this rank's.
    Message {
        /// Read.
        from: Part,
        /// Written.
        to: Part,
    },
    /// Sums parts, in this order, into scratch.
    Sum {
        /// Read.
        from: Vec<Part>,
        /// Whose sum it will be.
        to: Part,
    },
    /// Moves the sum from scratch to where it belongs.
    Store(Part),
    /// Raises a flag of the rank.
    Raise(EventId),
}

/// An action on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Rank that it belongs to.
    pub rank: usize,
    /// Stream of the world.
    pub stream: StreamIndex,
    /// What is enqueued.
    pub action: Action,
}

/// The steps of a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// (rank, stream of its plan) of each stream of the world.
    pub streams: Vec<(usize, usize)>,
    /// In the order in which they are enqueued.
    pub steps: Vec<Step>,
    /// Events of the world.
    pub events: usize,
}

impl Program {
    /// Messages between ranks, those that sums read among them.
    pub(super) fn messages(&self) -> usize {
        let foreign = |part: &Part, to: &Part| usize::from(part.rank != to.rank);
        let of = |step: &Step| match &step.action {
            Action::Message { from, to } => foreign(from, to),
            Action::Sum { from, to } => from.iter().map(|part| foreign(part, to)).sum(),
            _ => 0,
        };
        self.steps.iter().map(of).sum()
    }
}

/// The program of a world; `lowered` belongs to `plans`.
///
/// # Errors
/// Communications that do not match, or that wait for each other for ever.
pub fn program(plans: &[&Plan], lowered: &[&Lowered]) -> Result<Program> {
    let mut writer = Writer::new(plans, lowered)?;
    while writer.remaining > 0 {
        let mut moved = false;
        for stream in 0..writer.program.streams.len() {
            while writer.advance(stream)? {
                moved = true;
            }
        }
        if !moved {
            return Err(writer.stuck());
        }
    }
    Ok(writer.program)
}

/// A communication of all its ranks.
struct Exchange {
    /// By rank in the group: rank of the world, op.
    members: Vec<(usize, OpId)>,
    /// Events that the members recorded when they arrived, summed, finished.
    arrived: Vec<Option<usize>>,
    summed: Vec<Option<usize>>,
    finished: Vec<Option<usize>>,
}

/// How far a stream is within a communication.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Start,
    Arrived,
    Summed,
    Received,
}

struct Writer<'a> {
    plans: &'a [&'a Plan],
    lowered: &'a [&'a Lowered],
    program: Program,
    exchanges: Vec<Exchange>,
    /// (rank, op) to its exchange and place in it.
    exchange_of: HashMap<(usize, OpId), (usize, usize)>,
    /// (rank, event of its lowered form) to the event of the world, once recorded.
    recorded: HashMap<(usize, EventId), usize>,
    gates: Vec<HashMap<OpId, Vec<(u16, EventId)>>>,
    position: Vec<usize>,
    phase: Vec<Phase>,
    remaining: usize,
}

impl<'a> Writer<'a> {
    fn new(plans: &'a [&'a Plan], lowered: &'a [&'a Lowered]) -> Result<Self> {
        let mut streams = Vec::new();
        let mut gates = Vec::new();
        for (rank, lowered) in lowered.iter().enumerate() {
            streams.extend((0..lowered.streams.len()).map(|stream| (rank, stream)));
            let mut own: HashMap<OpId, Vec<(u16, EventId)>> = HashMap::new();
            for gate in &lowered.gates {
                own.entry(gate.op).or_default().push((gate.piece, gate.flag));
            }
            gates.push(own);
        }
        let remaining = lowered.iter().flat_map(|l| &l.streams).map(Vec::len).sum();
        let (exchanges, exchange_of) = exchanges(plans)?;
        Ok(Self {
            plans,
            lowered,
            position: vec![0; streams.len()],
            phase: vec![Phase::Start; streams.len()],
            program: Program { streams, ..Program::default() },
            exchanges,
            exchange_of,
            recorded: HashMap::new(),
            gates,
            remaining,
        })
    }

    fn push(&mut self, stream: StreamIndex, action: Action) {
        let rank = self.program.streams[stream].0;
        self.program.steps.push(Step { rank, stream, action });
    }

    fn record(&mut self, stream: StreamIndex) -> usize {
        let event = self.program.events;
        self.program.events += 1;
        self.push(stream, Action::Record(event));
        event
    }

    /// Enqueues the next command of a stream, or a part of it; false if it cannot be yet.
    fn advance(&mut self, stream: StreamIndex) -> Result<bool> {
        let (rank, own) = self.program.streams[stream];
        let Some(&command) = self.lowered[rank].streams[own].get(self.position[stream]) else { return Ok(false) };
        match command {
            Command::Wait(event) => match self.recorded.get(&(rank, event)) {
                Some(&event) => self.push(stream, Action::Wait(event)),
                None => return Ok(false),
            },
            Command::Record(event) => {
                let of_world = self.record(stream);
                self.recorded.insert((rank, event), of_world);
            }
            Command::Raise(flag) => self.push(stream, Action::Raise(flag)),
            Command::Run(op) => {
                let plan = self.plans[rank];
                if let OpKind::Comm(_) = plan.op(op).kind {
                    return self.communicate(stream, rank, op);
                }
                self.push(stream, Action::Begin(op));
                match plan.op(op).kind {
                    OpKind::Kernel(_) => {
                        let gates = self.gates[rank].get(&op).cloned().unwrap_or_default();
                        self.push(stream, Action::Kernel(op, gates));
                    }
                    OpKind::Copy => self.push(stream, Action::Copy(op)),
                    OpKind::External(_) => self.push(stream, Action::External(op)),
                    OpKind::Comm(_) | OpKind::Mark => {}
                }
                self.push(stream, Action::End(op));
            }
        }
        self.position[stream] += 1;
        self.remaining -= 1;
        Ok(true)
    }

    fn communicate(&mut self, stream: StreamIndex, rank: usize, op: OpId) -> Result<bool> {
        let Some(&(exchange, member)) = self.exchange_of.get(&(rank, op)) else {
            return Err(self.failed(rank, op, "no other rank knows this communication"));
        };
        let comm = self.plans[rank].comm(op).ok_or_else(|| self.failed(rank, op, "is no communication"))?;
        match self.phase[stream] {
            Phase::Start => {
                self.push(stream, Action::Begin(op));
                let event = self.record(stream);
                self.exchanges[exchange].arrived[member] = Some(event);
                self.phase[stream] = Phase::Arrived;
            }
            Phase::Arrived => {
                let senders = self.peers(exchange, rank, comm, Direction::Recv);
                let Some(events) = recorded(&self.exchanges[exchange].arrived, &senders) else { return Ok(false) };
                self.wait_for(stream, &events);
                if comm.kind.reduces() {
                    self.sums(stream, rank, op, comm, exchange)?;
                    let event = self.record(stream);
                    self.exchanges[exchange].summed[member] = Some(event);
                    self.phase[stream] = Phase::Summed;
                } else {
                    self.messages(stream, rank, op, comm, exchange)?;
                    self.finish(stream, exchange, member);
                }
            }
            Phase::Summed => {
                // What the sum overwrites may be what this rank gave to the others' sums.
                let readers = self.peers(exchange, rank, comm, Direction::Send);
                let Some(events) = recorded(&self.exchanges[exchange].summed, &readers) else { return Ok(false) };
                self.wait_for(stream, &events);
                for (access, transfer) in comm.transfers.iter().enumerate() {
                    if transfer.direction == Direction::Recv {
                        self.push(stream, Action::Store(Part { rank, op, access }));
                    }
                }
                self.finish(stream, exchange, member);
            }
            Phase::Received => {
                // A sender's op ends when its messages have been taken.
                if !comm.kind.reduces() {
                    let receivers = self.peers(exchange, rank, comm, Direction::Send);
                    let finished = &self.exchanges[exchange].finished;
                    let Some(events) = recorded(finished, &receivers) else { return Ok(false) };
                    self.wait_for(stream, &events);
                }
                self.push(stream, Action::End(op));
                self.phase[stream] = Phase::Start;
                self.position[stream] += 1;
                self.remaining -= 1;
            }
        }
        Ok(true)
    }

    fn finish(&mut self, stream: StreamIndex, exchange: usize, member: usize) {
        let event = self.record(stream);
        self.exchanges[exchange].finished[member] = Some(event);
        self.phase[stream] = Phase::Received;
    }

    fn wait_for(&mut self, stream: StreamIndex, events: &[usize]) {
        for &event in events {
            self.push(stream, Action::Wait(event));
        }
    }

    /// Places in the exchange of the other ranks that send to this one (`Recv`) or receive from
    /// it (`Send`). Every member of a reducing op gives to every sum.
    fn peers(&self, exchange: usize, rank: usize, comm: &Comm, direction: Direction) -> Vec<usize> {
        let members = &self.exchanges[exchange].members;
        let everyone = comm.kind.reduces() && direction == Direction::Recv;
        let meets = |other: u32| comm.transfers.iter().any(|t| t.direction == direction && t.peer == other);
        let others = members.iter().enumerate().filter(|(_, (other, _))| *other != rank);
        others.filter(|(_, (other, _))| everyone || meets(*other as u32)).map(|(place, _)| place).collect()
    }

    /// Message `i` from a to b meets the `i`-th from a on b.
    fn messages(&mut self, stream: StreamIndex, rank: usize, op: OpId, comm: &Comm, exchange: usize) -> Result<()> {
        let mut taken: HashMap<usize, usize> = HashMap::new();
        for (access, transfer) in comm.transfers.iter().enumerate() {
            if transfer.direction != Direction::Recv {
                continue;
            }
            let sender = transfer.peer as usize;
            let nth = taken.entry(sender).or_default();
            let from = self.sent(exchange, sender, rank, *nth);
            *nth += 1;
            let from = from.ok_or_else(|| self.failed(rank, op, &format!("rank {sender} sends too little")))?;
            self.push(stream, Action::Message { from, to: Part { rank, op, access } });
        }
        Ok(())
    }

    /// The `i`-th sum of a rank is that of the `i`-th part which each member, in group order,
    /// sends to it.
    fn sums(&mut self, stream: StreamIndex, rank: usize, op: OpId, comm: &Comm, exchange: usize) -> Result<()> {
        let members: Vec<usize> = self.exchanges[exchange].members.iter().map(|(rank, _)| *rank).collect();
        let receives = comm.transfers.iter().enumerate().filter(|(_, t)| t.direction == Direction::Recv);
        let receives: Vec<usize> = receives.map(|(access, _)| access).collect();
        for (nth, access) in receives.into_iter().enumerate() {
            let from: Option<Vec<Part>> = members.iter().map(|&m| self.sent(exchange, m, rank, nth)).collect();
            let from = from.ok_or_else(|| self.failed(rank, op, "a rank adds nothing to this rank's sum"))?;
            self.push(stream, Action::Sum { from, to: Part { rank, op, access } });
        }
        Ok(())
    }

    /// The `nth` part that `sender` sends to `to`.
    fn sent(&self, exchange: usize, sender: usize, to: usize, nth: usize) -> Option<Part> {
        let &(rank, op) = self.exchanges[exchange].members.iter().find(|(rank, _)| *rank == sender)?;
        let comm = self.plans[rank].comm(op)?;
        let sends = comm.transfers.iter().enumerate();
        let mut sends = sends.filter(|(_, t)| t.direction == Direction::Send && t.peer as usize == to);
        sends.nth(nth).map(|(access, _)| Part { rank, op, access })
    }

    fn failed(&self, rank: usize, op: OpId, why: &str) -> Error {
        Error::Law { rank, op: self.plans[rank].label(op).to_string(), why: why.to_string() }
    }

    fn stuck(&self) -> Error {
        for (stream, &(rank, own)) in self.program.streams.iter().enumerate() {
            let rest = self.lowered[rank].streams[own].get(self.position[stream]..).unwrap_or_default();
            let next = rest.iter().find_map(|c| if let Command::Run(op) = c { Some(*op) } else { None });
            if let Some(op) = next {
                return self.failed(rank, op, "waits for what no rank will do: the streams wait for each other");
            }
        }
        Error::Unsupported("the streams of this world wait for each other".into())
    }
}

/// The events of these members, once all are recorded.
fn recorded(events: &[Option<usize>], members: &[usize]) -> Option<Vec<usize>> {
    members.iter().map(|&member| events[member]).collect()
}

type ExchangeOf = HashMap<(usize, OpId), (usize, usize)>;

/// The communications of the world: ops of equal tag and group.
fn exchanges(plans: &[&Plan]) -> Result<(Vec<Exchange>, ExchangeOf)> {
    let mut list: Vec<Exchange> = Vec::new();
    let mut of: ExchangeOf = HashMap::new();
    let mut known: HashMap<(Tag, &[u32]), usize> = HashMap::new();
    for (rank, plan) in plans.iter().enumerate() {
        for op in plan.op_ids() {
            let Some(comm) = plan.comm(op) else { continue };
            let group = plan.groups.get(comm.group as usize).map(Vec::as_slice).unwrap_or_default();
            let index = *known.entry((comm.tag, group)).or_insert_with(|| {
                let nobody = vec![None; group.len()];
                list.push(Exchange {
                    members: vec![(usize::MAX, OpId(0)); group.len()],
                    arrived: nobody.clone(),
                    summed: nobody.clone(),
                    finished: nobody,
                });
                list.len() - 1
            });
            let member = group.iter().position(|&member| member as usize == rank);
            let Some(member) = member else {
                let (op, why) = (plan.label(op).to_string(), "communicates in a group that it is no member of".into());
                return Err(Error::Law { rank, op, why });
            };
            list[index].members[member] = (rank, op);
            of.insert((rank, op), (index, member));
        }
    }
    for exchange in &list {
        let here = exchange.members.iter().find(|(rank, _)| *rank != usize::MAX);
        if let (Some(&(rank, op)), true) = (here, exchange.members.iter().any(|(rank, _)| *rank == usize::MAX)) {
            let (op, why) = (plans[rank].label(op).to_string(), "a rank of its group never runs it".to_string());
            return Err(Error::Law { rank, op, why });
        }
    }
    Ok((list, of))
}
