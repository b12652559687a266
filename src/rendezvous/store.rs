use std::time::Instant;

use crate::error::Result;

/// Small values under keys, shared by the ranks of a job. Keys are ASCII without spaces.
pub trait Store: Send + Sync {
    /// Puts a value, over any earlier one.
    ///
    /// # Errors
    /// A store that cannot be reached.
    fn set(&self, key: &str, value: &[u8]) -> Result<()>;

    /// The value, if there is one.
    ///
    /// # Errors
    /// A store that cannot be reached.
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// The value, once there is one.
    ///
    /// # Errors
    /// A store that cannot be reached, and [`crate::error::FailureKind::Timeout`] at the deadline.
    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>>;

    /// Puts a value if there is none; the value that is then there.
    ///
    /// # Errors
    /// A store that cannot be reached.
    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>>;
}
