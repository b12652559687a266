use std::sync::Arc;

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
    /// family is poisoned from the start: a call under way returns
    /// [`FailureKind::Aborted`]. Where an end has begun, waits for it; at most twice the reaper's
    /// deadline in all.
    ///
    /// # Errors
    /// [`FailureKind::Unrecoverable`]: NCCL does not return, from the call that its thread is in or
    /// from the abort. Only the end of the process helps then.
    pub fn abort(&self, by: &str) -> Result<()> {
        if !self.has_ended() {
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
