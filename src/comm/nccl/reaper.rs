//! Ends of communicators. NCCL may never return from one, so each runs on a thread of its own that
//! is left behind at its deadline; the handle is lost then, and the family marked unrecoverable.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::failure::{Fault, checked};
use super::handle::{Busy, Raw};
use super::member::{Member, Pause, function};
use crate::error::{Error, FailureKind, Result};
use crate::ffi::nccl::abi::*;
use crate::rendezvous::until;

impl Member {
    /// Aborts and waits for it, or for the end that another thread has begun.
    pub(super) fn abort(self: &Arc<Self>) -> Result<()> {
        let begin = Instant::now();
        let raw = match self.handle.take(self.reaper_deadline, || self.family.stuck().is_some()) {
            Ok(Some(raw)) => raw,
            Ok(None) => return Ok(()),
            Err(Busy::Inside) => return Err(self.stuck("a call of NCCL, so ncclCommAbort cannot be called", begin)),
            Err(Busy::Ending) => return Err(self.stuck("an end of this communicator that began before", begin)),
        };
        let member = self.clone();
        let end = move || {
            let outcome = member.call_abort(raw);
            member.handle.ended();
            outcome
        };
        match on_a_thread(self.reaper_deadline, end) {
            Some(outcome) => outcome.map_err(|fault| self.error(fault, "abort", None, begin)),
            None => Err(self.stuck("ncclCommAbort", begin)),
        }
    }

    /// Aborts behind the caller's back: for drops.
    pub(super) fn abort_behind(self: &Arc<Self>) {
        if !self.handle.is_live() {
            return;
        }
        let member = self.clone();
        let wait = move || {
            if let Err(error) = member.abort() {
                log::warn!("{error}");
            }
        };
        if std::thread::Builder::new().name("seqpar-reaper".into()).spawn(wait).is_err() {
            self.stuck("ncclCommAbort, for want of a thread,", Instant::now());
        }
    }

    /// Ends in good order what was issued; aborts if that fails or takes too long.
    pub(super) fn finalize(self: &Arc<Self>, deadline: Duration) -> Result<(), Fault> {
        let begin = Instant::now();
        let raw = match self.handle.take(deadline, || true) {
            Ok(Some(raw)) => raw,
            Ok(None) | Err(Busy::Ending) => return Err(self.family.interrupted()),
            Err(Busy::Inside) => {
                return Err(FailureKind::Timeout { stage: "another thread is inside NCCL".into() }.into());
            }
        };
        let member = self.clone();
        let longest = deadline.saturating_add(self.reaper_deadline);
        let end = move || {
            let outcome = member.call_finalize(raw, until(deadline));
            member.handle.ended();
            outcome
        };
        on_a_thread(longest, end).unwrap_or_else(|| {
            self.stuck("ncclCommFinalize", begin);
            Err(FailureKind::Unrecoverable { what: "ncclCommFinalize".into() }.into())
        })
    }

    fn call_finalize(&self, raw: Raw, deadline: Instant) -> Result<(), Fault> {
        let destroy = function!(self.library, ncclCommDestroy)?;
        match self.flush(&raw, deadline) {
            // SAFETY: the handle was taken, so nobody else has it; it is not used again.
            Ok(()) => checked(&self.library, "ncclCommDestroy", unsafe { destroy(raw.0) }),
            Err(fault) => {
                // The first fault is the one to tell.
                let _ = self.call_abort(raw);
                Err(fault)
            }
        }
    }

    fn flush(&self, raw: &Raw, deadline: Instant) -> Result<(), Fault> {
        let finalize = function!(self.library, ncclCommFinalize)?;
        // SAFETY: the handle was taken, so nobody else has it.
        checked(&self.library, "ncclCommFinalize", unsafe { finalize(raw.0) })?;
        let mut pause = Pause::new();
        while self.state(raw.0)? == ncclInProgress {
            self.family.check().map_err(|_| self.family.interrupted())?;
            if Instant::now() >= deadline {
                return Err(FailureKind::Timeout { stage: "ncclCommFinalize is still in progress".into() }.into());
            }
            pause.wait();
        }
        Ok(())
    }

    fn call_abort(&self, raw: Raw) -> Result<(), Fault> {
        let abort = function!(self.library, ncclCommAbort)?;
        // SAFETY: the handle was taken, so no thread is inside NCCL with it; it is not used again.
        checked(&self.library, "ncclCommAbort", unsafe { abort(raw.0) })
    }

    fn stuck(&self, what: &str, begin: Instant) -> Error {
        let kind = FailureKind::Unrecoverable { what: what.into() };
        let failure = self.failure(kind.into(), "", None, begin);
        self.family.mark_stuck(failure.clone());
        Error::Between(Box::new(failure))
    }
}

/// `None` if `work` is not done at the deadline, or never begun for want of a thread.
fn on_a_thread<T: Send + 'static>(deadline: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, wait) = sync_channel(1);
    let work = move || {
        let _ = done.send(work());
    };
    std::thread::Builder::new().name("seqpar-nccl-end".into()).spawn(work).ok()?;
    wait.recv_timeout(deadline).ok()
}
