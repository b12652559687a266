//! Communications: copies within the device, groups of a communication library, sums.

use super::{Call, Message, Resolver, Side};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::exec::cuda::options::Route;
use crate::exec::cuda::program::{GroupCall, Part, Place};
use crate::kernel::cuda::{self, Launch};
use crate::plan::{Direction, OpId};

/// Rank and stream.
type At = (usize, usize);

/// Alignment of a piece of scratch: what vector loads want.
const ALIGNMENT_BYTES: usize = 256;

impl Resolver<'_> {
    /// One piece of memory for the scratch of all ops: the program lets no two of them overlap.
    pub(super) fn place_scratch(&mut self) -> Result<()> {
        let (mut offsets, mut bytes, mut last) = (Vec::new(), 0, None);
        let mut next = 0;
        for &part in &self.prepared.program.scratch {
            if last.replace(part.op) != Some(part.op) {
                next = 0;
            }
            offsets.push(next as u64);
            next += self.region(part)?.1.next_multiple_of(ALIGNMENT_BYTES);
            bytes = bytes.max(next);
        }
        if bytes > 0 {
            let base = self.scratch(bytes)?;
            self.pieces = offsets.into_iter().map(|offset| base + offset).collect();
        }
        Ok(())
    }

    pub(super) fn message(&mut self, at: At, from: Part, to: Part) -> Result<()> {
        let ((from_address, sent), (to_address, taken)) = (self.region(from)?, self.region(to)?);
        if sent != taken {
            let why = format!("takes {taken} bytes where rank {} sends {sent}", from.rank);
            return Err(self.rank(to.rank).failed(to.op, why));
        }
        if from.rank == to.rank {
            self.push(at, Some(to.op), Call::Copy { to: to_address, from: from_address, bytes: sent });
            return Ok(());
        }
        self.transfer(at, to.op, from.rank, to_address, from_address, sent)
    }

    /// A message from another rank of this device.
    fn transfer(&mut self, at: At, op: OpId, sender: usize, to: u64, from: u64, bytes: usize) -> Result<()> {
        let hold = self.stamp(at, op, sender, bytes)?;
        if self.prepared.options.route == Route::Device {
            self.push(at, Some(op), Call::Copy { to, from, bytes });
        } else {
            let staging = self.staging(at.1, bytes);
            self.push(at, Some(op), Call::Staged { staging, to, from, bytes });
        }
        hold.map_or(Ok(()), |hold| self.launch(at, op, &hold))
    }

    /// In front of a message that a link delays; what is to be launched behind it.
    fn stamp(&mut self, at: At, op: OpId, sender: usize, bytes: usize) -> Result<Option<Launch>> {
        self.bytes_sent[sender] += bytes as u64;
        let Some(ports) = &mut self.ports else { return Ok(None) };
        let [stamp, hold] = cuda::link(&ports.passage(sender, at.0, bytes));
        self.launch(at, op, &stamp)?;
        Ok(Some(hold))
    }

    /// The staging of a stream, with room for a message.
    fn staging(&mut self, stream: usize, bytes: usize) -> usize {
        let known = self.stagings.iter().position(|(of, _)| *of == stream);
        let staging = known.unwrap_or_else(|| {
            self.stagings.push((stream, 0));
            self.stagings.len() - 1
        });
        self.stagings[staging].1 = self.stagings[staging].1.max(bytes);
        staging
    }

    pub(super) fn sum(&mut self, at: At, from: &[Place], to: Part) -> Result<()> {
        let (out, bytes) = self.region(to)?;
        let dtype = self.dtype(to);
        let (mut parts, mut holds) = (Vec::new(), Vec::new());
        for place in from {
            let (address, given) = self.place(*place)?;
            if given != bytes {
                return Err(Error::Shape(format!("sums {bytes} bytes where {given} are given")));
            }
            let sender = if let Place::Part(part) = place { part.rank } else { to.rank };
            if sender == to.rank {
                parts.push(address);
            } else if self.prepared.options.route == Route::Device {
                // The sum itself reads it.
                holds.extend(self.stamp(at, to.op, sender, given)?);
                parts.push(address);
            } else {
                let here = self.scratch(bytes)?;
                self.transfer(at, to.op, sender, here, address, given)?;
                parts.push(here);
            }
        }
        let launch = cuda::sum(dtype, &parts, out, bytes / dtype.bytes(), &self.device())?;
        self.launch(at, to.op, &launch)?;
        holds.iter().try_for_each(|hold| self.launch(at, to.op, hold))
    }

    pub(super) fn group(&mut self, at: At, op: OpId, group: usize, calls: &[GroupCall]) -> Result<()> {
        let (prepared, rank) = (self.prepared, self.rank(at.0));
        let ranks = rank.plan.groups.get(group).map(Vec::as_slice).unwrap_or_default();
        if prepared.transport.is_peer() {
            return self.exchange(at, op, ranks, calls);
        }
        let communicator = prepared.transport.communicator(ranks).ok_or_else(|| {
            rank.failed(op, format!("has no communicator of the ranks {ranks:?}: agree on the plans that are prepared"))
        })?;
        let dtype = rank.plan.comm(op).map_or(Dtype::F32, |comm| comm.dtype);
        let mut messages = Vec::new();
        for call in calls {
            let (message, sent) = self.call(*call, dtype.bytes(), ranks.len())?;
            messages.push(message);
            self.bytes_sent[at.0] += sent as u64;
        }
        self.push(at, Some(op), Call::Group { communicator, dtype, messages });
        Ok(())
    }

    /// The messages of one op with ranks whose memory this one reaches.
    fn exchange(&mut self, at: At, op: OpId, ranks: &[u32], calls: &[GroupCall]) -> Result<()> {
        let first = self.sides.len();
        for call in calls {
            let (place, direction, (address, bytes)) = match *call {
                GroupCall::Send { peer, from } => (peer, Direction::Send, self.region(from)?),
                GroupCall::Recv { peer, to } => (peer, Direction::Recv, self.place(to)?),
                _ => return Err(self.rank(at.0).failed(op, "is a library's collective, without a library")),
            };
            let peer = ranks.get(place).map_or(at.0, |&rank| rank as usize);
            if direction == Direction::Send && peer != at.0 {
                self.bytes_sent[at.0] += bytes as u64;
            }
            self.sides.push(Side { peer, direction, address, bytes });
        }
        self.push(at, Some(op), Call::Exchange(first..self.sides.len()));
        Ok(())
    }

    /// The call with its addresses, and the bytes that it sends to other ranks.
    fn call(&self, call: GroupCall, size: usize, ranks: usize) -> Result<(Message, usize)> {
        let others = ranks - 1;
        Ok(match call {
            GroupCall::Send { peer, from } => {
                let (from, bytes) = self.region(from)?;
                (Message::Send { peer, from, elems: bytes / size }, bytes)
            }
            GroupCall::Recv { peer, to } => {
                let (to, bytes) = self.place(to)?;
                (Message::Recv { peer, to, elems: bytes / size }, 0)
            }
            GroupCall::AllGather { from, to, of } => {
                let ((from, bytes), (slot, _)) = (self.region(from)?, self.region(to)?);
                let to = slot - (of * bytes) as u64;
                (Message::AllGather { from, to, elems: bytes / size }, others * bytes)
            }
            GroupCall::Broadcast { root, part } => {
                let (address, bytes) = self.region(part)?;
                let plan = &self.rank(part.rank).plan;
                (Message::Broadcast { root, address, elems: bytes / size }, plan.op_bytes_sent(part.op) as usize)
            }
            GroupCall::ReduceScatter { from, to } => {
                let ((from, _), (to, bytes)) = (self.region(from)?, self.region(to)?);
                (Message::ReduceScatter { from, to, elems: bytes / size }, others * bytes)
            }
            GroupCall::AllReduce { from, to } => {
                let ((from, _), (to, bytes)) = (self.region(from)?, self.region(to)?);
                (Message::AllReduce { from, to, elems: bytes / size }, others * bytes)
            }
        })
    }

    fn place(&self, place: Place) -> Result<(u64, usize)> {
        match place {
            Place::Part(part) => self.region(part),
            Place::Scratch(index) => {
                let bytes = self.region(self.prepared.program.scratch[index])?.1;
                Ok((self.pieces[index], bytes))
            }
        }
    }

    fn dtype(&self, part: Part) -> Dtype {
        self.rank(part.rank).plan.comm(part.op).map_or(Dtype::F32, |comm| comm.dtype)
    }
}
