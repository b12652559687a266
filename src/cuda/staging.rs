//! Copies through pinned host memory: what a link without peer access does.

use super::event::Event;
use super::memory::{PinnedMemory, copy_device_to_host, copy_host_to_device};
use super::stream::{Priority, Stream};
use crate::error::Result;

/// Two slots of pinned memory: while one is filled from the device, the other is emptied to it.
/// One copy at a time, in the order of one stream.
#[derive(Debug)]
pub struct Staging {
    slots: PinnedMemory,
    slot_bytes: usize,
    /// Fills the slots.
    out: Stream,
    begin: Event,
    filled: [Event; 2],
    emptied: [Event; 2],
}

impl Staging {
    /// Two slots of `slot_bytes`; longer copies go through them in turns.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(slot_bytes: usize) -> Result<Self> {
        let slot_bytes = slot_bytes.max(1);
        Ok(Self {
            slots: PinnedMemory::new(2 * slot_bytes)?,
            slot_bytes,
            out: Stream::new(Priority::High)?,
            begin: Event::new(false)?,
            filled: [Event::new(false)?, Event::new(false)?],
            emptied: [Event::new(false)?, Event::new(false)?],
        })
    }

    /// Never freed: that would wait for work that never ends.
    pub fn leave(&mut self) {
        self.slots.leave();
    }

    /// Copies between two ranges of device memory, in stream order; `stream` is the same at every
    /// call.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// As for [`super::copy_device_to_device`], and the staging is alive until the copy has run.
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()> {
        // Behind the copies before this one: both slots are empty then.
        self.begin.record(stream)?;
        self.out.wait(&self.begin)?;
        for (i, at) in (0..bytes).step_by(self.slot_bytes).enumerate() {
            let slot = i % 2;
            let staged = self.slots.address() + (slot * self.slot_bytes) as u64;
            let part = self.slot_bytes.min(bytes - at);
            if i >= 2 {
                self.out.wait(&self.emptied[slot])?;
            }
            // SAFETY: the slot is ours and empty, see above; the rest is the caller's promise.
            unsafe { copy_device_to_host(staged, from + at as u64, part, &self.out)? };
            self.filled[slot].record(&self.out)?;
            stream.wait(&self.filled[slot])?;
            // SAFETY: the slot is filled; the rest is the caller's promise.
            unsafe { copy_host_to_device(to + at as u64, staged, part, stream)? };
            self.emptied[slot].record(stream)?;
        }
        Ok(())
    }
}
