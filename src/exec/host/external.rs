//! Ops of the embedding framework: calls by name, with copies of the bytes they touch.

use std::sync::Arc;

use super::memory::Part;
use crate::error::{Error, Result};

/// What an external op runs.
pub type External = Arc<dyn Fn(ExternalCall<'_>) -> Result<()> + Send + Sync>;

/// One call of an external op on one rank. The call must return by itself: nothing ends it.
pub struct ExternalCall<'a> {
    pub(super) rank: usize,
    pub(super) label: &'a str,
    /// The views, in order.
    pub(super) parts: &'a mut [Part],
}

impl ExternalCall<'_> {
    /// Rank on which it runs.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Label of the op.
    pub fn label(&self) -> &str {
        self.label
    }

    /// Number of views (without empty ones).
    pub fn views(&self) -> usize {
        self.parts.len()
    }

    /// The bytes of view `i`, row-major.
    ///
    /// # Errors
    /// No such view.
    pub fn read(&self, i: usize) -> Result<Vec<u8>> {
        self.parts.get(i).map(Part::read).ok_or_else(|| self.no_view(i))
    }

    /// Writes all bytes of view `i`, row-major.
    ///
    /// # Errors
    /// No such view, one that the plan lists as read only, or another number of bytes.
    pub fn write(&mut self, i: usize, bytes: &[u8]) -> Result<()> {
        let Some(part) = self.parts.get_mut(i) else { return Err(self.no_view(i)) };
        let (len, writes) = (part.len(), part.writes());
        if part.write(bytes) {
            return Ok(());
        }
        Err(Error::Bind(if writes {
            format!("external \"{}\": view {i} has {len} bytes, {} were given", self.label, bytes.len())
        } else {
            format!("external \"{}\": view {i} is read only: list it with Mode::Write", self.label)
        }))
    }

    fn no_view(&self, i: usize) -> Error {
        Error::Bind(format!("external \"{}\" has {} views, not a view {i}", self.label, self.parts.len()))
    }
}
