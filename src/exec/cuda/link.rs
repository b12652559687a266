//! The link between the ranks of one device: what its launches need in device memory.

use std::time::Duration;

use super::finish::nanoseconds;
use crate::comm::local::Link;
use crate::cuda::{DeviceMemory, Stream};
use crate::error::Result;
use crate::kernel::cuda::Passage;

/// Bytes of a time, and of the lock before them.
const WORD: u64 = 8;

/// Years; a few of them added to the device's clock do not wrap around.
const LONGEST_NS: f64 = 1e18;

/// The ports of all ranks, and the arrivals of all messages of a run.
pub(super) struct Ports {
    memory: DeviceMemory,
    link: Link,
    timeout: Duration,
    ranks: usize,
    messages: usize,
}

impl Ports {
    /// Room for so many messages a run; a wait inside a launch ends after `timeout`.
    pub(super) fn new(link: Link, timeout: Duration, ranks: usize, messages: usize) -> Result<Self> {
        let memory = DeviceMemory::new(WORD as usize * (1 + 2 * ranks + messages))?;
        Ok(Self { memory, link, timeout, ranks, messages: 0 })
    }

    /// All ports are free, in stream order.
    pub(super) fn clear(&self, stream: &Stream) -> Result<()> {
        self.memory.fill(0, stream)
    }

    /// Never freed: that would wait for work that never ends.
    pub(super) fn leave(&mut self) {
        self.memory.leave();
    }

    /// One more message of the run.
    pub(super) fn passage(&mut self, from: usize, to: usize, bytes: usize) -> Passage {
        let word = |i: usize| self.memory.address() + WORD * i as u64;
        let ns = |seconds: f64| (seconds * 1e9).ceil().min(LONGEST_NS) as u64;
        self.messages += 1;
        Passage {
            lock: word(0),
            ports: [word(1 + 2 * from), word(2 + 2 * to)],
            arrival: word(2 * self.ranks + self.messages),
            transfer_ns: ns(bytes as f64 / self.link.bytes_per_s),
            latency_ns: ns(self.link.latency_s),
            timeout_ns: nanoseconds(self.timeout),
        }
    }
}
