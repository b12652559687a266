//! What ranks owe each other, of checked plans: communications and the order of ops. Regions,
//! kernels and memory are not needed any more, and the order, which most ranks have alike, is kept
//! once: worlds of thousands of ranks fit in memory.

use std::ops::Range;

use super::{Checked, Comm, CommKind, Direction, OpId, Plan};
use crate::dtype::Dtype;

/// Checked plans, rank by rank, as other ranks see them.
#[derive(Debug, Default)]
pub struct Outlines {
    ranks: Vec<Outline>,
    flows: Vec<Flow>,
}

/// One plan.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) rank: u32,
    pub(super) world: u32,
    pub(super) groups: Vec<Vec<u32>>,
    /// In issue order.
    pub(super) comms: Vec<Exchange>,
    messages: Vec<Message>,
    peers: Vec<u32>,
    /// Its [`Flow`].
    flow: usize,
}

/// A communication.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) op: OpId,
    pub(super) kind: CommKind,
    pub(super) tag: u32,
    pub(super) group: u32,
    pub(super) dtype: Dtype,
    messages: Range<u32>,
    with: With,
}

/// One transfer of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) peer: u32,
    pub(super) direction: Direction,
    pub(super) elems: usize,
}

#[derive(Debug)]
enum With {
    Nobody,
    All,
    Some(Range<u32>),
}

/// With whom an op exchanges.
#[derive(Clone, Copy)]
pub(super) enum Peers<'a> {
    Nobody,
    /// Every rank of its group.
    All,
    Some(&'a [u32]),
}

/// Order and names of a plan's ops.
#[derive(Debug, PartialEq)]
pub(super) struct Flow {
    labels: Vec<String>,
    label: Vec<u32>,
    /// Index of each op's communication in issue order, or [`NONE`].
    comm: Vec<u32>,
    /// What each op needs on its own rank before it starts and before it ends.
    pub(super) start_needs: Vec<u32>,
    pub(super) end_needs: Vec<u32>,
    /// Successor on the stream, or [`NONE`].
    successor: Vec<u32>,
    /// The edges that leave each op: where they go, and whether they are gates.
    first_out: Vec<u32>,
    out: Vec<(OpId, bool)>,
}

const NONE: u32 = u32::MAX;

impl Outlines {
    /// Adds the next rank.
    pub fn push(&mut self, plan: &Checked<Plan>) {
        let flow = Flow::of(plan);
        if self.flows.last() != Some(&flow) {
            self.flows.push(flow);
        }
        self.ranks.push(Outline::of(plan, self.flows.len() - 1));
    }

    /// Adds the ranks of `later`.
    pub fn append(&mut self, later: Outlines) {
        let flows = self.flows.len();
        self.flows.extend(later.flows);
        self.ranks.extend(later.ranks.into_iter().map(|of| Outline { flow: of.flow + flows, ..of }));
    }

    pub(super) fn ranks(&self) -> &[Outline] {
        &self.ranks
    }

    pub(super) fn flow(&self, of: &Outline) -> &Flow {
        &self.flows[of.flow]
    }
}

impl Outline {
    fn of(plan: &Checked<Plan>, flow: usize) -> Self {
        let mut outline = Self {
            rank: plan.rank,
            world: plan.world,
            groups: plan.groups.clone(),
            comms: Vec::with_capacity(plan.comms.len()),
            messages: Vec::new(),
            peers: Vec::new(),
            flow,
        };
        for op in plan.op_ids() {
            if let Some(comm) = plan.comm(op) {
                outline.add(plan, op, comm);
            }
        }
        outline
    }

    fn add(&mut self, plan: &Plan, op: OpId, comm: &Comm) {
        let first = self.messages.len() as u32;
        self.messages.extend(comm.transfers.iter().zip(plan.accesses(op)).map(|(transfer, access)| Message {
            peer: transfer.peer,
            direction: transfer.direction,
            elems: access.region.elems(),
        }));
        let messages = first..self.messages.len() as u32;
        let with = self.with(comm);
        let Comm { kind, tag, group, dtype, .. } = *comm;
        self.comms.push(Exchange { op, kind, tag: tag.0, group, dtype, messages, with });
    }

    /// A reducing op needs the whole group: a rank without a slot of its own sends to all others.
    fn with(&mut self, comm: &Comm) -> With {
        if comm.kind.reduces() {
            return With::All;
        }
        let mut peers: Vec<u32> = comm.transfers.iter().map(|transfer| transfer.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        match peers.len() {
            0 => With::Nobody,
            n if n + 1 == self.groups[comm.group as usize].len() => With::All,
            _ => {
                let first = self.peers.len() as u32;
                self.peers.extend(peers);
                With::Some(first..self.peers.len() as u32)
            }
        }
    }

    pub(super) fn messages(&self, comm: &Exchange) -> &[Message] {
        &self.messages[comm.messages.start as usize..comm.messages.end as usize]
    }

    /// As this plan names them.
    pub(super) fn peers(&self, comm: &Exchange) -> Peers<'_> {
        match &comm.with {
            With::Nobody => Peers::Nobody,
            With::All => Peers::All,
            With::Some(range) => Peers::Some(&self.peers[range.start as usize..range.end as usize]),
        }
    }
}

impl Flow {
    fn of(plan: &Checked<Plan>) -> Self {
        let ops = plan.ops.len();
        let mut flow = Self {
            labels: plan.labels.clone(),
            label: plan.ops.iter().map(|op| op.label).collect(),
            comm: vec![NONE; ops],
            start_needs: vec![0; ops],
            end_needs: vec![1; ops],
            successor: vec![NONE; ops],
            first_out: vec![0; ops + 1],
            out: vec![(OpId(0), false); plan.edges().len()],
        };
        for (index, op) in plan.op_ids().filter(|op| plan.comm(*op).is_some()).enumerate() {
            flow.comm[op.0 as usize] = index as u32;
        }
        let mut last: Vec<Option<OpId>> = vec![None; plan.streams.len()];
        for id in plan.op_ids() {
            if let Some(previous) = last[plan.op(id).stream.0 as usize].replace(id) {
                flow.successor[previous.0 as usize] = id.0;
                flow.start_needs[id.0 as usize] += 1;
            }
        }
        for edge in plan.edges() {
            flow.first_out[edge.from.0 as usize + 1] += 1;
            let needs = if edge.gate { &mut flow.end_needs } else { &mut flow.start_needs };
            needs[edge.to.0 as usize] += 1;
        }
        for op in 0..ops {
            flow.first_out[op + 1] += flow.first_out[op];
        }
        let mut next = flow.first_out.clone();
        for edge in plan.edges() {
            let slot = &mut next[edge.from.0 as usize];
            flow.out[*slot as usize] = (edge.to, edge.gate);
            *slot += 1;
        }
        flow
    }

    pub(super) fn ops(&self) -> impl Iterator<Item = OpId> + use<> {
        (0..self.comm.len() as u32).map(OpId)
    }

    pub(super) fn label(&self, op: OpId) -> &str {
        &self.labels[self.label[op.0 as usize] as usize]
    }

    /// Index of an op's communication in issue order.
    pub(super) fn comm(&self, op: OpId) -> Option<usize> {
        let index = self.comm[op.0 as usize];
        (index != NONE).then_some(index as usize)
    }

    pub(super) fn successor(&self, op: OpId) -> Option<OpId> {
        let next = self.successor[op.0 as usize];
        (next != NONE).then_some(OpId(next))
    }

    /// The edges that leave `op`.
    pub(super) fn out(&self, op: OpId) -> &[(OpId, bool)] {
        &self.out[self.first_out[op.0 as usize] as usize..self.first_out[op.0 as usize + 1] as usize]
    }
}
