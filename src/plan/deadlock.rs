//! Whether the plans of a world can run to their end.
//!
//! Every op starts after its predecessor on the stream and after what its edges wait for; a
//! communication ends after it has started on every rank with which it exchanges; a gated kernel
//! ends after what its gates wait for. Nothing needs the start of a kernel but its own end, so
//! that the same graph stands for gates lowered to flags and to events. Run without doing
//! anything: what never ends lies on, or behind, a cycle.

use std::collections::VecDeque;

use super::member::Member;
use super::rules::at;
use super::tags::Tags;
use super::{Checked, OpId, Plan};
use crate::error::Result;

/// Refuses a cycle, naming the ops and ranks on it.
pub(super) fn check(plans: &[Member], tags: &Tags) -> Result<()> {
    let different = plans.iter().take_while(|plan| plan.rank() == plan.plan.rank);
    let shapes: Vec<Shape> = different.map(|plan| Shape::new(plan)).collect();
    let mut run = Run::new(plans, &shapes, tags);
    run.finish();
    run.refuse_cycle()
}

/// With whom a communication exchanges.
enum Peers {
    Nobody,
    /// Every rank of its group.
    All,
    Some(Vec<u32>),
}

/// What all ranks share that run one plan under different names.
struct Shape {
    /// What each op needs before it starts and before it ends.
    start_needs: Vec<u32>,
    end_needs: Vec<u32>,
    /// Successor on the stream, and index of the first edge that leaves an op, in `out`.
    successor: Vec<Option<OpId>>,
    first_out: Vec<u32>,
    out: Vec<(OpId, bool)>,
    /// As the plan names them.
    peers: Vec<Peers>,
}

struct Rank<'a> {
    plan: Member<'a>,
    shape: &'a Shape,
    /// What each op still needs before it starts and before it ends.
    start_needs: Vec<u32>,
    end_needs: Vec<u32>,
    /// Index of each op's communication among those of the world.
    tag: Vec<Option<u32>>,
}

struct Run<'a> {
    tags: &'a Tags,
    ranks: Vec<Rank<'a>>,
    /// Ranks of each communication that have not started it.
    unstarted: Vec<usize>,
    /// (rank, op, true for its end).
    ready: VecDeque<(u32, OpId, bool)>,
}

impl<'a> Run<'a> {
    fn new(plans: &[Member<'a>], shapes: &'a [Shape], tags: &'a Tags) -> Self {
        let named = plans.iter().zip(shapes.iter().cycle()).zip(&tags.issued);
        let ranks: Vec<Rank> = named.map(|((plan, shape), issued)| Rank::new(*plan, shape, issued)).collect();
        let unstarted = tags.shared.iter().map(|shared| shared.ops.len()).collect();
        let mut ready = VecDeque::new();
        for (rank, of) in ranks.iter().enumerate() {
            let free = of.plan.op_ids().filter(|op| of.start_needs[op.0 as usize] == 0);
            ready.extend(free.map(|op| (rank as u32, op, false)));
        }
        Self { tags, ranks, unstarted, ready }
    }

    fn finish(&mut self) {
        while let Some((rank, op, ends)) = self.ready.pop_front() {
            if ends {
                self.end(rank, op);
            } else {
                self.start(rank, op);
            }
        }
    }

    fn start(&mut self, rank: u32, op: OpId) {
        self.end_needs_one_less(rank, op);
        let tags = self.tags;
        let Some(tag) = self.ranks[rank as usize].tag[op.0 as usize] else { return };
        let shared = &tags.shared[tag as usize];
        let (plan, shape) = (self.ranks[rank as usize].plan, self.ranks[rank as usize].shape);
        match &shape.peers[op.0 as usize] {
            Peers::Some(peers) => {
                for peer in peers.iter().map(|&peer| plan.named(peer)) {
                    let theirs = op_on(tags, tag, peer);
                    let theirs = theirs.filter(|op| !matches!(self.peers(peer, *op), Peers::All));
                    if let Some(theirs) = theirs {
                        self.end_needs_one_less(peer, theirs);
                    }
                }
            }
            // Those that exchange with some ranks only still wait for this one.
            Peers::All => {
                for &(peer, theirs) in &shared.ops {
                    if matches!(self.peers(peer, theirs), Peers::Some(_)) && self.exchanges(peer, theirs, rank) {
                        self.end_needs_one_less(peer, theirs);
                    }
                }
            }
            Peers::Nobody => {}
        }
        self.unstarted[tag as usize] -= 1;
        if self.unstarted[tag as usize] == 0 {
            for &(peer, theirs) in &shared.ops {
                if matches!(self.peers(peer, theirs), Peers::All) {
                    self.end_needs_one_less(peer, theirs);
                }
            }
        }
    }

    fn peers(&self, rank: u32, op: OpId) -> &'a Peers {
        &self.ranks[rank as usize].shape.peers[op.0 as usize]
    }

    /// True if `op` of `rank` exchanges with `other`.
    fn exchanges(&self, rank: u32, op: OpId, other: u32) -> bool {
        match self.peers(rank, op) {
            Peers::All => true,
            Peers::Some(peers) => peers.iter().any(|&peer| self.ranks[rank as usize].plan.named(peer) == other),
            Peers::Nobody => false,
        }
    }

    fn end(&mut self, rank: u32, op: OpId) {
        let of = &mut self.ranks[rank as usize];
        let shape = of.shape;
        let out = shape.first_out[op.0 as usize] as usize..shape.first_out[op.0 as usize + 1] as usize;
        if let Some(next) = shape.successor[op.0 as usize] {
            of.start_needs[next.0 as usize] -= 1;
            if of.start_needs[next.0 as usize] == 0 {
                self.ready.push_back((rank, next, false));
            }
        }
        for i in out {
            let (to, gate) = shape.out[i];
            if gate {
                self.end_needs_one_less(rank, to);
                continue;
            }
            let needs = &mut self.ranks[rank as usize].start_needs[to.0 as usize];
            *needs -= 1;
            if *needs == 0 {
                self.ready.push_back((rank, to, false));
            }
        }
    }

    fn end_needs_one_less(&mut self, rank: u32, op: OpId) {
        let needs = &mut self.ranks[rank as usize].end_needs[op.0 as usize];
        *needs -= 1;
        if *needs == 0 {
            self.ready.push_back((rank, op, true));
        }
    }

    fn refuse_cycle(&self) -> Result<()> {
        let stuck = self.ranks.iter().enumerate().find_map(|(rank, of)| {
            of.plan.op_ids().find(|op| of.end_needs[op.0 as usize] > 0).map(|op| (rank as u32, op))
        });
        let Some(mut at_op) = stuck else { return Ok(()) };
        let mut path = vec![at_op];
        while let Some(next) = self.waits_for(at_op.0, at_op.1) {
            if let Some(first) = path.iter().position(|seen| *seen == next) {
                path.drain(..first);
                break;
            }
            path.push(next);
            at_op = next;
        }
        let name =
            |&(rank, op): &(u32, OpId)| format!("\"{}\" on rank {rank}", self.ranks[rank as usize].plan.label(op));
        let mut names: Vec<String> = path.iter().take(8).map(name).collect();
        if path.len() > 8 {
            names.push(format!("{} more", path.len() - 8));
        }
        names.extend(path.first().map(name));
        let why = format!(
            "deadlock: {}; issue one of these communications earlier, or on another stream",
            names.join(" waits for ")
        );
        let (rank, op) = path[0];
        Err(at(&self.ranks[rank as usize].plan, op, why))
    }

    /// Something unfinished that an unfinished op waits for.
    fn waits_for(&self, rank: u32, op: OpId) -> Option<(u32, OpId)> {
        let of = &self.ranks[rank as usize];
        let unfinished = |op: OpId| of.end_needs[op.0 as usize] > 0;
        let started = of.start_needs[op.0 as usize] == 0;
        let edges = of.plan.edges();
        let first = edges.partition_point(|edge| edge.to < op);
        let incoming = edges[first..].iter().take_while(|edge| edge.to == op);
        let mut incoming = incoming.filter(|edge| edge.gate == started && unfinished(edge.from));
        if let Some(edge) = incoming.next() {
            return Some((rank, edge.from));
        }
        if !started {
            let previous = of.plan.op_ids().find(|earlier| of.shape.successor[earlier.0 as usize] == Some(op));
            return previous.map(|previous| (rank, previous));
        }
        let tag = of.tag[op.0 as usize]?;
        let waiting = |&&(peer, theirs): &&(u32, OpId)| {
            self.exchanges(rank, op, peer) && self.ranks[peer as usize].start_needs[theirs.0 as usize] > 0
        };
        self.tags.shared[tag as usize].ops.iter().find(waiting).copied()
    }
}

impl<'a> Rank<'a> {
    fn new(plan: Member<'a>, shape: &'a Shape, issued: &[(OpId, usize)]) -> Self {
        let mut tag = vec![None; plan.ops.len()];
        for &(op, index) in issued {
            tag[op.0 as usize] = Some(index as u32);
        }
        Self { plan, shape, start_needs: shape.start_needs.clone(), end_needs: shape.end_needs.clone(), tag }
    }
}

impl Shape {
    fn new(plan: &Checked<Plan>) -> Self {
        let ops = plan.ops.len();
        let mut shape = Self {
            start_needs: vec![0; ops],
            end_needs: vec![1; ops],
            successor: vec![None; ops],
            first_out: vec![0; ops + 1],
            out: vec![(OpId(0), false); plan.edges().len()],
            peers: plan.op_ids().map(|op| peers(plan, op)).collect(),
        };
        let mut last: Vec<Option<OpId>> = vec![None; plan.streams.len()];
        for id in plan.op_ids() {
            if let Some(previous) = last[plan.op(id).stream.0 as usize].replace(id) {
                shape.successor[previous.0 as usize] = Some(id);
                shape.start_needs[id.0 as usize] += 1;
            }
        }
        for edge in plan.edges() {
            shape.first_out[edge.from.0 as usize + 1] += 1;
            let needs = if edge.gate { &mut shape.end_needs } else { &mut shape.start_needs };
            needs[edge.to.0 as usize] += 1;
        }
        for op in 0..ops {
            shape.first_out[op + 1] += shape.first_out[op];
        }
        let mut next = shape.first_out.clone();
        for edge in plan.edges() {
            let slot = &mut next[edge.from.0 as usize];
            shape.out[*slot as usize] = (edge.to, edge.gate);
            *slot += 1;
        }
        for (needs, peers) in shape.end_needs.iter_mut().zip(&shape.peers) {
            *needs += match peers {
                Peers::Nobody => 0,
                Peers::All => 1,
                Peers::Some(peers) => peers.len() as u32,
            };
        }
        shape
    }
}

/// With whom an op exchanges. A reducing op needs the whole group: a rank without a slot of its
/// own sends to all others.
fn peers(plan: &Plan, op: OpId) -> Peers {
    let Some(comm) = plan.comm(op) else { return Peers::Nobody };
    if comm.kind.reduces() {
        return Peers::All;
    }
    let mut peers: Vec<u32> = comm.transfers.iter().map(|transfer| transfer.peer).collect();
    peers.sort_unstable();
    peers.dedup();
    match peers.len() {
        0 => Peers::Nobody,
        n if n + 1 == plan.groups[comm.group as usize].len() => Peers::All,
        _ => Peers::Some(peers),
    }
}

fn op_on(tags: &Tags, tag: u32, rank: u32) -> Option<OpId> {
    let ops = &tags.shared[tag as usize].ops;
    ops.binary_search_by_key(&rank, |op| op.0).ok().map(|at| ops[at].1)
}
