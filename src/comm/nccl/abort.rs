use std::sync::Arc;
use std::thread::{Builder, ScopedJoinHandle};

use super::failure::Fault;
use super::member::Member;
use super::status::Status;
use crate::error::{Error, Failure, FailureKind, Result};

/// Ends a communicator from any thread, a watchdog's above all; not from a signal handler, since it
/// takes locks.
#[derive(Clone)]
pub struct AbortHandle {
    pub(super) member: Arc<Member>,
}

impl AbortHandle {
    /// Stops what is in flight and ends the communicator, once its own thread is outside NCCL. The
    /// family is poisoned from the start: a call under way, finalize too, is cut off with
    /// [`FailureKind::Aborted`]. Where an end has begun, waits for it; at most twice the reaper's
    /// deadline in all. Nothing happens after the end.
    ///
    /// # Errors
    /// [`FailureKind::Unrecoverable`]: NCCL does not return, from the call that its thread is in or
    /// from the abort. Only the end of the process helps then.
    pub fn abort(&self, by: &str) -> Result<()> {
        if !self.member.handle.is_over() {
            let fault = Fault::from(FailureKind::Aborted { by: by.into() });
            self.member.family.poison(&self.member.failure_at_last_op(fault));
        }
        self.member.abort()
    }

    /// What NCCL's threads have met; nothing while the rank's thread is inside NCCL, or after the end.
    ///
    /// # Errors
    /// A failure, which poisons the family; later that it is poisoned.
    pub fn async_error(&self) -> Result<()> {
        let state = || match self.member.handle.try_enter() {
            Ok(Some(inside)) => self.member.state(inside.comm).map(drop),
            Ok(None) | Err(_) => Ok(()),
        };
        self.member.family.check().and_then(|()| state()).map_err(|fault| {
            let failure = self.member.failure_at_last_op(fault);
            self.member.family.poison(&failure);
            Error::Between(Box::new(failure))
        })
    }

    /// True once its end has begun: by an abort, by finalize or by drop.
    pub fn has_ended(&self) -> bool {
        !self.member.handle.is_live()
    }

    /// What does not return, once something of the family did not.
    pub fn unrecoverable(&self) -> Option<Failure> {
        self.member.family.stuck().cloned()
    }

    /// What the communicator did last.
    pub fn status(&self) -> &Arc<Status> {
        &self.member.status
    }
}

/// Aborts several communicators at once. One after the other would not do: an abort frees memory, which
/// waits for every kernel on the device, those of communicators that were not aborted yet among them,
/// and the end of a communicator may wait for those of other ranks of the host.
///
/// # Errors
/// As [`AbortHandle::abort`], of the first in their order.
pub fn abort_all(handles: &[AbortHandle], by: &str) -> Result<()> {
    std::thread::scope(|scope| {
        let abort = |handle| Builder::new().spawn_scoped(scope, move || AbortHandle::abort(handle, by));
        let threads: Vec<_> = handles.iter().map(|handle| (handle, abort(handle))).collect();
        let ended = |(handle, thread): (&AbortHandle, std::io::Result<ScopedJoinHandle<'_, Result<()>>>)| {
            let ended = thread.ok().and_then(|thread| thread.join().ok());
            // Where no thread was to be had: after the others.
            ended.unwrap_or_else(|| handle.abort(by))
        };
        // All of them, though one may not return.
        let ended: Vec<Result<()>> = threads.into_iter().map(ended).collect();
        ended.into_iter().collect()
    })
}
