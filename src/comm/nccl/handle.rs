//! A communicator's handle, and who may use it when.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use crate::ffi::nccl::abi::ncclComm_t;

/// How often a thread looks whether another has left NCCL.
const LOOK: Duration = Duration::from_micros(100);

/// The handle, until somebody takes it to end the communicator. Who calls NCCL holds the lock
/// meanwhile, so that **no thread is inside NCCL with a handle that was taken**.
#[derive(Default)]
pub(super) struct Handle(Mutex<Option<Raw>>);

/// The pointer. NCCL takes it from any thread, one at a time.
pub(super) struct Raw(pub(super) ncclComm_t);

// SAFETY: NCCL ties no communicator to a thread; `Handle` lets one in at a time.
unsafe impl Send for Raw {}

/// Permission to call NCCL.
pub(super) struct Inside<'a> {
    _lock: MutexGuard<'a, Option<Raw>>,
    pub(super) comm: ncclComm_t,
}

/// A thread stays inside NCCL.
pub(super) struct Busy;

impl Handle {
    pub(super) fn set(&self, comm: ncclComm_t) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(Raw(comm));
    }

    /// `None` once it was taken.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        Inside::of(self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// As `enter`, but does not wait for a thread that is inside: `Busy` then.
    pub(super) fn try_enter(&self) -> Result<Option<Inside<'_>>, Busy> {
        match self.0.try_lock() {
            Ok(lock) => Ok(Inside::of(lock)),
            Err(TryLockError::Poisoned(e)) => Ok(Inside::of(e.into_inner())),
            Err(TryLockError::WouldBlock) => Err(Busy),
        }
    }

    /// Takes it, once nobody is inside; `None` if it was taken before.
    pub(super) fn take(&self, within: Duration) -> Result<Option<Raw>, Busy> {
        let begin = Instant::now();
        loop {
            match self.0.try_lock() {
                Ok(mut lock) => return Ok(lock.take()),
                Err(TryLockError::Poisoned(e)) => return Ok(e.into_inner().take()),
                Err(TryLockError::WouldBlock) if begin.elapsed() >= within => return Err(Busy),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
            }
        }
    }
}

impl<'a> Inside<'a> {
    fn of(lock: MutexGuard<'a, Option<Raw>>) -> Option<Self> {
        let comm = lock.as_ref()?.0;
        Some(Self { _lock: lock, comm })
    }
}
