// The operating system as the schedule explorer sees it: every lock, wait and wake-up is a
// choice, and no time passes. Included by the two variants of the board.

use std::sync::{LockResult, PoisonError};

pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};

/// Time does not pass here: a deadline never comes.
#[derive(Clone, Copy)]
pub(crate) struct Instant;

pub(crate) fn whole<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn sleep<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    _until: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    (whole(condition.wait(guard)), false)
}
