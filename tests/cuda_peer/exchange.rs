//! Every rank sends every other a slot, again and again, without an executor.

use std::sync::Arc;
use std::time::Duration;

use seqpar::comm::peer::{Connection, Message, Peers, Step};
use seqpar::cuda::{Context, DeviceMemory, Priority, Stream, copy_device_to_device, wait_value, write_value};
use seqpar::error::Result;
use seqpar::plan::Direction;
use seqpar::rendezvous::Store;

pub(crate) const SLOT: usize = 48;
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// One rank of it.
pub(crate) struct Exchange {
    pub(crate) stream: Stream,
    pub(crate) peers: Peers,
    connection: Connection,
    /// A slot for each rank; out of the own one nothing is read.
    sent: DeviceMemory,
    received: DeviceMemory,
    /// What was received in each run.
    kept: DeviceMemory,
    world: usize,
    /// Last: what belongs to it goes before it.
    _context: Context,
}

impl Exchange {
    pub(crate) fn new(store: Arc<dyn Store>, name: &str, rank: usize, world: usize, runs: usize) -> Result<Self> {
        let context = Context::primary(0)?;
        let peers = Peers::join(store, name, rank, world, &context, DEADLINE)?;
        let [sent, received] = [DeviceMemory::new(world * SLOT)?, DeviceMemory::new(world * SLOT)?];
        let mut messages = Vec::new();
        for peer in (0..world).filter(|peer| *peer != rank) {
            let at = (peer * SLOT) as u64;
            for (direction, memory) in [(Direction::Send, &sent), (Direction::Recv, &received)] {
                messages.push(Message { peer, direction, address: memory.address() + at, bytes: SLOT });
            }
        }
        let stream = Stream::new(Priority::High)?;
        received.fill(0, &stream)?;
        stream.synchronize()?;
        let (connection, kept) = (peers.connect(&messages)?, DeviceMemory::new(runs * world * SLOT)?);
        Ok(Self { stream, peers, connection, sent, received, kept, world, _context: context })
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.connection.steps(0..2 * (self.world - 1))
    }

    /// Enqueues one run, without step `dropped`.
    pub(crate) fn run(&self, run: usize, dropped: Option<usize>) -> Result<()> {
        self.sent.fill(value(self.peers.rank(), run), &self.stream)?;
        for (i, step) in self.steps().into_iter().enumerate() {
            if dropped != Some(i) {
                self.enqueue(step)?;
            }
        }
        let kept = self.kept.address() + (run * self.world * SLOT) as u64;
        // SAFETY: both are alive until the stream was synchronised.
        unsafe { copy_device_to_device(kept, self.received.address(), self.world * SLOT, &self.stream) }
    }

    fn enqueue(&self, step: Step) -> Result<()> {
        // SAFETY: all ranks keep their memory and pages until all have ended; what a dropped step
        // leaves unordered are bytes.
        unsafe {
            match step {
                Step::Raise(flag) => write_value(flag, 1, &self.stream),
                Step::Lower(flag) => write_value(flag, 0, &self.stream),
                Step::Wait(flag) => wait_value(flag, 1, &self.stream),
                Step::Copy { to, from, bytes } => copy_device_to_device(to, from, bytes, &self.stream),
            }
        }
    }

    /// Of all runs.
    pub(crate) fn kept(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.kept.bytes()];
        self.kept.read(0, &mut bytes, &self.stream)?;
        Ok(bytes)
    }

    pub(crate) fn expected(&self, runs: usize) -> Vec<u8> {
        let rank = self.peers.rank();
        let slot = |run, from| [if from == rank { 0 } else { value(from, run) }; SLOT];
        (0..runs).flat_map(|run| (0..self.world).flat_map(move |from| slot(run, from))).collect()
    }
}

fn value(rank: usize, run: usize) -> u8 {
    (1 + 16 * rank + run) as u8
}
