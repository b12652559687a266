//! One rank alone: a communication is one group of calls on its op's stream.
//!
//! The ops of all streams are enqueued in plan order. The tags of a plan must ascend in that
//! order; since every rank holds its own plan to this, tags are a global order of all
//! communications, whatever their groups, and ranks that enqueue by it never wait for each other
//! in a circle. So that they run in that order as well, a group waits for the end of the one
//! before it, by stream order or by an event: never two of a library's kernels compete for a
//! device, and scratch is used by one op at a time.
//!
//! Sums are made here, from what arrived in scratch, in group order: the bits are those of every
//! other transport. Only where the ranks agreed to it does the library sum.

use std::collections::HashMap;

use super::writer::{Progress, Writer};
use super::{Action, GroupCall, Part, Place, Program, StreamIndex};
use crate::error::Result;
use crate::exec::cuda::agreement::Agreement;
use crate::plan::lower::{Command, Lowered};
use crate::plan::{Comm, CommKind, Direction, OpId, Plan};

pub(super) fn write(plan: &Plan, lowered: &Lowered, agreement: &Agreement) -> Result<Program> {
    let (plans, lowered) = ([plan], [lowered]);
    let mut writer = Writer::new(&plans, &lowered);
    let mut last = Last::default();
    let mut communicate = |writer: &mut Writer<'_>, stream, op| communicate(writer, stream, op, agreement, &mut last);
    for op in plan.op_ids() {
        let stream = plan.op(op).stream.0 as usize;
        loop {
            let command = writer.next(stream);
            if !writer.advance(stream, &mut communicate)? {
                return Err(writer.stuck());
            }
            if command == Some(Command::Run(op)) {
                break;
            }
        }
        while matches!(writer.next(stream), Some(Command::Record(_) | Command::Raise(_))) {
            writer.advance(stream, &mut communicate)?;
        }
    }
    if writer.is_done() { Ok(writer.program) } else { Err(writer.stuck()) }
}

/// The communication before this one.
#[derive(Default)]
struct Last {
    tag: Option<u32>,
    /// Its stream, and the position of the step behind it.
    end: Option<(StreamIndex, usize)>,
}

fn communicate(
    writer: &mut Writer<'_>,
    stream: StreamIndex,
    op: OpId,
    agreement: &Agreement,
    last: &mut Last,
) -> Result<Progress> {
    let rank = writer.program.streams[stream].0;
    let plan = writer.plan(rank);
    let comm = plan.comm(op).ok_or_else(|| writer.failed(rank, op, "is no communication"))?;
    if last.tag.is_some_and(|tag| tag >= comm.tag.0) {
        return Err(writer.failed(rank, op, "has a smaller tag than the communication before it: take tags in issue order, so that all ranks issue alike"));
    }
    last.tag = Some(comm.tag.0);
    let exchange = Exchange::of(writer, op, comm, agreement)?;
    if exchange.calls.is_empty() && exchange.sum.is_none() {
        writer.push(stream, Action::Begin(op));
        writer.push(stream, Action::End(op));
        return Ok(Progress::Done);
    }
    if let Some((before, at)) = last.end.filter(|(before, _)| *before != stream) {
        let event = writer.record_at(before, at);
        writer.push(stream, Action::Wait(event));
    }
    writer.push(stream, Action::Begin(op));
    if !exchange.calls.is_empty() {
        writer.push(stream, Action::Group { op, group: comm.group as usize, calls: exchange.calls });
    }
    if let Some((from, to)) = exchange.sum {
        writer.push(stream, Action::Sum { from, to });
    }
    last.end = Some((stream, writer.program.steps.len()));
    writer.push(stream, Action::End(op));
    Ok(Progress::Done)
}

/// What a communication becomes.
struct Exchange {
    calls: Vec<GroupCall>,
    sum: Option<(Vec<Place>, Part)>,
}

impl Exchange {
    fn of(writer: &mut Writer<'_>, op: OpId, comm: &Comm, agreement: &Agreement) -> Result<Self> {
        let plan = writer.plans[0];
        let transfers = Transfers::of(plan, op, comm);
        let calls = if agreement.is_native(plan, comm) { native(comm, &transfers) } else { None };
        if let Some(call) = calls {
            return Ok(Self { calls: vec![call], sum: None });
        }
        if comm.kind.reduces() {
            return summed(writer, op, &transfers);
        }
        let calls = transfers.list.iter().map(|&(direction, peer, part)| match direction {
            Direction::Send => GroupCall::Send { peer, from: part },
            Direction::Recv => GroupCall::Recv { peer, to: Place::Part(part) },
        });
        Ok(Self { calls: calls.collect(), sum: None })
    }
}

/// Every rank's part for this one into scratch, then their sum in group order.
fn summed(writer: &mut Writer<'_>, op: OpId, transfers: &Transfers) -> Result<Exchange> {
    let mut calls = Vec::new();
    let sum = transfers.list.iter().find(|(direction, ..)| *direction == Direction::Recv).map(|(.., part)| *part);
    let mut from = Vec::new();
    for peer in 0..transfers.group {
        let sent = transfers.sent(peer);
        if peer == transfers.own {
            let own = sent.map(Place::Part);
            if sum.is_some() {
                from.push(own.ok_or_else(|| writer.failed(transfers.rank, op, "adds nothing to its own sum"))?);
            }
            continue;
        }
        calls.extend(sent.map(|from| GroupCall::Send { peer, from }));
        if let Some(sum) = sum {
            let to = Place::Scratch(writer.scratch(sum));
            calls.push(GroupCall::Recv { peer, to });
            from.push(to);
        }
    }
    Ok(Exchange { calls, sum: sum.map(|sum| (from, sum)) })
}

/// The library's own collective, for a communication that fits it on all ranks.
fn native(comm: &Comm, transfers: &Transfers) -> Option<GroupCall> {
    let first = |wanted| transfers.list.iter().find(|(direction, ..)| *direction == wanted).copied();
    let (sent, received) = (first(Direction::Send), first(Direction::Recv));
    match comm.kind {
        CommKind::AllGather => {
            let ((.., from), (_, of, to)) = (sent?, received?);
            Some(GroupCall::AllGather { from, to, of })
        }
        CommKind::Broadcast => match (sent, received) {
            (Some((.., part)), _) => Some(GroupCall::Broadcast { root: transfers.own, part }),
            (None, Some((_, root, part))) => Some(GroupCall::Broadcast { root, part }),
            (None, None) => None,
        },
        CommKind::ReduceScatter => Some(GroupCall::ReduceScatter { from: transfers.sent(0)?, to: received?.2 }),
        CommKind::AllReduce => Some(GroupCall::AllReduce { from: sent?.2, to: received?.2 }),
        CommKind::AllToAll | CommKind::SendRecv => None,
    }
}

/// The messages of one rank, with peers counted in the group.
struct Transfers {
    rank: usize,
    /// Ranks of the group, and this one's place.
    group: usize,
    own: usize,
    list: Vec<(Direction, usize, Part)>,
}

impl Transfers {
    /// The law has every peer in the group.
    fn of(plan: &Plan, op: OpId, comm: &Comm) -> Self {
        let group = plan.groups.get(comm.group as usize).map(Vec::as_slice).unwrap_or_default();
        let places: HashMap<u32, usize> = group.iter().enumerate().map(|(place, &rank)| (rank, place)).collect();
        let rank = plan.rank as usize;
        let list = comm.transfers.iter().enumerate().filter_map(|(access, transfer)| {
            Some((transfer.direction, *places.get(&transfer.peer)?, Part { rank, op, access }))
        });
        let own = places.get(&plan.rank).copied().unwrap_or_default();
        Self { rank, group: group.len(), own, list: list.collect() }
    }

    /// What is sent to a peer, by a kind that sends every peer one slot.
    fn sent(&self, to: usize) -> Option<Part> {
        let mut sends = self.list.iter().filter(|(direction, ..)| *direction == Direction::Send);
        sends.find(|(_, peer, _)| *peer == to).map(|(.., part)| *part)
    }
}
