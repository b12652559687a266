//! Communication on a GPU machine: flows over shared ports, max-min fair.
//!
//! A message is a flow from its sender's port to its receiver's, a collective one flow through
//! the ports of its whole group: it starts when the last of its ranks has entered, after the
//! latency of its method, and ends on all ranks at once. Flows that share a port share its rate;
//! none exceeds its method's (see [`super::method`]).

use std::collections::HashMap;

use super::Transport;
use super::machine::Gpu;
use super::method::{self, Layout, Method};
use super::program::{Exchange, Message, Seat};
use super::queue::{Lane, Queue, What, ns};
use super::share::Ports;
use crate::plan::CommKind;

/// What communication takes from a rank's kernels, as parts of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    sms: f64,
    memory: f64,
}

impl Load {
    pub(super) fn is_none(&self) -> bool {
        self.sms == 0.0 && self.memory == 0.0
    }

    pub(super) fn add(&mut self, other: Self, sign: f64) {
        self.sms += sign * other.sms;
        self.memory += sign * other.memory;
    }

    /// Parts of the SMs and of the memory rate that kernels keep; never nothing.
    pub(super) fn left(&self) -> (f64, f64) {
        ((1.0 - self.sms).clamp(0.1, 1.0), (1.0 - self.memory).clamp(0.1, 1.0))
    }
}

pub(super) struct Fabric {
    gpu: Gpu,
    transport: Transport,
    ports: Ports,
    /// By rank and group of its plan: where the group stands, and its first rank.
    groups: Vec<Vec<(Layout, u32)>>,
    /// By rank and stream: messages of the lane's communication that are under way.
    open: Vec<Vec<u32>>,
    /// By rank: its sides of messages whose other side has not entered. A few at a time.
    halves: Vec<Vec<Half>>,
    /// What the rank that enters sends and receives: peer, direction, bytes.
    sides: Vec<(u32, bool, u64)>,
    /// Collectives that some ranks have entered: (tag, first rank of the group).
    gathering: HashMap<(u32, u32), Gathering>,
}

struct Half {
    tag: u32,
    peer: u32,
    sends: bool,
    lane: Lane,
    bytes: u64,
}

struct Gathering {
    lanes: Vec<Lane>,
    /// Most bytes that a rank sends and receives, and of one copy of every rank's part.
    most: u64,
    array: u64,
}

impl Fabric {
    pub(super) fn new(gpu: &Gpu, transport: Transport, seats: &[Seat]) -> Self {
        let group = |seat: &Seat, group: &[u32]| {
            let mut ranks: Vec<u32> = group.iter().map(|&rank| seat.rank(rank)).collect();
            ranks.sort_unstable();
            (Layout::of(gpu, &ranks), ranks.first().copied().unwrap_or(0))
        };
        let groups = |seat: &Seat| seat.program.groups.iter().map(|of| group(seat, of)).collect();
        Self {
            ports: Ports::new(gpu, seats.len()),
            groups: seats.iter().map(groups).collect(),
            open: seats.iter().map(|seat| vec![0; seat.program.lowered.streams.len()]).collect(),
            halves: seats.iter().map(|_| Vec::new()).collect(),
            sides: Vec::new(),
            gathering: HashMap::new(),
            gpu: gpu.clone(),
            transport,
        }
    }

    /// What a rank's kernels lose while it runs `comm`.
    pub(super) fn load(&self, seat: Seat, comm: &Exchange, rank: u32) -> Load {
        let (at, _) = self.groups[rank as usize][comm.group as usize];
        if at.ranks < 2 || comm.count == 0 {
            return Load::default();
        }
        let messages = seat.program.messages(comm);
        let sent = messages.iter().filter(|message| message.sends && seat.rank(message.peer) != rank);
        let (peers, bytes) = match comm.kind {
            CommKind::SendRecv => {
                let is_new = |(i, message): &(usize, &Message)| messages[..*i].iter().all(|m| m.peer != message.peer);
                (messages.iter().enumerate().filter(is_new).count(), sent.map(|message| message.bytes).sum::<u64>())
            }
            _ => (at.ranks - 1, sent.map(|message| message.bytes).sum::<u64>()),
        };
        let (sms, memory) = method::load(&self.gpu, self.transport, comm.kind, at, peers, bytes as f64);
        Load { sms: sms / self.gpu.sms, memory: memory / self.gpu.memory_bytes_per_s }
    }

    /// A rank enters a communication.
    pub(super) fn enter(&mut self, lane: Lane, seat: Seat, comm: &Exchange, now: u64, queue: &mut Queue) {
        if seat.program.group(comm).len() < 2 || comm.count == 0 && comm.kind == CommKind::SendRecv {
            queue.push(now, lane, What::CommEnd);
        } else if comm.kind == CommKind::SendRecv {
            self.exchange(lane, seat, comm, now, queue);
        } else {
            self.gather(lane, seat, comm, now, queue);
        }
    }

    fn exchange(&mut self, lane: Lane, seat: Seat, comm: &Exchange, now: u64, queue: &mut Queue) {
        let (at, _) = self.groups[lane.rank as usize][comm.group as usize];
        // All that goes to one peer shares the channels to it.
        let mut sides = std::mem::take(&mut self.sides);
        sides.clear();
        for message in seat.program.messages(comm) {
            let to = seat.rank(message.peer);
            match sides.iter_mut().find(|(peer, sends, _)| (*peer, *sends) == (to, message.sends)) {
                Some(side) => side.2 += message.bytes,
                None => sides.push((to, message.sends, message.bytes)),
            }
        }
        self.open[lane.rank as usize][lane.stream as usize] = sides.len() as u32;
        for &(peer, sends, bytes) in &sides {
            let (from, to) = if sends { (lane.rank, peer) } else { (peer, lane.rank) };
            let theirs = &mut self.halves[peer as usize];
            let meets = |half: &Half| (half.tag, half.peer, half.sends) == (comm.tag, lane.rank, !sends);
            let Some(other) = theirs.iter().position(meets).map(|at| theirs.swap_remove(at)) else {
                self.halves[lane.rank as usize].push(Half { tag: comm.tag, peer, sends, lane, bytes });
                continue;
            };
            let crosses = self.gpu.node_of(from) != self.gpu.node_of(to);
            let method = method::send(&self.gpu, self.transport, at, bytes.max(other.bytes) as f64, crosses);
            let ports = self.ports.of_message(from, to);
            self.fly(method, ports, &[lane, other.lane], now, queue);
        }
        self.sides = sides;
    }

    fn gather(&mut self, lane: Lane, seat: Seat, comm: &Exchange, now: u64, queue: &mut Queue) {
        let (at, first) = self.groups[lane.rank as usize][comm.group as usize];
        let key = (comm.tag, first);
        let gathering = self.gathering.entry(key).or_insert_with(|| Gathering { lanes: Vec::new(), most: 0, array: 0 });
        let messages = seat.program.messages(comm);
        let sum = |wanted: fn(&Message) -> bool| -> u64 {
            messages.iter().filter(|message| wanted(message)).map(|message| message.bytes).sum()
        };
        let (sent, received) = (sum(|message| message.sends), sum(|message| !message.sends));
        gathering.lanes.push(lane);
        match comm.kind {
            CommKind::AllGather | CommKind::Broadcast => {
                let peer = messages.iter().find(|message| message.sends).map(|message| message.peer);
                let part: u64 = messages.iter().filter(|m| m.sends && Some(m.peer) == peer).map(|m| m.bytes).sum();
                gathering.array += part;
            }
            CommKind::AllReduce => gathering.array = gathering.array.max(received),
            CommKind::ReduceScatter => gathering.array = gathering.array.max(sent),
            CommKind::AllToAll | CommKind::SendRecv => gathering.most = gathering.most.max(sent).max(received),
        }
        if gathering.lanes.len() < at.ranks {
            return;
        }
        let Some(Gathering { lanes, most, array }) = self.gathering.remove(&key) else { return };
        let mut ranks: Vec<u32> = lanes.iter().map(|lane| lane.rank).collect();
        ranks.sort_unstable();
        let (n, array) = (at.ranks as f64, array as f64);
        let bytes = match comm.kind {
            CommKind::AllGather | CommKind::ReduceScatter => array * (n - 1.0) / n,
            CommKind::AllReduce => 2.0 * array * (n - 1.0) / n,
            CommKind::Broadcast => array,
            CommKind::AllToAll | CommKind::SendRecv => most as f64,
        };
        for lane in &lanes {
            self.open[lane.rank as usize][lane.stream as usize] = 1;
        }
        let method = method::collective(&self.gpu, self.transport, comm.kind, at, bytes, array);
        let ports = match comm.kind {
            CommKind::AllToAll => self.ports.of_pairs(&ranks, at),
            _ => self.ports.of_ring(&ranks, at),
        };
        self.fly(method, ports, &lanes, now, queue);
    }

    fn fly(
        &mut self,
        method: Method,
        ports: impl IntoIterator<Item = (u32, f64)>,
        lanes: &[Lane],
        now: u64,
        queue: &mut Queue,
    ) {
        let Some(&lane) = lanes.first() else { return };
        let flow = self.ports.add(lanes, ports, method.bytes_per_s, method.bytes);
        queue.push(now + ns(method.latency_s), lane, What::FlowBegin { flow });
    }

    /// The first byte of a flow moves.
    pub(super) fn begin(&mut self, flow: u32, now: u64, queue: &mut Queue) {
        self.ports.start(flow, now, queue);
    }

    /// The last byte of a flow has arrived.
    pub(super) fn end(&mut self, flow: u32, revision: u32, now: u64, queue: &mut Queue) {
        for &lane in self.ports.end(flow, revision, now, queue) {
            let open = &mut self.open[lane.rank as usize][lane.stream as usize];
            *open -= 1;
            if *open == 0 {
                queue.push(now, lane, What::CommEnd);
            }
        }
    }
}

impl Gpu {
    /// The node of a rank: ranks are numbered node by node.
    pub(super) fn node_of(&self, rank: u32) -> usize {
        rank as usize / self.node_ranks
    }
}
