//! Whether the plans of a world can run to their end.
//!
//! Every op starts after its predecessor on the stream and after what its edges wait for; a
//! communication ends after it has started on every rank with which it exchanges; a gated kernel
//! ends after what its gates wait for. Nothing needs the start of a kernel but its own end, so
//! that the same graph stands for gates lowered to flags and to events. Run without doing
//! anything: what never ends lies on, or behind, a cycle.

use std::collections::VecDeque;

use super::OpId;
use super::member::Member;
use super::outline::Peers;
use super::tags::Tags;
use crate::error::Result;

/// Refuses a cycle, naming the ops and ranks on it.
pub(super) fn check(plans: &[Member], tags: &Tags) -> Result<()> {
    let mut run = Run::new(plans, tags);
    run.finish();
    run.refuse_cycle()
}

struct Rank<'a> {
    plan: Member<'a>,
    /// What each op still needs before it starts and before it ends.
    start_needs: Vec<u32>,
    end_needs: Vec<u32>,
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
    fn new(plans: &[Member<'a>], tags: &'a Tags) -> Self {
        let ranks: Vec<Rank> = plans.iter().map(|plan| Rank::new(*plan)).collect();
        let unstarted = tags.shared.iter().map(|shared| shared.ops.len()).collect();
        let mut ready = VecDeque::new();
        for (rank, of) in ranks.iter().enumerate() {
            let free = of.plan.flow.ops().filter(|op| of.start_needs[op.0 as usize] == 0);
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
        let Some(tag) = self.tag(rank, op) else { return };
        let shared = &tags.shared[tag];
        let plan = self.ranks[rank as usize].plan;
        match self.peers(rank, op) {
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
        self.unstarted[tag] -= 1;
        if self.unstarted[tag] == 0 {
            for &(peer, theirs) in &shared.ops {
                if matches!(self.peers(peer, theirs), Peers::All) {
                    self.end_needs_one_less(peer, theirs);
                }
            }
        }
    }

    fn peers(&self, rank: u32, op: OpId) -> Peers<'a> {
        self.ranks[rank as usize].plan.peers(op)
    }

    /// Index of an op's communication among those of the world.
    fn tag(&self, rank: u32, op: OpId) -> Option<usize> {
        let comm = self.ranks[rank as usize].plan.flow.comm(op)?;
        Some(self.tags.issued[rank as usize][comm].1)
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
        let flow = of.plan.flow;
        if let Some(next) = flow.successor(op) {
            of.start_needs[next.0 as usize] -= 1;
            if of.start_needs[next.0 as usize] == 0 {
                self.ready.push_back((rank, next, false));
            }
        }
        for &(to, gate) in flow.out(op) {
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
            of.plan.flow.ops().find(|op| of.end_needs[op.0 as usize] > 0).map(|op| (rank as u32, op))
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
            |&(rank, op): &(u32, OpId)| format!("\"{}\" on rank {rank}", self.ranks[rank as usize].plan.flow.label(op));
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
        Err(self.ranks[rank as usize].plan.at(op, why))
    }

    /// Something unfinished that an unfinished op waits for.
    fn waits_for(&self, rank: u32, op: OpId) -> Option<(u32, OpId)> {
        let of = &self.ranks[rank as usize];
        let unfinished = |op: OpId| of.end_needs[op.0 as usize] > 0;
        let started = of.start_needs[op.0 as usize] == 0;
        let leads_here = |from: &OpId| of.plan.flow.out(*from).contains(&(op, started));
        if let Some(from) = of.plan.flow.ops().find(|from| leads_here(from) && unfinished(*from)) {
            return Some((rank, from));
        }
        if !started {
            let previous = of.plan.flow.ops().find(|earlier| of.plan.flow.successor(*earlier) == Some(op));
            return previous.map(|previous| (rank, previous));
        }
        let tag = self.tag(rank, op)?;
        let waiting = |&&(peer, theirs): &&(u32, OpId)| {
            self.exchanges(rank, op, peer) && self.ranks[peer as usize].start_needs[theirs.0 as usize] > 0
        };
        self.tags.shared[tag].ops.iter().find(waiting).copied()
    }
}

impl<'a> Rank<'a> {
    fn new(plan: Member<'a>) -> Self {
        let mut end_needs = plan.flow.end_needs.clone();
        for comm in &plan.outline.comms {
            end_needs[comm.op.0 as usize] += match plan.outline.peers(comm) {
                Peers::Nobody => 0,
                Peers::All => 1,
                Peers::Some(peers) => peers.len() as u32,
            };
        }
        Self { plan, start_needs: plan.flow.start_needs.clone(), end_needs }
    }
}

fn op_on(tags: &Tags, tag: usize, rank: u32) -> Option<OpId> {
    let ops = &tags.shared[tag].ops;
    ops.binary_search_by_key(&rank, |op| op.0).ok().map(|at| ops[at].1)
}
