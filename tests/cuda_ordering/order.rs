//! Happens-before of lowered forms, by brute force and without the crate's own: commands as nodes of
//! a graph, one order that they alone imply, and the pairs of accesses that it leaves unordered.

use std::collections::HashMap;

use seqpar::kernel::TensorView;
use seqpar::kernel::spec::Kernel;
use seqpar::plan::lower::{Command, Lowered};
use seqpar::plan::memory::Memory;
use seqpar::plan::{Access, Comm, Direction, OpId, Plan, Tag};

use crate::emulation::accesses::Bytes;

/// What orders the ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Between {
    /// Nothing that a plan could rely on: each rank alone, a communication is one op.
    Nothing,
    /// Copies by the receiver, once all senders have come; a sender's op ends when they are made.
    /// Where kernels wait inside, only the gated piece of a linear layer does.
    Loopback { inside: bool },
}

/// What touches memory: rank, op, and a piece of a kernel or a phase of a sum.
type At = (usize, OpId, usize);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Point {
    Record(usize, u32),
    Raise(usize, u32),
    Arrive(usize, Tag),
    /// Messages taken, or parts summed.
    Take(usize, Tag),
}

/// The plans of a world with the bytes of all their accesses.
pub(super) struct World<'a> {
    plans: &'a [Plan],
    between: Between,
    /// By what touches memory: reads, writes.
    touched: HashMap<At, [Bytes; 2]>,
    conflicts: Vec<(At, At)>,
}

impl<'a> World<'a> {
    pub(super) fn new(plans: &'a [Plan], memory: &[Memory], between: Between) -> Self {
        let mut world = Self { plans, between, touched: HashMap::new(), conflicts: Vec::new() };
        for (rank, plan) in plans.iter().enumerate() {
            for op in plan.op_ids() {
                world.touch(memory, rank, op);
            }
        }
        let mut all: Vec<&At> = world.touched.keys().collect();
        all.sort();
        let meet = |a: &At, b: &At| {
            let ([ra, wa], [rb, wb]) = (&world.touched[a], &world.touched[b]);
            [(wa, wb), (wa, rb), (ra, wb)].iter().any(|(x, y)| x.meets(y))
        };
        let pairs = all.iter().enumerate().flat_map(|(i, a)| all[i + 1..].iter().map(move |b| (**a, **b)));
        world.conflicts = pairs.filter(|(a, b)| (a.0, a.1) != (b.0, b.1) && meet(a, b)).collect();
        world
    }

    /// The first two accesses that conflict and that `lowered` does not order.
    pub(super) fn unordered(&self, lowered: &[Lowered]) -> Option<String> {
        let graph = Graph::of(self, lowered);
        let past = graph.closure();
        let before = |a: &At, b: &At| past[graph.at[b]][graph.at[a] / 64] >> (graph.at[a] % 64) & 1 == 1;
        let found = self.conflicts.iter().find(|(a, b)| !before(a, b) && !before(b, a));
        let name = |at: &At| format!("rank {} {:?}", at.0, self.plans[at.0].label(at.1));
        found.map(|(a, b)| format!("{} and {}", name(a), name(b)))
    }

    fn touch(&mut self, memory: &[Memory], rank: usize, op: OpId) {
        let plan = &self.plans[rank];
        let mut add = |at: At, access: &Access, of: usize, writes: bool, reads: bool| {
            let bytes = bytes(&self.plans[of], &memory[of], of, access);
            let sets = self.touched.entry(at).or_default();
            [reads, writes].iter().zip(sets).filter(|(does, _)| **does).for_each(|(_, set)| set.add_all(&bytes));
        };
        let accesses = plan.accesses(op);
        match (plan.kernel(op), plan.comm(op)) {
            (Some(kernel), _) => {
                let operands = kernel.operands();
                for (piece, access) in (0..kernel.pieces()).flat_map(|p| accesses.iter().map(move |a| (p, a))) {
                    if operands[access.operand as usize].piece.is_none_or(|of| of as usize == piece) {
                        add((rank, op, piece), access, rank, access.mode.writes(), access.mode.reads());
                    }
                }
            }
            (_, Some(comm)) if self.between != Between::Nothing => {
                for (transfer, access) in comm.transfers.iter().zip(accesses) {
                    let phase = usize::from(comm.kind.reduces());
                    if transfer.direction == Direction::Recv {
                        add((rank, op, phase), access, rank, true, false);
                    }
                }
                for &sender in &plan.groups[comm.group as usize] {
                    let sender = sender as usize;
                    let Some((other, comm)) = matching(&self.plans[sender], comm) else { continue };
                    for (transfer, access) in comm.transfers.iter().zip(self.plans[sender].accesses(other)) {
                        if (transfer.direction, transfer.peer as usize) == (Direction::Send, rank) {
                            add((rank, op, 0), access, sender, false, true);
                        }
                    }
                }
            }
            _ => accesses
                .iter()
                .for_each(|access| add((rank, op, 0), access, rank, access.mode.writes(), access.mode.reads())),
        }
    }
}

fn matching<'p>(plan: &'p Plan, comm: &Comm) -> Option<(OpId, &'p Comm)> {
    plan.op_ids().filter_map(|op| Some((op, plan.comm(op)?))).find(|(_, other)| other.tag == comm.tag)
}

/// Bytes of an access: temporaries where the arena has them, each bound buffer beside it.
fn bytes(plan: &Plan, memory: &Memory, rank: usize, access: &Access) -> Bytes {
    let buffer = plan.buffer(access.buffer);
    let mut bytes = Bytes::default();
    if access.region.is_empty() {
        return bytes;
    }
    let id = access.buffer.0 as usize;
    let place = match memory.offsets[id] {
        Some(offset) => offset as u64,
        None => (1 << 36) + ((id as u64) << 28),
    };
    let dims = buffer.dims;
    let address = ((rank as u64 + 1) << 42) + place + (access.region.offset(dims) * buffer.dtype.bytes()) as u64;
    let strides = [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1];
    bytes.add_view(&TensorView { address, dtype: buffer.dtype, shape: access.region.extents(), strides });
    bytes
}

/// Commands and what they stand for; edges from what comes before.
struct Graph {
    before: Vec<Vec<usize>>,
    at: HashMap<At, usize>,
    points: HashMap<Point, usize>,
    /// Edges from points that may come later in the list.
    open: Vec<(usize, Point)>,
}

impl Graph {
    fn of(world: &World<'_>, lowered: &[Lowered]) -> Self {
        let mut graph = Self { before: Vec::new(), at: HashMap::new(), points: HashMap::new(), open: Vec::new() };
        for (rank, lowered) in lowered.iter().enumerate() {
            for commands in &lowered.streams {
                let mut last = graph.node(&[]);
                for command in commands {
                    last = match *command {
                        Command::Wait(event) => graph.behind(last, Point::Record(rank, event.0)),
                        Command::Record(event) => graph.point(last, Point::Record(rank, event.0)),
                        Command::Raise(flag) => graph.point(last, Point::Raise(rank, flag.0)),
                        Command::Run(op) => graph.run(world, lowered, rank, op, last),
                    };
                }
            }
        }
        for (node, point) in std::mem::take(&mut graph.open) {
            graph.before[node].extend(graph.points.get(&point));
        }
        graph
    }

    fn node(&mut self, before: &[usize]) -> usize {
        self.before.push(before.to_vec());
        self.before.len() - 1
    }

    fn point(&mut self, last: usize, point: Point) -> usize {
        let node = self.node(&[last]);
        self.points.insert(point, node);
        node
    }

    fn behind(&mut self, last: usize, point: Point) -> usize {
        let node = self.node(&[last]);
        self.open.push((node, point));
        node
    }

    /// The end of the op.
    fn run(&mut self, world: &World<'_>, lowered: &Lowered, rank: usize, op: OpId, last: usize) -> usize {
        let plan = &world.plans[rank];
        match (plan.kernel(op), plan.comm(op), world.between) {
            (Some(kernel), ..) => self.kernel(world, lowered, rank, op, kernel, last),
            (_, Some(comm), Between::Loopback { .. }) => self.exchange(rank, op, plan, comm, last),
            _ => {
                let node = self.node(&[last]);
                self.at.insert((rank, op, 0), node);
                node
            }
        }
    }

    fn kernel(
        &mut self,
        world: &World<'_>,
        lowered: &Lowered,
        rank: usize,
        op: OpId,
        kernel: &Kernel,
        last: usize,
    ) -> usize {
        let flags = |piece: usize| {
            let own = lowered.gates.iter().filter(move |gate| gate.op == op && gate.piece as usize == piece);
            own.map(|gate| Point::Raise(rank, gate.flag.0)).collect::<Vec<_>>()
        };
        let gated = (0..kernel.pieces()).any(|piece| !flags(piece).is_empty());
        let one_each = (0..kernel.pieces()).all(|piece| flags(piece).len() < 2);
        let inside = match world.between {
            Between::Nothing => true,
            Between::Loopback { inside } => inside && gated && one_each && matches!(kernel, Kernel::Gemm(_)),
        };
        let mut ends = vec![last];
        for piece in 0..kernel.pieces() {
            let mut start = if inside { last } else { ends[ends.len() - 1] };
            for flag in flags(piece) {
                start = self.behind(start, flag);
            }
            let node = self.node(&[start]);
            self.at.insert((rank, op, piece), node);
            ends.push(node);
        }
        self.node(&ends)
    }

    fn exchange(&mut self, rank: usize, op: OpId, plan: &Plan, comm: &Comm, last: usize) -> usize {
        let reduces = comm.kind.reduces();
        let members = plan.groups[comm.group as usize].iter().map(|&rank| rank as usize).filter(|&other| other != rank);
        let meets = |other: usize, direction| {
            comm.transfers.iter().any(|t| t.direction == direction && t.peer as usize == other)
        };
        let arrived = self.point(last, Point::Arrive(rank, comm.tag));
        let take = self.node(&[arrived]);
        let senders = members.clone().filter(|&other| reduces || meets(other, Direction::Recv));
        self.open.extend(senders.map(|other| (take, Point::Arrive(other, comm.tag))));
        self.at.insert((rank, op, 0), take);
        let taken = self.point(take, Point::Take(rank, comm.tag));
        let end = self.node(&[taken]);
        let receivers = members.filter(|&other| meets(other, Direction::Send));
        self.open.extend(receivers.map(|other| (end, Point::Take(other, comm.tag))));
        if reduces {
            // The sum is stored when its parts are needed no more.
            let store = self.node(&[end]);
            self.at.insert((rank, op, 1), store);
            return store;
        }
        end
    }

    /// For each node all that comes before it, a bit each.
    fn closure(&self) -> Vec<Vec<u64>> {
        let count = self.before.len();
        let mut past: Vec<Vec<u64>> = vec![Vec::new(); count];
        let mut open: Vec<usize> = (0..count).collect();
        while let Some(&node) = open.last() {
            if !past[node].is_empty() {
                open.pop();
                continue;
            }
            let missing: Vec<usize> = self.before[node].iter().copied().filter(|&b| past[b].is_empty()).collect();
            if !missing.is_empty() {
                assert!(open.len() < 100 * count, "commands that wait for each other");
                open.extend(missing);
                continue;
            }
            let mut bits = vec![0; count.div_ceil(64)];
            for &earlier in &self.before[node] {
                bits.iter_mut().zip(&past[earlier]).for_each(|(bit, more)| *bit |= more);
                bits[earlier / 64] |= 1 << (earlier % 64);
            }
            past[node] = bits;
        }
        past
    }
}
