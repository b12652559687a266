//! Streams and kernels under the virtual clock: every stream runs its lowered commands in order.

use super::SimOptions;
use super::fabric::{Fabric, Load};
use super::machine::{Device, SimMachine};
use super::ports::Ports;
use super::program::{Program, Seat, Work};
use super::queue::{Event, Lane, Queue, What, ns};
use super::record::{Moment, Record};
use super::{Launch, cost::Cost};
use crate::error::{Error, Result};
use crate::plan::OpId;
use crate::plan::lower::{Command, EventId};

/// What joins the ranks.
enum Net {
    Ports(Ports),
    Fabric(Box<Fabric>),
}

/// Where a stream is.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the command at its position.
    Next,
    /// Before the command at its position, an event that is not recorded.
    Waits(EventId),
    /// In a kernel, before a piece whose flag is not raised.
    Gated { op: OpId, piece: u16, flag: EventId },
    /// In a piece, or between two.
    Runs { op: OpId, piece: u16, begin: u64 },
    /// In a communication.
    Exchanges { op: OpId, begin: u64, load: Load },
}

struct Stream {
    position: usize,
    state: State,
    piece: Piece,
}

/// The piece that a stream runs.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    cost: Cost,
    /// Part of it still to do, at the time of the last revision.
    rest: f64,
    since: u64,
    until: u64,
    revision: u32,
    runs: bool,
}

struct Rank {
    streams: Vec<Stream>,
    recorded: Vec<bool>,
    load: Load,
}

pub(super) struct Run<'a> {
    seats: &'a [Seat<'a>],
    ranks: Vec<Rank>,
    queue: Queue,
    net: Net,
    record: Record,
    /// ns between two issues of a rank's thread, and before a communication.
    issue_ns: u64,
    comm_gap_ns: u64,
}

/// Runs a world of programs to its end.
pub(super) fn run(seats: &[Seat], machine: &SimMachine, options: &SimOptions, spans: bool) -> Result<Record> {
    let mut run = Run::new(seats, machine, options, spans);
    for (rank, seat) in seats.iter().enumerate() {
        for stream in 0..seat.program.lowered.streams.len() {
            run.queue.push(0, Lane { rank: rank as u32, stream: stream as u16 }, What::Step);
        }
    }
    while let Some(event) = run.queue.pop() {
        run.handle(event);
    }
    run.finished()?;
    Ok(run.record)
}

impl<'a> Run<'a> {
    fn new(seats: &'a [Seat<'a>], machine: &SimMachine, options: &SimOptions, spans: bool) -> Self {
        let stream = |_| Stream { position: 0, state: State::Next, piece: Piece::default() };
        let rank = |program: &Program| Rank {
            streams: (0..program.lowered.streams.len()).map(stream).collect(),
            recorded: vec![false; program.lowered.events as usize],
            load: Load::default(),
        };
        let (net, issue_ns, comm_gap_ns) = match &machine.device {
            Device::Host(host) => (Net::Ports(Ports::new(host, seats.len())), 0, 0),
            Device::Gpu(gpu) => {
                let graph = options.launch == Launch::Graph;
                let fabric = Box::new(Fabric::new(gpu, options.transport, seats));
                let (issue, gap) = if graph { (0.0, gpu.gap_s) } else { (gpu.issue_s, 0.0) };
                (Net::Fabric(fabric), ns(issue), ns(gap))
            }
        };
        Self {
            ranks: seats.iter().map(|seat| rank(seat.program)).collect(),
            queue: Queue::default(),
            record: Record::new(seats.len(), spans),
            seats,
            net,
            issue_ns,
            comm_gap_ns,
        }
    }

    fn handle(&mut self, event: Event) {
        let Event { at: now, lane, what } = event;
        match what {
            What::Step => self.step(lane, now),
            What::PieceEnd { revision } => self.piece_ends(lane, revision, now),
            What::CommEnd => self.comm_ends(lane, now),
            What::Wake { call } => {
                if let Net::Ports(ports) = &mut self.net {
                    ports.wake(call, now, &mut self.queue);
                }
            }
            What::FlowBegin { flow } => {
                if let Net::Fabric(fabric) = &mut self.net {
                    fabric.begin(flow, now, &mut self.queue);
                }
            }
            What::FlowEnd { flow, revision } => {
                if let Net::Fabric(fabric) = &mut self.net {
                    fabric.end(flow, revision, now, &mut self.queue);
                }
            }
        }
    }

    fn stream(&mut self, lane: Lane) -> &mut Stream {
        &mut self.ranks[lane.rank as usize].streams[lane.stream as usize]
    }

    /// Runs commands until one takes time or has to wait.
    fn step(&mut self, lane: Lane, now: u64) {
        let program = self.seats[lane.rank as usize].program;
        loop {
            let stream = self.stream(lane);
            if !matches!(stream.state, State::Next) {
                return;
            }
            let Some(command) = program.lowered.streams[lane.stream as usize].get(stream.position) else { return };
            match *command {
                Command::Wait(event) => {
                    if !self.ranks[lane.rank as usize].recorded[event.0 as usize] {
                        self.stream(lane).state = State::Waits(event);
                        return;
                    }
                }
                Command::Record(event) | Command::Raise(event) => self.record(lane.rank, event, now),
                Command::Run(op) => {
                    let issued = (u64::from(op.0) + 1) * self.issue_ns;
                    if issued > now {
                        self.queue.push(issued, lane, What::Step);
                        return;
                    }
                    self.stream(lane).position += 1;
                    self.start(lane, op, now);
                    continue;
                }
            }
            self.stream(lane).position += 1;
        }
    }

    /// Wakes the streams of the rank that wait for an event or flag.
    fn record(&mut self, rank: u32, event: EventId, now: u64) {
        self.ranks[rank as usize].recorded[event.0 as usize] = true;
        for stream in 0..self.ranks[rank as usize].streams.len() {
            let lane = Lane { rank, stream: stream as u16 };
            match self.stream(lane).state {
                State::Waits(waited) if waited == event => {
                    self.stream(lane).state = State::Next;
                    self.queue.push(now, lane, What::Step);
                }
                State::Gated { op, piece, flag } if flag == event => self.piece(lane, op, piece, now),
                _ => {}
            }
        }
    }

    fn start(&mut self, lane: Lane, op: OpId, now: u64) {
        let program = self.seats[lane.rank as usize].program;
        match program.ops[op.0 as usize] {
            Work::Compute { .. } => self.piece(lane, op, 0, now),
            Work::Nothing => self.record.mark(Moment {
                rank: lane.rank,
                stream: lane.stream,
                op: op.0,
                piece: None,
                begin: now,
                end: now,
            }),
            Work::Comm(index) => {
                let seat = self.seats[lane.rank as usize];
                let comm = &program.comms[index as usize];
                let load = match &self.net {
                    Net::Ports(_) => Load::default(),
                    Net::Fabric(fabric) => fabric.load(seat, comm, lane.rank),
                };
                self.record.begin(lane.rank, false, now);
                self.stream(lane).state = State::Exchanges { op, begin: now, load };
                self.change_load(lane.rank, load, 1.0, now);
                match &mut self.net {
                    Net::Ports(ports) => ports.enter(lane, seat, comm, now, &mut self.queue),
                    Net::Fabric(fabric) => {
                        fabric.enter(lane, seat, comm, now + self.comm_gap_ns, &mut self.queue);
                    }
                }
            }
        }
    }

    /// Starts a piece, or waits for its flags.
    fn piece(&mut self, lane: Lane, op: OpId, piece: u16, now: u64) {
        let program = self.seats[lane.rank as usize].program;
        let Work::Compute { first, .. } = program.ops[op.0 as usize] else { return };
        let recorded = &self.ranks[lane.rank as usize].recorded;
        if let Some(flag) = program.flags(op, piece).find(|flag| !recorded[*flag as usize]) {
            self.stream(lane).state = State::Gated { op, piece, flag: EventId(flag) };
            return;
        }
        let cost = program.pieces[first as usize + piece as usize];
        let (sms, memory) = self.ranks[lane.rank as usize].load.left();
        self.record.begin(lane.rank, true, now);
        let until = now + cost.ns(sms, memory).round() as u64;
        let stream = self.stream(lane);
        stream.state = State::Runs { op, piece, begin: now };
        let revision = stream.piece.revision + 1;
        stream.piece = Piece { cost, rest: 1.0, since: now, until, revision, runs: true };
        self.queue.push(until, lane, What::PieceEnd { revision });
    }

    fn piece_ends(&mut self, lane: Lane, revision: u32, now: u64) {
        let stream = self.stream(lane);
        let State::Runs { op, piece, begin } = stream.state else { return };
        if stream.piece.revision != revision {
            return;
        }
        stream.piece.runs = false;
        let program = self.seats[lane.rank as usize].program;
        let Work::Compute { count, .. } = program.ops[op.0 as usize] else { return };
        let gated = program.lowered.gates.binary_search_by_key(&op, |gate| gate.op).is_ok();
        let shown = gated.then_some(piece);
        self.record.end(true, Moment { rank: lane.rank, stream: lane.stream, op: op.0, piece: shown, begin, end: now });
        if u32::from(piece) + 1 < count {
            self.piece(lane, op, piece + 1, now);
        } else {
            self.stream(lane).state = State::Next;
            self.step(lane, now);
        }
    }

    fn comm_ends(&mut self, lane: Lane, now: u64) {
        let State::Exchanges { op, begin, load } = self.stream(lane).state else { return };
        self.stream(lane).state = State::Next;
        let moment = Moment { rank: lane.rank, stream: lane.stream, op: op.0, piece: None, begin, end: now };
        self.record.end(false, moment);
        self.change_load(lane.rank, load, -1.0, now);
        self.step(lane, now);
    }

    /// Communication comes or goes: the rank's running kernels get slower or faster.
    fn change_load(&mut self, rank: u32, load: Load, sign: f64, now: u64) {
        if load.is_none() {
            return;
        }
        let of = &mut self.ranks[rank as usize];
        of.load.add(load, sign);
        let (sms, memory) = of.load.left();
        for (index, stream) in of.streams.iter_mut().enumerate().filter(|(_, stream)| stream.piece.runs) {
            let piece = &mut stream.piece;
            if piece.until > piece.since {
                let part = (piece.until.saturating_sub(now)) as f64 / (piece.until - piece.since) as f64;
                piece.rest *= part;
            }
            piece.since = now;
            piece.until = now + (piece.cost.ns(sms, memory) * piece.rest).round() as u64;
            piece.revision += 1;
            let lane = Lane { rank, stream: index as u16 };
            self.queue.push(piece.until, lane, What::PieceEnd { revision: piece.revision });
        }
    }

    /// The law leaves nothing stuck; a stream that is says so instead of a wrong time.
    fn finished(&self) -> Result<()> {
        for (rank, (of, seat)) in self.ranks.iter().zip(self.seats.iter()).enumerate() {
            for (index, stream) in of.streams.iter().enumerate() {
                if stream.position < seat.program.lowered.streams[index].len() || !matches!(stream.state, State::Next) {
                    let why = format!("stream {index} never ends: simulate the plans of one whole world, in order");
                    return Err(Error::Rank { rank, op: "simulation".into(), why });
                }
            }
        }
        Ok(())
    }
}
