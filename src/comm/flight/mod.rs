//! The flight record: the last calls of a communicator, kept so that a failure can be explained.
//!
//! A ring of [`ENTRIES`] entries of 64 bytes, allocated once. Writing takes a lock and no memory,
//! except for a label that was not seen before. A [`Dump`] is written as JSON when a rank fails;
//! [`compare`] reads the dumps of all ranks and says in which op they first differ. Times are
//! nanoseconds since the record was made. Tests: `tests/failure/flight.rs`.

mod compare;
mod dump;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use compare::{Findings, compare};
pub use dump::{Call, Dump, SCHEMA};

use crate::comm::signature::Signature;

/// Entries of a record.
pub const ENTRIES: usize = 4096;

/// Labels that a record keeps; later ones are written as [`OTHER`].
const LABELS: usize = 65_536;
const OTHER: &str = "(another label)";

/// How far an op has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The rank has called it.
    Scheduled,
    /// The device has begun it.
    Started,
    /// The device has ended it.
    Completed,
}

impl State {
    /// Name in dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Started => "started",
            Self::Completed => "completed",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Scheduled, Self::Started, Self::Completed].into_iter().find(|state| state.name() == name)
    }
}

/// The record of one communicator on one rank.
#[derive(Debug)]
pub struct Flight {
    comm: String,
    rank: u32,
    world: u32,
    begin: Instant,
    ring: Mutex<Ring>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    call: [u8; Signature::BYTES],
    scheduled_ns: u64,
    started_ns: u64,
    completed_ns: u64,
    label: u32,
    state: State,
}

impl Entry {
    /// Without taking the whole call apart.
    fn seq(&self) -> u64 {
        self.call[8..16].try_into().map_or(0, u64::from_le_bytes)
    }
}

const _: () = assert!(std::mem::size_of::<Entry>() == 64);

#[derive(Debug)]
struct Ring {
    entries: Vec<Entry>,
    /// Calls written so far; the next goes to `written % ENTRIES`.
    written: u64,
    labels: Vec<String>,
    label_ids: HashMap<String, u32>,
}

impl Flight {
    /// The record of `rank` among the `world` ranks of a communicator.
    pub fn new(comm: impl Into<String>, rank: u32, world: u32) -> Self {
        let ring =
            Ring { entries: Vec::with_capacity(ENTRIES), written: 0, labels: Vec::new(), label_ids: HashMap::new() };
        Self { comm: comm.into(), rank, world, begin: Instant::now(), ring: Mutex::new(ring) }
    }

    /// The communicator.
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// Writes a call, scheduled now. The calls of one op follow each other.
    pub fn schedule(&self, label: &str, call: &Signature) {
        let now = self.now_ns();
        let mut ring = self.ring();
        let label = ring.label(label);
        let entry = Entry {
            call: call.to_bytes(),
            scheduled_ns: now,
            started_ns: 0,
            completed_ns: 0,
            label,
            state: State::Scheduled,
        };
        let at = (ring.written % ENTRIES as u64) as usize;
        ring.written += 1;
        match ring.entries.get_mut(at) {
            Some(old) => *old = entry,
            None => ring.entries.push(entry),
        }
    }

    /// Says that an op has begun.
    pub fn start(&self, seq: u64) {
        self.update(seq, |entry, now| {
            if entry.state == State::Scheduled {
                (entry.state, entry.started_ns) = (State::Started, now);
            }
        });
    }

    /// Says that an op has ended.
    pub fn complete(&self, seq: u64) {
        self.update(seq, |entry, now| {
            if entry.state != State::Completed {
                (entry.state, entry.completed_ns) = (State::Completed, now);
            }
        });
    }

    /// All that is kept, oldest first.
    pub fn dump(&self, failure: Option<String>) -> Dump {
        let ring = self.ring();
        let calls = ring.in_order().filter_map(|entry| {
            let known = |time: u64| Some(time).filter(|time| *time > 0);
            Some(Call {
                signature: Signature::from_bytes(&entry.call)?,
                label: ring.labels.get(entry.label as usize)?.clone(),
                state: entry.state,
                scheduled_ns: entry.scheduled_ns,
                started_ns: known(entry.started_ns),
                completed_ns: known(entry.completed_ns),
            })
        });
        Dump {
            comm: self.comm.clone(),
            rank: self.rank,
            world: self.world,
            failure,
            now_ns: self.now_ns(),
            overwritten: ring.written - ring.entries.len() as u64,
            calls: calls.collect(),
        }
    }

    /// Keeps a label; its number.
    pub(crate) fn number(&self, label: &str) -> u32 {
        self.ring().label(label)
    }

    /// The label of that number.
    pub(crate) fn label(&self, number: u32) -> String {
        self.ring().labels.get(number as usize).cloned().unwrap_or_default()
    }

    fn update(&self, seq: u64, change: impl Fn(&mut Entry, u64)) {
        let now = self.now_ns();
        let mut ring = self.ring();
        let (written, len) = (ring.written, ring.entries.len() as u64);
        // Entries of an op are neighbours; the newest op is looked at first.
        let mut seen = false;
        for back in 1..=len {
            let entry = &mut ring.entries[((written - back) % ENTRIES as u64) as usize];
            if entry.seq() == seq {
                seen = true;
                change(entry, now);
            } else if seen || entry.seq() < seq {
                return;
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn in_order(&self) -> impl Iterator<Item = &Entry> {
        let oldest = if self.entries.len() < ENTRIES { 0 } else { (self.written % ENTRIES as u64) as usize };
        let (late, early) = self.entries.split_at(oldest.min(self.entries.len()));
        early.iter().chain(late)
    }

    fn label(&mut self, label: &str) -> u32 {
        if let Some(id) = self.label_ids.get(label) {
            return *id;
        }
        let label = if self.labels.len() < LABELS { label } else { OTHER };
        if let Some(id) = self.label_ids.get(label) {
            return *id;
        }
        let id = self.labels.len() as u32;
        self.labels.push(label.to_string());
        self.label_ids.insert(label.to_string(), id);
        id
    }
}
