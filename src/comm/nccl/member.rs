//! A communicator as its rank's thread, abort handles and the reaper share it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::Strings;
use super::failure::{Fault, checked};
use super::family::Family;
use super::handle::{Handle, Inside};
use super::library::Library;
use super::status::Status;
use crate::error::{Error, Failure, FailureKind, Result};
use crate::ffi::nccl::abi::*;

/// An exported function, or the fault that it is not there.
macro_rules! function {
    ($library:expr, $name:ident) => {
        $library.functions().$name.ok_or_else(|| $library.missing(stringify!($name)))
    };
}
pub(super) use function;

pub(super) struct Member {
    pub(super) library: Library,
    pub(super) handle: Handle,
    pub(super) family: Arc<Family>,
    pub(super) status: Arc<Status>,
    pub(super) reaper_deadline: Duration,
    /// NCCL keeps pointers to them.
    pub(super) _strings: Strings,
}

impl Member {
    /// Runs `body` unless the family is poisoned; its failure poisons the family.
    pub(super) fn attempt<T>(&self, op: &str, seq: Option<u64>, body: impl FnOnce() -> Result<T, Fault>) -> Result<T> {
        let begin = Instant::now();
        self.family.check().and_then(|()| body()).map_err(|fault| self.error(fault, op, seq, begin))
    }

    /// A fault as an error of this communicator. A function that the library lacks is noticed before
    /// anything is begun, so it poisons nothing.
    pub(super) fn error(&self, fault: Fault, op: &str, seq: Option<u64>, begin: Instant) -> Error {
        let failure = self.failure(fault, op, seq, begin);
        if !matches!(failure.kind, FailureKind::LibraryMissing { .. }) {
            self.family.poison(&failure);
        }
        Error::Between(Box::new(failure))
    }

    pub(super) fn failure(&self, fault: Fault, op: &str, seq: Option<u64>, begin: Instant) -> Failure {
        let rank = self.status.rank();
        Failure {
            kind: fault.kind,
            rank,
            comm: self.status.comm().to_string(),
            seq,
            op: op.to_string(),
            culprits: fault.culprits.into_iter().filter(|&culprit| culprit != rank).collect(),
            elapsed_ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// A fault at the op that was issued last.
    pub(super) fn failure_at_last_op(&self, fault: Fault) -> Failure {
        let (op, seq, begin) = self.status.last(|last| match last {
            Some(op) => (op.label.clone(), Some(op.seq), op.issued),
            None => (String::new(), None, Instant::now()),
        });
        self.failure(fault, &op, seq, begin)
    }

    /// All that any communicator needs; the rest are capabilities.
    pub(super) fn complete(&self) -> Result<(), Fault> {
        let library = &self.library;
        function!(library, ncclCommInitRankConfig)?;
        function!(library, ncclCommGetAsyncError)?;
        function!(library, ncclCommFinalize)?;
        function!(library, ncclCommDestroy)?;
        function!(library, ncclCommAbort)?;
        function!(library, ncclGroupStart)?;
        function!(library, ncclGroupEnd)?;
        Ok(())
    }

    /// Permission to call NCCL. Whoever is about to abort has poisoned the family before, so that a
    /// thread that polls does not keep it out.
    pub(super) fn enter(&self) -> Result<Inside<'_>, Fault> {
        self.family.check().map_err(|_| self.family.interrupted())?;
        self.enter_poisoned()
    }

    /// As `enter`, for what is of use on a family that is poisoned.
    pub(super) fn enter_poisoned(&self) -> Result<Inside<'_>, Fault> {
        self.handle.enter().ok_or_else(|| self.family.interrupted())
    }

    /// What NCCL says of the communicator: success, in progress, or what went wrong in its threads.
    pub(super) fn state(&self, comm: ncclComm_t) -> Result<ncclResult_t, Fault> {
        let call = function!(self.library, ncclCommGetAsyncError)?;
        let mut state = ncclSuccess;
        // SAFETY: the caller is inside with this handle; writes one integer.
        checked(&self.library, "ncclCommGetAsyncError", unsafe { call(comm, &mut state) })?;
        checked(&self.library, "ncclCommGetAsyncError", state)?;
        Ok(state)
    }

    /// Polls until NCCL is done with what was asked of it.
    pub(super) fn settle(&self, stage: &str, deadline: Instant) -> Result<(), Fault> {
        self.poll(stage, deadline, || self.enter())
    }

    /// As `settle`, on a family that is poisoned.
    pub(super) fn settle_poisoned(&self, stage: &str, deadline: Instant) -> Result<(), Fault> {
        self.poll(stage, deadline, || self.enter_poisoned())
    }

    fn poll<'a>(
        &self,
        stage: &str,
        deadline: Instant,
        enter: impl Fn() -> Result<Inside<'a>, Fault>,
    ) -> Result<(), Fault> {
        let mut pause = Pause::new();
        loop {
            let inside = enter()?;
            if self.state(inside.comm)? != ncclInProgress {
                return Ok(());
            }
            drop(inside);
            if Instant::now() >= deadline {
                return Err(FailureKind::Timeout { stage: format!("{stage} is still in progress") }.into());
            }
            pause.wait();
        }
    }
}

/// Waits between two looks: short while an answer may come soon, without a core of its own later.
pub(super) struct Pause(Instant);

impl Pause {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    pub(super) fn wait(&mut self) {
        match self.0.elapsed().as_millis() {
            0..20 => std::thread::yield_now(),
            20..1000 => std::thread::sleep(Duration::from_micros(50)),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
