//! What [`super::board`] needs of the operating system: a mutex, a condition variable, time.
//!
//! The schedule explorer in `tests/schedules.rs` compiles the board against its own version of
//! this file, in which every lock and wait is a choice and no time passes.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
use std::sync::{LockResult, PoisonError};
pub(crate) use std::time::Instant;

/// True only where the explorer must find that a wake-up can be lost.
pub(crate) const LOSES_WAKE_UPS: bool = false;

/// The value behind a lock, also if a thread panicked while it held it: every update of the
/// board is complete before it can panic.
pub(crate) fn whole<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until the condition is signalled or `until` has passed; true if it has.
pub(crate) fn sleep<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    until: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    let Some(until) = until else { return (whole(condition.wait(guard)), false) };
    let left = until.saturating_duration_since(Instant::now());
    let (guard, _) = whole(condition.wait_timeout(guard, left));
    (guard, Instant::now() >= until)
}
