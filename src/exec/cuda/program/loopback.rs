//! A world on one device: a communication is copies between the ranks' buffers, enqueued by the
//! rank that receives. They wait until every sender has arrived at the op, and a sender's op ends
//! when its messages have been taken. A reducing one is a kernel that reads every rank's part.

use std::collections::HashMap;

use super::writer::{Progress, Writer};
use super::{Action, Part, Place, Program, StreamIndex};
use crate::error::{Error, Result};
use crate::plan::lower::Lowered;
use crate::plan::{Comm, Direction, OpId, Plan, Tag};

pub(super) fn write(plans: &[&Plan], lowered: &[&Lowered]) -> Result<Program> {
    let mut writer = Writer::new(plans, lowered);
    let mut exchanges = Exchanges::of(plans, writer.program.streams.len())?;
    while !writer.is_done() {
        let mut moved = false;
        for stream in 0..writer.program.streams.len() {
            while writer.advance(stream, &mut |writer, stream, op| exchanges.advance(writer, stream, op))? {
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
    /// Events that the members recorded when they arrived and when they had taken everything.
    arrived: Vec<Option<usize>>,
    taken: Vec<Option<usize>>,
}

/// How far a stream is within a communication.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Start,
    Arrived,
    Taken,
}

struct Exchanges {
    list: Vec<Exchange>,
    /// (rank, op) to its exchange and place in it.
    of: HashMap<(usize, OpId), (usize, usize)>,
    /// By stream.
    phase: Vec<Phase>,
}

impl Exchanges {
    /// The communications of the world: ops of equal tag and group.
    fn of(plans: &[&Plan], streams: usize) -> Result<Self> {
        let mut list: Vec<Exchange> = Vec::new();
        let mut of = HashMap::new();
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
                        taken: nobody,
                    });
                    list.len() - 1
                });
                let Some(member) = group.iter().position(|&member| member as usize == rank) else {
                    return Err(law(plan, op, "communicates in a group that it is no member of"));
                };
                list[index].members[member] = (rank, op);
                of.insert((rank, op), (index, member));
            }
        }
        for exchange in &list {
            let here = exchange.members.iter().find(|(rank, _)| *rank != usize::MAX);
            if let (Some(&(rank, op)), true) = (here, exchange.members.iter().any(|(rank, _)| *rank == usize::MAX)) {
                return Err(law(plans[rank], op, "a rank of its group never runs it"));
            }
        }
        Ok(Self { list, of, phase: vec![Phase::Start; streams] })
    }

    fn advance(&mut self, writer: &mut Writer<'_>, stream: StreamIndex, op: OpId) -> Result<Progress> {
        let rank = writer.program.streams[stream].0;
        let Some(&(exchange, member)) = self.of.get(&(rank, op)) else {
            return Err(writer.failed(rank, op, "no other rank knows this communication"));
        };
        let comm = writer.plan(rank).comm(op).ok_or_else(|| writer.failed(rank, op, "is no communication"))?;
        match self.phase[stream] {
            Phase::Start => {
                writer.push(stream, Action::Begin(op));
                self.list[exchange].arrived[member] = Some(writer.record(stream));
                self.phase[stream] = Phase::Arrived;
            }
            Phase::Arrived => {
                let senders = self.peers(exchange, rank, comm, Direction::Recv);
                let Some(events) = recorded(&self.list[exchange].arrived, &senders) else {
                    return Ok(Progress::Blocked);
                };
                events.into_iter().for_each(|event| writer.push(stream, Action::Wait(event)));
                if comm.kind.reduces() {
                    self.sums(writer, stream, rank, op, comm, exchange)?;
                } else {
                    self.messages(writer, stream, rank, op, comm, exchange)?;
                }
                self.list[exchange].taken[member] = Some(writer.record(stream));
                self.phase[stream] = Phase::Taken;
            }
            Phase::Taken => {
                let receivers = self.peers(exchange, rank, comm, Direction::Send);
                let Some(events) = recorded(&self.list[exchange].taken, &receivers) else {
                    return Ok(Progress::Blocked);
                };
                events.into_iter().for_each(|event| writer.push(stream, Action::Wait(event)));
                writer.push(stream, Action::End(op));
                self.phase[stream] = Phase::Start;
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::Moved)
    }

    /// Places in the exchange of the other ranks that send to this one (`Recv`) or receive from
    /// it (`Send`). Every member of a reducing op gives to every sum.
    fn peers(&self, exchange: usize, rank: usize, comm: &Comm, direction: Direction) -> Vec<usize> {
        let members = &self.list[exchange].members;
        let everyone = comm.kind.reduces() && direction == Direction::Recv;
        let meets = |other: u32| comm.transfers.iter().any(|t| t.direction == direction && t.peer == other);
        let others = members.iter().enumerate().filter(|(_, (other, _))| *other != rank);
        others.filter(|(_, (other, _))| everyone || meets(*other as u32)).map(|(place, _)| place).collect()
    }

    /// Message `i` from a to b meets the `i`-th from a on b.
    fn messages(
        &self,
        writer: &mut Writer<'_>,
        stream: StreamIndex,
        rank: usize,
        op: OpId,
        comm: &Comm,
        exchange: usize,
    ) -> Result<()> {
        let mut taken: HashMap<usize, usize> = HashMap::new();
        for (access, transfer) in comm.transfers.iter().enumerate() {
            if transfer.direction != Direction::Recv {
                continue;
            }
            let sender = transfer.peer as usize;
            let nth = taken.entry(sender).or_default();
            let from = self.sent(writer, exchange, sender, rank, *nth);
            *nth += 1;
            let from = from.ok_or_else(|| writer.failed(rank, op, &format!("rank {sender} sends too little")))?;
            writer.push(stream, Action::Message { from, to: Part { rank, op, access } });
        }
        Ok(())
    }

    /// The `i`-th sum of a rank is that of the `i`-th part which each member, in group order,
    /// sends to it.
    fn sums(
        &self,
        writer: &mut Writer<'_>,
        stream: StreamIndex,
        rank: usize,
        op: OpId,
        comm: &Comm,
        exchange: usize,
    ) -> Result<()> {
        let members: Vec<usize> = self.list[exchange].members.iter().map(|(rank, _)| *rank).collect();
        let receives = comm.transfers.iter().enumerate().filter(|(_, t)| t.direction == Direction::Recv);
        for (nth, (access, _)) in receives.enumerate() {
            let part = |&member: &usize| self.sent(writer, exchange, member, rank, nth).map(Place::Part);
            let from: Option<Vec<Place>> = members.iter().map(part).collect();
            let from = from.ok_or_else(|| writer.failed(rank, op, "a rank adds nothing to this rank's sum"))?;
            writer.push(stream, Action::Sum { from, to: Part { rank, op, access } });
        }
        Ok(())
    }

    /// The `nth` part that `sender` sends to `to`.
    fn sent(&self, writer: &Writer<'_>, exchange: usize, sender: usize, to: usize, nth: usize) -> Option<Part> {
        let &(rank, op) = self.list[exchange].members.iter().find(|(rank, _)| *rank == sender)?;
        let comm = writer.plan(rank).comm(op)?;
        let sends = comm.transfers.iter().enumerate();
        let mut sends = sends.filter(|(_, t)| t.direction == Direction::Send && t.peer as usize == to);
        sends.nth(nth).map(|(access, _)| Part { rank, op, access })
    }
}

/// The events of these members, once all are recorded.
fn recorded(events: &[Option<usize>], members: &[usize]) -> Option<Vec<usize>> {
    members.iter().map(|&member| events[member]).collect()
}

fn law(plan: &Plan, op: OpId, why: &str) -> Error {
    Error::Law { rank: plan.rank as usize, op: plan.label(op).to_string(), why: why.to_string() }
}
