//! A communicator under a watchdog: its ops in a flight record, its errors polled, its abort in
//! the watchdog's hands.

use std::sync::{Mutex, PoisonError};

use super::communicator::Communicator;
use super::part::{Part, PartKind};
use super::status::Op;
use crate::comm::signature::{self, Signature};
use crate::comm::watchdog::{Probe, Watch, Watchdog};
use crate::error::{Error, Result};
use crate::plan::CommKind;

impl Communicator {
    /// Has the watchdog watch this communicator of the global ranks `members`, in its order. From
    /// now on every group is in the flight record and has the deadline of
    /// [`Options::deadline`](crate::comm::watchdog::Options::deadline); its time runs until
    /// `ended`, the number of groups of this communicator that the device is done with, passes it.
    /// `ended` is called from the watchdog's thread, and must not block.
    ///
    /// Ask [`Watch::check`] before an op: it names the culprit, where NCCL only says that it failed.
    ///
    /// # Errors
    /// Members that are not as many as its ranks, and a communicator that is watched already.
    pub fn watch(
        &self,
        watchdog: &Watchdog,
        members: &[usize],
        ended: impl FnMut() -> u64 + Send + 'static,
    ) -> Result<Watch> {
        let status = self.status();
        if members.len() != status.world() {
            let why = format!("{} members of a communicator of {} ranks", members.len(), status.world());
            return Err(Error::Mesh(format!("{}: {why}", status.comm())));
        }
        let (errors, aborts) = (self.abort_handle(), self.abort_handle());
        let probe = Probe {
            error: Some(Box::new(move || errors.async_error())),
            ended: Some(Box::new(ended)),
            abort: Some(Box::new(move |failure| {
                if let Err(error) = aborts.abort(&failure.to_string()) {
                    log::error!("{error}");
                }
            })),
        };
        let watch = watchdog.watch(status.comm(), members, probe);
        let observed = watch.clone();
        let scratch = Mutex::new(Vec::new());
        let observer = move |op: &Op| {
            // Kept for its capacity.
            let mut calls = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            calls.clear();
            calls.extend(op.parts.iter().map(|part| call(op.seq, part)));
            observed.note(op.seq, &op.label, None, &calls);
        };
        if status.observe(Box::new(observer)).is_err() {
            watch.close();
            return Err(Error::Unsupported(format!("{} is watched already", status.comm())));
        }
        Ok(watch)
    }
}

fn call(seq: u64, part: &Part) -> Signature {
    let (kind, role) = match part.kind {
        PartKind::Send => (CommKind::SendRecv, signature::Part::Send),
        PartKind::Recv => (CommKind::SendRecv, signature::Part::Recv),
        PartKind::AllGather => (CommKind::AllGather, signature::Part::Whole),
        PartKind::ReduceScatter => (CommKind::ReduceScatter, signature::Part::Whole),
        PartKind::AllReduce => (CommKind::AllReduce, signature::Part::Whole),
        PartKind::Broadcast => (CommKind::Broadcast, signature::Part::Whole),
        PartKind::AllToAll => (CommKind::AllToAll, signature::Part::Whole),
    };
    Signature {
        comm: 0,
        seq,
        tag: 0,
        kind,
        part: role,
        dtype: part.dtype,
        peer: part.peer.map(|peer| peer as u32),
        elems: part.elems as u64,
    }
}
