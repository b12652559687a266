//! A rank's flags, which others write.

use crate::cuda::{DeviceMemory, Priority, Stream};
use crate::error::Result;

/// Bytes of a flag.
const FLAG_BYTES: usize = 4;

/// Flags of one connection: *arrived* of each message that the rank receives, then *ready* of each
/// that it sends.
#[derive(Debug)]
pub(super) struct Page {
    memory: DeviceMemory,
    /// Nothing but [`Page::raise_all`].
    apart: Stream,
}

impl Page {
    /// All flags lowered.
    pub(super) fn new(flags: usize) -> Result<Self> {
        let page = Self { memory: DeviceMemory::new(FLAG_BYTES * flags.max(1))?, apart: Stream::new(Priority::High)? };
        page.memory.fill(0, &page.apart)?;
        page.apart.synchronize()?;
        Ok(page)
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Ends every wait of this rank.
    pub(super) fn raise_all(&self) -> Result<()> {
        // At least 1 in every word, and positive.
        self.memory.fill(1, &self.apart)
    }

    /// Never frees the flags: others may still write them.
    pub(super) fn leave(self) {
        std::mem::forget(self.memory);
    }
}

/// Address of flag `index` of a page.
pub(super) fn flag(page: u64, index: usize) -> u64 {
    page + (FLAG_BYTES * index) as u64
}
