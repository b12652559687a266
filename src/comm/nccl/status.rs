use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use super::part::Part;

/// What a communicator did last, to be read from any thread: by a watchdog, a flight record.
pub struct Status {
    comm: String,
    rank: usize,
    world: usize,
    last: Mutex<Option<Op>>,
    observer: OnceLock<Observer>,
}

/// Learns of every op before NCCL does, on the rank's thread.
pub(super) type Observer = Box<dyn Fn(&Op) + Send + Sync>;

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
        Self { comm, rank, world, last: Mutex::new(None), observer: OnceLock::new() }
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
        if let Some(observer) = self.observer.get() {
            observer(op);
        }
    }

    /// Has an observer learn of every op from now on, unless there is one already.
    pub(super) fn observe(&self, observer: Observer) -> Result<(), Observer> {
        self.observer.set(observer)
    }

    pub(super) fn enqueued(&self) {
        if let Some(op) = self.last.lock().unwrap_or_else(|e| e.into_inner()).as_mut() {
            op.enqueued = Some(Instant::now());
        }
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Status({}, rank {} of {})", self.comm, self.rank, self.world)
    }
}
