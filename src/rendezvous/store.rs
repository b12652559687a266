use std::time::{Duration, Instant};

use crate::error::{Error, Failure, FailureKind, Result};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 80;

/// Longest value, in bytes: the calls of a plan of 32768 communications, which ranks compare.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Small values under keys, shared by the ranks of a job. Keys are ASCII without spaces, at most
/// [`KEY_BYTES_MAX`] long; values at most [`VALUE_BYTES_MAX`]. Each call may take as long as the store
/// itself takes to answer, `wait` so much longer than its deadline.
pub trait Store: Send + Sync {
    /// Puts a value, over any earlier one.
    ///
    /// # Errors
    /// A store that cannot be reached, a key or value that is too long.
    fn set(&self, key: &str, value: &[u8]) -> Result<()>;

    /// The value, if there is one.
    ///
    /// # Errors
    /// A store that cannot be reached, a key that is too long.
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// The value, once there is one.
    ///
    /// # Errors
    /// A store that cannot be reached, and [`FailureKind::Timeout`] at the deadline.
    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>>;

    /// Puts a value if there is none; the value that is then there.
    ///
    /// # Errors
    /// A store that cannot be reached, a key or value that is too long.
    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>>;
}

/// Refuses what no store takes, so that a job does not depend on which one it has.
pub(super) fn check(key: &str, value: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(unusable(format!("key {key:?} is not 1 to {KEY_BYTES_MAX} ASCII letters without spaces")));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(unusable(format!("a value of {} bytes under \"{key}\": at most {VALUE_BYTES_MAX}", value.len())));
    }
    Ok(())
}

/// [`Store::wait`] of a store that can only be asked.
pub(super) fn polled(key: &str, deadline: Instant, read: impl Fn() -> Result<Option<Vec<u8>>>) -> Result<Vec<u8>> {
    const LONGEST: Duration = Duration::from_millis(50);
    let (begin, mut pause) = (Instant::now(), Duration::from_millis(10));
    loop {
        if let Some(value) = read()? {
            return Ok(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timeout(key, begin));
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST);
    }
}

/// Nobody set `key` in time.
pub(super) fn timeout(key: &str, begin: Instant) -> Error {
    failure(FailureKind::Timeout { stage: format!("nobody set \"{key}\"") }, Vec::new(), begin)
}

/// A store that cannot be used.
pub(super) fn unusable(why: String) -> Error {
    failure(FailureKind::Store { why }, Vec::new(), Instant::now())
}

/// A duration from now as a point in time; one beyond the clock is a century away.
pub(crate) fn until(within: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(within).unwrap_or(now + Duration::from_secs(3_000_000_000))
}

/// True if a wait only passed its deadline.
pub(crate) fn is_timeout(error: &Error) -> bool {
    matches!(error, Error::Between(failure) if matches!(failure.kind, FailureKind::Timeout { .. }))
}

/// A failure of the store as `rank` tells it, which was at `op`.
pub(crate) fn told_by(error: Error, rank: usize, comm: &str, op: &str, begin: Instant) -> Error {
    match error {
        Error::Between(failure) => Error::Between(Box::new(Failure {
            rank,
            comm: comm.into(),
            op: op.into(),
            elapsed_ms: begin.elapsed().as_millis() as u64,
            ..*failure
        })),
        other => other,
    }
}

/// A failure that a store tells; it does not know which rank uses it.
pub(super) fn failure(kind: FailureKind, culprits: Vec<usize>, begin: Instant) -> Error {
    Error::Between(Box::new(Failure {
        kind,
        rank: 0,
        comm: "store".into(),
        seq: None,
        op: String::new(),
        culprits,
        elapsed_ms: begin.elapsed().as_millis() as u64,
    }))
}
