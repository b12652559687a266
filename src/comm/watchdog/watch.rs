use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::message::Position;
use crate::comm::flight::Flight;
use crate::comm::signature::{Part, Signature, digest};
use crate::error::{Error, Failure, FailureKind, Result};

/// Ends what is in flight, knowing the first cause.
pub type Abort = Box<dyn FnOnce(&Failure) + Send>;

/// What the watchdog may call of a communicator, from its own thread. None of the first two may
/// block.
#[derive(Default)]
pub struct Probe {
    /// The communicator's own error, if it has one.
    pub error: Option<Box<dyn Fn() -> Result<()> + Send>>,
    /// Number of ops that have ended, where the rank does not say so with [`Watch::ended`].
    pub ended: Option<Box<dyn FnMut() -> u64 + Send>>,
    /// Called once, on a thread of its own.
    pub abort: Option<Abort>,
}

/// One communicator under watch, as its rank's thread sees it. Nothing here blocks.
#[derive(Clone)]
pub struct Watch {
    pub(super) comm: Arc<Comm>,
    pub(super) poison: Arc<Poison>,
}

impl Watch {
    /// Says that an op is being called: `seq` rises by one from op to op, `calls` are those of the
    /// op, none if it moves nothing here. Its time runs from now, or from the end of the op before
    /// it.
    ///
    /// # Errors
    /// As [`Watch::check`].
    pub fn begin(&self, seq: u64, label: &str, deadline: Option<Duration>, calls: &[Signature]) -> Result<()> {
        self.check()?;
        self.note(seq, label, deadline, calls);
        Ok(())
    }

    /// As [`Watch::begin`], for who cannot tell anybody of a failure: it is not told of one.
    pub(crate) fn note(&self, seq: u64, label: &str, deadline: Option<Duration>, calls: &[Signature]) {
        calls.iter().for_each(|call| self.comm.flight.schedule(label, call));
        let deadline = deadline.unwrap_or(self.comm.deadline);
        let label = self.comm.flight.number(label);
        let place = self.comm.calls.fetch_add(1, Ordering::Relaxed);
        let open = Open { seq, place, deadline, label, head: head(calls), call: calls.first().copied() };
        let mut ops = self.comm.ops();
        if ops.open.is_empty() {
            ops.since = Instant::now();
        }
        ops.called = seq + 1;
        ops.open.push_back(open);
    }

    /// Says that the device has begun an op.
    pub fn started(&self, seq: u64) {
        self.comm.flight.start(seq);
    }

    /// Says that an op and all before it have ended.
    pub fn ended(&self, seq: u64) {
        self.comm.ended(seq + 1);
    }

    /// The first failure of the family: as it is for the first call that learns of it here, as
    /// [`FailureKind::Poisoned`] ever after.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&self) -> Result<()> {
        self.poison.check(&self.comm.told, self.comm.rank, &self.comm.name)
    }

    /// Ends the watch over this communicator: it was finalized.
    pub fn close(&self) {
        self.comm.is_closed.store(true, Ordering::Release);
        // Dropped outside the lock: what it holds may hold this watch.
        let probe = std::mem::take(&mut *self.comm.probe());
        drop(probe);
    }

    /// The flight record.
    pub fn flight(&self) -> &Flight {
        &self.comm.flight
    }
}

/// What stops all communicators of a family.
#[derive(Default)]
pub(super) struct Poison {
    failed: AtomicBool,
    first: Mutex<Option<Failure>>,
    /// An abort that does not return.
    stuck: Mutex<Option<String>>,
}

impl Poison {
    pub(super) fn set(&self, failure: &Failure) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| failure.clone());
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn set_stuck(&self, what: String) {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    pub(super) fn first(&self) -> Option<Failure> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn check(&self, told: &AtomicBool, rank: usize, comm: &str) -> Result<()> {
        let Some(first) = self.first() else { return Ok(()) };
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !told.swap(true, Ordering::AcqRel) {
            return Err(Error::Between(Box::new(first)));
        }
        let kind = match stuck {
            Some(what) => FailureKind::Unrecoverable { what },
            None => FailureKind::Poisoned { first_cause: first.to_string() },
        };
        Err(Error::Between(Box::new(Failure { kind, rank, comm: comm.to_string(), ..first })))
    }
}

/// What watchdog and rank know of a communicator.
pub(super) struct Comm {
    pub(super) name: String,
    pub(super) rank: usize,
    /// Global ranks, in the communicator's order.
    pub(super) members: Vec<usize>,
    pub(super) flight: Flight,
    pub(super) deadline: Duration,
    pub(super) probe: Mutex<Probe>,
    pub(super) told: AtomicBool,
    pub(super) is_closed: AtomicBool,
    /// Ops that were called, of all communicators of the rank.
    calls: Arc<AtomicU64>,
    ops: Mutex<Ops>,
}

pub(super) struct Ops {
    pub(super) called: u64,
    pub(super) ended: u64,
    pub(super) open: VecDeque<Open>,
    /// When the first of `open` became the first.
    pub(super) since: Instant,
}

/// An op that was called and has not ended.
pub(super) struct Open {
    pub(super) seq: u64,
    /// Among the ops of all communicators, in the order in which they were called.
    pub(super) place: u64,
    pub(super) deadline: Duration,
    /// Its number in the flight record.
    pub(super) label: u32,
    pub(super) head: u64,
    pub(super) call: Option<Signature>,
}

impl Comm {
    pub(super) fn new(
        name: &str,
        rank: usize,
        members: &[usize],
        deadline: Duration,
        probe: Probe,
        calls: Arc<AtomicU64>,
    ) -> Self {
        let place = members.iter().position(|member| *member == rank).unwrap_or(0);
        let ops = Ops { called: 0, ended: 0, open: VecDeque::new(), since: Instant::now() };
        Self {
            name: name.to_string(),
            rank,
            flight: Flight::new(name, place as u32, members.len() as u32),
            members: members.to_vec(),
            deadline,
            probe: Mutex::new(probe),
            told: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            calls,
            ops: Mutex::new(ops),
        }
    }

    pub(super) fn ops(&self) -> MutexGuard<'_, Ops> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn probe(&self) -> MutexGuard<'_, Probe> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first `count` ops have ended.
    pub(super) fn ended(&self, count: u64) {
        let mut ops = self.ops();
        ops.ended = ops.ended.max(count);
        while ops.open.front().is_some_and(|open| open.seq < count) {
            if let Some(open) = ops.open.pop_front() {
                self.flight.complete(open.seq);
            }
            ops.since = Instant::now();
        }
    }

    /// Learns from its probe which ops have ended.
    pub(super) fn look(&self) {
        let count = self.probe().ended.as_mut().map(|ended| ended());
        if let Some(count) = count {
            self.ended(count);
        }
    }

    /// Place of its first op in flight.
    pub(super) fn first_place(&self) -> Option<u64> {
        self.ops().open.front().map(|open| open.place)
    }

    /// Says at which op in flight a failure was noticed; `None` with none in flight.
    pub(super) fn locate(&self, failure: &mut Failure) -> Option<Signature> {
        let ops = self.ops();
        let open = ops.open.front()?;
        failure.comm.clone_from(&self.name);
        failure.seq = Some(open.seq);
        failure.op = self.flight.label(open.label);
        failure.elapsed_ms = ops.since.elapsed().as_millis() as u64;
        open.call
    }

    pub(super) fn position(&self) -> Position {
        let ops = self.ops();
        let head = ops.open.front().map_or(0, |open| open.head);
        Position { comm: number(&self.name), called: ops.called, ended: ops.ended, head }
    }
}

/// A communicator's name as a number.
pub(super) fn number(name: &str) -> u64 {
    digest(name.bytes().map(u64::from))
}

/// What all ranks of an op have in common.
fn head(calls: &[Signature]) -> u64 {
    let Some(first) = calls.first() else { return 0 };
    let header = Signature { peer: None, elems: 0, part: Part::Whole, ..*first };
    let whole = calls.iter().filter(|call| call.part == Part::Whole);
    let bytes = [header].into_iter().chain(whole.copied()).flat_map(|call| call.to_bytes());
    digest(bytes.map(u64::from))
}
