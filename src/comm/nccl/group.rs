use std::time::Instant;

use super::communicator::Communicator;
use super::failure::{Fault, checked};
use super::member::{Member, function};
use super::part::{Part, PartKind, dtype_code};
use crate::cuda::Stream;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::ffi::nccl::abi::*;
use crate::rendezvous::until;

/// Ops that are issued together: one op of the plan. Listed here, given to NCCL afterwards.
pub struct Group<'a> {
    member: &'a Member,
    label: &'a str,
    seq: u64,
    calls: Vec<Call>,
    stream: Option<u64>,
}

/// A part with its addresses; 0 where it has none.
pub(super) struct Call {
    part: Part,
    from: u64,
    to: u64,
}

impl Communicator {
    /// Issues the ops that `body` lists as one, and returns when NCCL has put them on their stream;
    /// they may be far from done. Work may be put behind them from then on. Counts one `seq`.
    ///
    /// # Errors
    /// What `body` says, with nothing issued and nothing poisoned; a failure of NCCL, and
    /// [`FailureKind::Timeout`](crate::error::FailureKind::Timeout) at the op deadline.
    pub fn group<T>(&mut self, label: &str, body: impl FnOnce(&mut Group<'_>) -> Result<T>) -> Result<T> {
        let (member, seq) = (&*self.member, self.next_seq);
        member.attempt(label, Some(seq), || Ok(()))?;
        let mut calls = std::mem::take(&mut self.calls);
        calls.clear();
        let mut group = Group { member, label, seq, calls, stream: None };
        let listed = body(&mut group);
        let Group { calls, stream, .. } = group;
        let result = listed.and_then(|value| {
            self.next_seq += 1;
            member.status.issue(seq, label, calls.iter().map(|call| call.part));
            member.attempt(label, Some(seq), || {
                issue(member, &calls, stream.unwrap_or(0))?;
                member.settle(label, until(self.op_deadline))
            })?;
            member.status.enqueued();
            Ok(value)
        });
        self.calls = calls;
        result
    }
}

impl Group<'_> {
    /// Sends `elems` elements to `peer`, which receives as many.
    ///
    /// # Errors
    /// No such rank, or another stream than the group's other ops have.
    ///
    /// # Safety
    /// Until the op has run, the elements from address `from` are device memory that nothing
    /// writes, and the stream is alive.
    pub unsafe fn send(&mut self, from: u64, elems: usize, dtype: Dtype, peer: usize, stream: &Stream) -> Result<()> {
        self.list(PartKind::Send, from, 0, elems, dtype, Some(peer), stream)
    }

    /// Receives `elems` elements from `peer`.
    ///
    /// # Errors
    /// As [`Group::send`].
    ///
    /// # Safety
    /// Until the op has run, the elements from address `to` are device memory that nothing else
    /// touches, and the stream is alive.
    pub unsafe fn recv(&mut self, to: u64, elems: usize, dtype: Dtype, peer: usize, stream: &Stream) -> Result<()> {
        self.list(PartKind::Recv, 0, to, elems, dtype, Some(peer), stream)
    }

    /// Gathers `elems` elements of every rank at `to`, in rank order; `from` may be its own place there.
    ///
    /// # Errors
    /// Another stream than the group's other ops have.
    ///
    /// # Safety
    /// As [`Group::send`] for `elems` elements at `from` and as [`Group::recv`] for `world * elems`
    /// at `to`.
    pub unsafe fn all_gather(&mut self, from: u64, to: u64, elems: usize, dtype: Dtype, stream: &Stream) -> Result<()> {
        self.list(PartKind::AllGather, from, to, elems, dtype, None, stream)
    }

    /// Sums `world * elems` elements over the ranks, **in NCCL's order**, and keeps this rank's `elems`.
    ///
    /// # Errors
    /// Another stream than the group's other ops have.
    ///
    /// # Safety
    /// As [`Group::send`] for `world * elems` elements at `from` and as [`Group::recv`] for `elems`
    /// at `to`.
    pub unsafe fn reduce_scatter(
        &mut self,
        from: u64,
        to: u64,
        elems: usize,
        dtype: Dtype,
        stream: &Stream,
    ) -> Result<()> {
        self.list(PartKind::ReduceScatter, from, to, elems, dtype, None, stream)
    }

    /// Sums `elems` elements over the ranks, **in NCCL's order**; `from` may be `to`.
    ///
    /// # Errors
    /// Another stream than the group's other ops have.
    ///
    /// # Safety
    /// As [`Group::send`] and [`Group::recv`] for `elems` elements each.
    pub unsafe fn all_reduce(&mut self, from: u64, to: u64, elems: usize, dtype: Dtype, stream: &Stream) -> Result<()> {
        self.list(PartKind::AllReduce, from, to, elems, dtype, None, stream)
    }

    /// Copies `elems` elements from `from` on `root` to `to` on every rank; they may be one.
    ///
    /// # Errors
    /// As [`Group::send`].
    ///
    /// # Safety
    /// As [`Group::send`], on the root alone, and [`Group::recv`] for `elems` elements each.
    pub unsafe fn broadcast(
        &mut self,
        from: u64,
        to: u64,
        elems: usize,
        dtype: Dtype,
        root: usize,
        stream: &Stream,
    ) -> Result<()> {
        self.list(PartKind::Broadcast, from, to, elems, dtype, Some(root), stream)
    }

    /// Sends `elems` elements to every rank, and receives as many from each, in rank order; not in place.
    ///
    /// # Errors
    /// [`FailureKind::LibraryMissing`](crate::error::FailureKind::LibraryMissing) before 2.28: use
    /// sends and receives. Another stream than the group's other ops have.
    ///
    /// # Safety
    /// As [`Group::send`] and [`Group::recv`] for `world * elems` elements each.
    pub unsafe fn all_to_all(&mut self, from: u64, to: u64, elems: usize, dtype: Dtype, stream: &Stream) -> Result<()> {
        self.list(PartKind::AllToAll, from, to, elems, dtype, None, stream)
    }

    #[allow(clippy::too_many_arguments)]
    fn list(
        &mut self,
        kind: PartKind,
        from: u64,
        to: u64,
        elems: usize,
        dtype: Dtype,
        peer: Option<usize>,
        stream: &Stream,
    ) -> Result<()> {
        let world = self.member.status.world();
        if let Some(peer) = peer.filter(|&peer| peer >= world) {
            let why = format!("{} with rank {peer} of a communicator of {world} ranks", kind.name());
            return Err(Error::Mesh(format!("op \"{}\": {why}", self.label)));
        }
        if *self.stream.get_or_insert(stream.handle()) != stream.handle() {
            let why = "NCCL would make its streams wait for each other; give each stream its own group";
            return Err(Error::Unsupported(format!("op \"{}\": two streams in one group: {why}", self.label)));
        }
        if kind == PartKind::AllToAll && self.member.library.functions().ncclAlltoAll.is_none() {
            let missing = self.member.library.missing("ncclAlltoAll");
            return Err(self.member.error(missing, self.label, Some(self.seq), Instant::now()));
        }
        self.calls.push(Call { part: Part { kind, elems, dtype, peer }, from, to });
        Ok(())
    }
}

/// Everything between the group's start and end happens inside: an abort from another thread comes
/// before or after.
fn issue(member: &Member, calls: &[Call], stream: u64) -> Result<(), Fault> {
    let library = &member.library;
    let (start, end) = (function!(library, ncclGroupStart)?, function!(library, ncclGroupEnd)?);
    let inside = member.enter()?;
    // SAFETY: changes the calling thread's state; ended below on every path.
    checked(library, "ncclGroupStart", unsafe { start() })?;
    // Empty ones come in pairs, whose halves skip them alike.
    let filled = calls.iter().filter(|call| call.part.elems > 0);
    // SAFETY: inside with a live handle; what the callers of `Group`'s functions promised.
    let issued = filled.map(|call| unsafe { call.issue(member, inside.comm, stream) }).find(Result::is_err);
    // SAFETY: ends what was started above.
    let ended = checked(library, "ncclGroupEnd", unsafe { end() });
    issued.unwrap_or(Ok(())).and(ended)
}

impl Call {
    /// # Safety
    /// The communicator is alive and no other thread uses it; memory and stream are as the functions
    /// of [`Group`] demand.
    unsafe fn issue(&self, member: &Member, comm: ncclComm_t, stream: u64) -> Result<(), Fault> {
        let library = &member.library;
        let Part { kind, elems, dtype, peer } = self.part;
        let (from, to, stream) = (self.from as *const _, self.to as *mut _, stream as cudaStream_t);
        // `list` has compared it with the world, which fits.
        let (dtype, peer) = (dtype_code(dtype), peer.unwrap_or(0) as std::ffi::c_int);
        // SAFETY: the caller's promise.
        let (call, code) = unsafe {
            match kind {
                PartKind::Send => ("ncclSend", function!(library, ncclSend)?(from, elems, dtype, peer, comm, stream)),
                PartKind::Recv => ("ncclRecv", function!(library, ncclRecv)?(to, elems, dtype, peer, comm, stream)),
                PartKind::AllGather => {
                    ("ncclAllGather", function!(library, ncclAllGather)?(from, to, elems, dtype, comm, stream))
                }
                PartKind::ReduceScatter => (
                    "ncclReduceScatter",
                    function!(library, ncclReduceScatter)?(from, to, elems, dtype, ncclSum, comm, stream),
                ),
                PartKind::AllReduce => {
                    ("ncclAllReduce", function!(library, ncclAllReduce)?(from, to, elems, dtype, ncclSum, comm, stream))
                }
                PartKind::Broadcast => {
                    ("ncclBroadcast", function!(library, ncclBroadcast)?(from, to, elems, dtype, peer, comm, stream))
                }
                PartKind::AllToAll => {
                    ("ncclAlltoAll", function!(library, ncclAlltoAll)?(from, to, elems, dtype, comm, stream))
                }
            }
        };
        checked(library, call, code)
    }
}
