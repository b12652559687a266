//! The pattern of every overlapped exchange: chunks arrive on one stream into two slots while
//! another stream takes them out.

use seqpar::cuda::{Context, DeviceMemory, Event, Priority, Stream, copy_device_to_device};
use seqpar::error::Result;

pub struct Ring {
    pub compute: Stream,
    pub communication: Stream,
    remote: DeviceMemory,
    slots: DeviceMemory,
    out: DeviceMemory,
    arrived: Vec<Event>,
    taken: Vec<Event>,
    fork: Event,
    join: Event,
    chunks: usize,
    bytes: usize,
}

/// Waits of [`Ring::run`]: one to begin, one to end, one a chunk, one a reuse of a slot.
pub fn waits(chunks: usize) -> usize {
    2 + chunks + chunks - 2
}

/// Those that order nothing here: the host synchronises before the run, and nothing of the
/// communication is left to wait for after the last chunk was taken.
pub fn redundant(wait: usize, chunks: usize) -> bool {
    wait == 0 || wait + 1 == waits(chunks)
}

impl Ring {
    pub fn new(chunks: usize, bytes: usize) -> Result<Self> {
        let events = || (0..chunks).map(|_| Event::new(false)).collect::<Result<Vec<_>>>();
        let ring = Self {
            compute: Stream::new(Priority::Low)?,
            communication: Stream::new(Priority::High)?,
            remote: DeviceMemory::new(chunks * bytes)?,
            slots: DeviceMemory::new(2 * bytes)?,
            out: DeviceMemory::new(chunks * bytes)?,
            arrived: events()?,
            taken: events()?,
            fork: Event::new(false)?,
            join: Event::new(false)?,
            chunks,
            bytes,
        };
        ring.remote.write(0, &ring.expected(), &ring.compute)?;
        ring.out.fill(0, &ring.compute)?;
        ring.compute.synchronize()?;
        Ok(ring)
    }

    pub fn expected(&self) -> Vec<u8> {
        (0..self.chunks * self.bytes).map(|i| (i / self.bytes * 7 + i) as u8).collect()
    }

    /// Enqueues all of it, without wait number `dropped`.
    pub fn run(&self, dropped: Option<usize>) -> Result<()> {
        let mut count = 0;
        let mut wait = |stream: &Stream, event: &Event| {
            count += 1;
            if dropped == Some(count - 1) { Ok(()) } else { stream.wait(event) }
        };
        self.fork.record(&self.compute)?;
        wait(&self.communication, &self.fork)?;
        for i in 0..self.chunks {
            let slot = self.slots.address() + (i % 2 * self.bytes) as u64;
            let chunk = (i * self.bytes) as u64;
            if i >= 2 {
                wait(&self.communication, &self.taken[i - 2])?;
            }
            // SAFETY: the memory is the ring's own; the waits order its uses, and what a dropped
            // one leaves unordered are copies of bytes.
            unsafe { copy_device_to_device(slot, self.remote.address() + chunk, self.bytes, &self.communication)? };
            self.arrived[i].record(&self.communication)?;
            wait(&self.compute, &self.arrived[i])?;
            // SAFETY: as above.
            unsafe { copy_device_to_device(self.out.address() + chunk, slot, self.bytes, &self.compute)? };
            self.taken[i].record(&self.compute)?;
        }
        self.join.record(&self.communication)?;
        wait(&self.compute, &self.join)
    }

    pub fn result(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.chunks * self.bytes];
        self.out.read(0, &mut bytes, &self.compute)?;
        Ok(bytes)
    }
}

/// The primary context, made current.
pub fn context() -> Context {
    Context::primary(0).unwrap()
}
