//! A communicator's handle, and who may use it when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use crate::ffi::nccl::abi::ncclComm_t;

/// How often a thread looks whether another has left NCCL.
const LOOK: Duration = Duration::from_micros(100);

/// The handle, until somebody takes it to end the communicator. Who calls NCCL holds the lock
/// meanwhile, so that **no thread is inside NCCL with a handle that was taken**.
#[derive(Default)]
pub(super) struct Handle {
    state: Mutex<State>,
    /// As the state says, for those who only ask: that others hold the lock for a moment is no answer.
    is_live: AtomicBool,
    /// Likewise.
    is_over: AtomicBool,
}

#[derive(Default)]
enum State {
    /// NCCL has given none.
    #[default]
    Empty,
    Live(Raw),
    /// Somebody is ending it.
    Taken,
    Ended,
}

/// The pointer. NCCL takes it from any thread, one at a time.
pub(super) struct Raw(pub(super) ncclComm_t);

// SAFETY: NCCL ties no communicator to a thread; `Handle` lets one in at a time.
unsafe impl Send for Raw {}

/// Permission to call NCCL.
pub(super) struct Inside<'a> {
    _lock: MutexGuard<'a, State>,
    pub(super) comm: ncclComm_t,
}

/// Why a handle cannot be had.
pub(super) enum Busy {
    /// A thread stays inside NCCL.
    Inside,
    /// Somebody is ending it, and does not come to an end.
    Ending,
}

impl Handle {
    pub(super) fn set(&self, comm: ncclComm_t) {
        let mut state = self.lock();
        *state = State::Live(Raw(comm));
        self.is_live.store(true, Ordering::Release);
    }

    /// False before NCCL has given it, and once somebody has taken it.
    pub(super) fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Acquire)
    }

    /// Who took it has ended it.
    pub(super) fn ended(&self) {
        *self.lock() = State::Ended;
        self.is_over.store(true, Ordering::Release);
    }

    /// True once who took it has ended it.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// `None` once it was taken.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        Inside::of(self.lock())
    }

    /// As `enter`, but does not wait for a thread that is inside: `Busy` then.
    pub(super) fn try_enter(&self) -> Result<Option<Inside<'_>>, Busy> {
        match self.state.try_lock() {
            Ok(lock) => Ok(Inside::of(lock)),
            Err(TryLockError::Poisoned(e)) => Ok(Inside::of(e.into_inner())),
            Err(TryLockError::WouldBlock) => Err(Busy::Inside),
        }
    }

    /// Takes it, once nobody is inside; `None` if there is none or it has ended. If it was taken
    /// before, waits for the end, unless that is `hopeless`: who is told of an end may release what
    /// NCCL used.
    pub(super) fn take(&self, within: Duration, hopeless: impl Fn() -> bool) -> Result<Option<Raw>, Busy> {
        let begin = Instant::now();
        loop {
            let mut why = Busy::Inside;
            let lock = match self.state.try_lock() {
                Ok(lock) => Some(lock),
                Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(mut state) = lock {
                match std::mem::replace(&mut *state, State::Taken) {
                    State::Live(raw) => {
                        self.is_live.store(false, Ordering::Release);
                        return Ok(Some(raw));
                    }
                    State::Taken if hopeless() => return Err(Busy::Ending),
                    State::Taken => why = Busy::Ending,
                    over @ (State::Empty | State::Ended) => {
                        *state = over;
                        return Ok(None);
                    }
                }
            }
            if begin.elapsed() >= within {
                return Err(why);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl<'a> Inside<'a> {
    fn of(lock: MutexGuard<'a, State>) -> Option<Self> {
        let State::Live(Raw(comm)) = *lock else { return None };
        Some(Self { _lock: lock, comm })
    }
}
