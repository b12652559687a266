//! One rank's lowered plan in the few words that time depends on, so that worlds of thousands of
//! ranks fit in memory: the plan itself is not needed any more.

use std::collections::HashMap;
use std::sync::Arc;

use super::cost::{self, Cost};
use super::machine::SimMachine;
use crate::exec::Report;
use crate::plan::lower::{Gates, Lowered};
use crate::plan::{Checked, CommKind, Direction, Names, OpId, OpKind, Plan};

/// What one rank does.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) rank: u32,
    /// Mostly alike on all ranks.
    pub(super) lowered: Arc<Lowered>,
    pub(super) ops: Vec<Work>,
    pub(super) pieces: Vec<Cost>,
    pub(super) comms: Vec<Exchange>,
    pub(super) messages: Vec<Message>,
    pub(super) groups: Vec<Vec<u32>>,
    pub(super) bytes_sent: u64,
    pub(super) messages_sent: u64,
    pub(super) peak_bytes: usize,
}

/// What an op does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// `count` pieces from `first`; more than one only if the kernel is gated.
    Compute {
        first: u32,
        count: u32,
    },
    Comm(u32),
    Nothing,
}

/// A communication.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) kind: CommKind,
    pub(super) tag: u32,
    pub(super) group: u32,
    pub(super) first: u32,
    pub(super) count: u32,
}

/// One transfer of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) peer: u32,
    pub(super) sends: bool,
    pub(super) bytes: u64,
}

/// Durations of compute spans that were measured: they replace those of the machine.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    ns: HashMap<(usize, String, Option<u16>), u64>,
}

impl Measured {
    /// The compute spans of a run of the same plans, best one where several reports are given.
    pub fn of(reports: &[Report]) -> Self {
        let mut ns: HashMap<(usize, String, Option<u16>), u64> = HashMap::new();
        for report in reports {
            for span in report.spans.iter().filter(|span| span.kind.computes()) {
                let best = ns.entry((span.rank, span.op.to_string(), span.piece)).or_insert(u64::MAX);
                *best = (*best).min(span.ns());
            }
        }
        Self { ns }
    }

    fn cost(&self, rank: usize, label: &str, piece: Option<u16>) -> Option<Cost> {
        let ns = self.ns.get(&(rank, label.to_string(), piece))?;
        Some(Cost { fixed_s: *ns as f64 / 1e9, ..Cost::default() })
    }
}

impl Program {
    /// Shares with `like`, another rank of the world, what both have alike.
    pub(super) fn of(
        plan: &Checked<Plan>,
        machine: &SimMachine,
        measured: Option<&Measured>,
        like: Option<&Program>,
    ) -> Self {
        let mut lowered = plan.lowered(Gates::Flags);
        lowered.gates.sort_unstable_by_key(|gate| (gate.op, gate.piece));
        let shared = like.map(|like| &like.lowered).filter(|of_like| ***of_like == lowered).cloned();
        let mut program = Self {
            rank: plan.rank,
            lowered: shared.unwrap_or_else(|| Arc::new(lowered)),
            ops: Vec::with_capacity(plan.ops.len()),
            pieces: Vec::new(),
            comms: Vec::with_capacity(plan.comms.len()),
            messages: Vec::new(),
            groups: plan.groups.clone(),
            bytes_sent: plan.bytes_sent(),
            messages_sent: plan.messages_sent(),
            peak_bytes: plan.memory().peak_bytes,
        };
        for id in plan.op_ids() {
            let work = program.work(plan, id, machine, measured);
            program.ops.push(work);
        }
        program
    }

    fn work(&mut self, plan: &Plan, id: OpId, machine: &SimMachine, measured: Option<&Measured>) -> Work {
        let seen = |piece| measured.and_then(|measured| measured.cost(plan.rank as usize, plan.label(id), piece));
        let first = self.pieces.len() as u32;
        match plan.op(id).kind {
            OpKind::Kernel(i) => {
                let kernel = &plan.kernels[i as usize];
                let gated = self.lowered.gates.binary_search_by_key(&id, |gate| gate.op).is_ok();
                let cost = |piece| cost::piece(machine, kernel, piece);
                if gated {
                    let pieces = (0..kernel.pieces()).map(|i| seen(Some(i as u16)).unwrap_or_else(|| cost(i)));
                    self.pieces.extend(pieces);
                } else {
                    let whole = || {
                        let mut sum = Cost::default();
                        (0..kernel.pieces()).for_each(|piece| sum.add(cost(piece)));
                        sum
                    };
                    self.pieces.push(seen(None).unwrap_or_else(whole));
                }
            }
            OpKind::Copy => {
                let bytes: usize = plan.accesses(id).iter().map(|access| plan.access_bytes(access)).sum();
                self.pieces.push(seen(None).unwrap_or_else(|| cost::copy(machine, bytes as f64)));
            }
            OpKind::External(_) => self.pieces.push(seen(None).unwrap_or_default()),
            OpKind::Comm(i) => {
                let comm = &plan.comms[i as usize];
                let first = self.messages.len() as u32;
                self.messages.extend(comm.transfers.iter().zip(plan.accesses(id)).map(|(transfer, access)| Message {
                    peer: transfer.peer,
                    sends: transfer.direction == Direction::Send,
                    bytes: plan.access_bytes(access) as u64,
                }));
                let count = comm.transfers.len() as u32;
                self.comms.push(Exchange { kind: comm.kind, tag: comm.tag.0, group: comm.group, first, count });
                return Work::Comm(self.comms.len() as u32 - 1);
            }
            OpKind::Mark => return Work::Nothing,
        }
        Work::Compute { first, count: self.pieces.len() as u32 - first }
    }

    pub(super) fn messages(&self, comm: &Exchange) -> &[Message] {
        &self.messages[comm.first as usize..(comm.first + comm.count) as usize]
    }

    /// The ranks of a group, in order, as this plan's rank sees them.
    pub(super) fn group(&self, comm: &Exchange) -> &[u32] {
        &self.groups[comm.group as usize]
    }

    /// The flags for which a piece waits.
    pub(super) fn flags(&self, op: OpId, piece: u16) -> impl Iterator<Item = u32> + '_ {
        let first = self.lowered.gates.partition_point(|gate| (gate.op, gate.piece) < (op, piece));
        self.lowered.gates[first..]
            .iter()
            .take_while(move |gate| (gate.op, gate.piece) == (op, piece))
            .map(|gate| gate.flag.0)
    }
}

/// A rank of the world: a program, its own or that of an earlier rank with the ranks renamed.
#[derive(Clone, Copy)]
pub(super) struct Seat<'a> {
    pub(super) program: &'a Program,
    pub(super) names: Names,
}

impl Seat<'_> {
    /// The rank that the program calls `rank`.
    pub(super) fn rank(&self, rank: u32) -> u32 {
        self.names.of(rank)
    }

    /// The ranks of a communication.
    pub(super) fn group(&self, comm: &Exchange) -> impl Iterator<Item = u32> + Clone + '_ {
        self.program.group(comm).iter().map(|&rank| self.rank(rank))
    }
}
