use std::sync::Mutex;
use std::time::Instant;

use super::part::Part;

/// What a communicator did last, to be read from any thread: by a watchdog, a flight record.
#[derive(Debug)]
pub struct Status {
    comm: String,
    rank: usize,
    world: usize,
    last: Mutex<Option<Op>>,
}

/// A group of ops that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Index among the ops of its communicator, from 0.
    pub seq: u64,
    /// The op's label in the plan.
    pub label: String,
    /// When it was handed to NCCL.
    pub issued: Instant,
    /// When NCCL had put it on its stream; `None` while it has not. That the device is done with it
    /// only an event can tell.
    pub enqueued: Option<Instant>,
    /// What it consists of.
    pub parts: Vec<Part>,
}

impl Status {
    pub(super) fn new(comm: String, rank: usize, world: usize) -> Self {
        Self { comm, rank, world, last: Mutex::new(None) }
    }

    /// The communicator's name.
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// The rank in it.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks in it.
    pub fn world(&self) -> usize {
        self.world
    }

    /// Reads the last op without copying it; `None` before the first. Short: the rank's thread waits.
    pub fn last<T>(&self, read: impl FnOnce(Option<&Op>) -> T) -> T {
        read(self.last.lock().unwrap_or_else(|e| e.into_inner()).as_ref())
    }

    /// Allocates nothing once labels and groups have had their largest size.
    pub(super) fn issue(&self, seq: u64, label: &str, parts: impl Iterator<Item = Part>) {
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        let empty = Op { seq, label: String::new(), issued: Instant::now(), enqueued: None, parts: Vec::new() };
        let op = last.get_or_insert(empty);
        (op.seq, op.issued, op.enqueued) = (seq, Instant::now(), None);
        op.label.clear();
        op.label.push_str(label);
        op.parts.clear();
        op.parts.extend(parts);
    }

    pub(super) fn enqueued(&self) {
        if let Some(op) = self.last.lock().unwrap_or_else(|e| e.into_inner()).as_mut() {
            op.enqueued = Some(Instant::now());
        }
    }
}
