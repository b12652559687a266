//! The one place where threads of different ranks and streams wait for each other.
//!
//! A board has one cell a rank: its events, the messages posted to it, the receipts of the
//! messages it posted, and the failure of the world. A thread waits only on the cell of its own
//! rank, asleep on a condition variable; whoever changes a cell does so under its lock and wakes
//! its sleepers. Events and keys carry the epoch of a run, so that nothing is reset between runs.
//!
//! It knows no plan, no bytes and no clock but the deadline it passes to [`sync::sleep`]. Proof:
//! `tests/schedules.rs` explores its schedules, and finds the wake-up that a variant loses.

use std::collections::HashMap;

use super::sync::{self, Condvar, Instant, Mutex, MutexGuard, whole};

/// Why a wait ended without what it waited for.
#[derive(Debug, PartialEq)]
pub(crate) enum Stop<E> {
    /// The world has failed.
    Failed(E),
    /// The deadline has passed.
    Deadline,
}

/// Identity of a message: the `index`-th from `from` to the cell's rank (or, for a receipt, from
/// the cell's rank to `to`) under a tag in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) epoch: u64,
    pub(crate) tag: u32,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) index: u32,
}

/// Cells of all ranks. `P` is what a message carries, `R` what its receipt says, `E` a failure.
pub(crate) struct Board<P, R, E> {
    cells: Vec<Cell<P, R, E>>,
    first: Mutex<Option<E>>,
}

struct Cell<P, R, E> {
    state: Mutex<State<P, R, E>>,
    changed: Condvar,
}

struct State<P, R, E> {
    /// Run in which each event was recorded last.
    events: Vec<u64>,
    posts: HashMap<Key, P>,
    receipts: HashMap<Key, R>,
    failed: Option<E>,
}

impl<P, R, E: Clone> Board<P, R, E> {
    /// A board for ranks with the given numbers of events.
    pub(crate) fn new(events: &[usize]) -> Self {
        let cell = |&events: &usize| Cell {
            state: Mutex::new(State {
                events: vec![0; events],
                posts: HashMap::new(),
                receipts: HashMap::new(),
                failed: None,
            }),
            changed: Condvar::new(),
        };
        Self { cells: events.iter().map(cell).collect(), first: Mutex::new(None) }
    }

    /// Forgets the failure and the leftovers of a run that failed; no thread is waiting.
    pub(crate) fn clear(&self) {
        *whole(self.first.lock()) = None;
        for cell in &self.cells {
            let mut state = whole(cell.state.lock());
            state.failed = None;
            state.posts.clear();
            state.receipts.clear();
        }
    }

    /// Records an event of `rank` in the run `epoch`, at least 1.
    pub(crate) fn record(&self, rank: usize, event: usize, epoch: u64) {
        self.cells[rank].change(|state| state.events[event] = epoch);
    }

    /// Waits until the event is recorded in the run `epoch`.
    pub(crate) fn wait_event(
        &self,
        rank: usize,
        event: usize,
        epoch: u64,
        until: Option<Instant>,
    ) -> Result<(), Stop<E>> {
        self.cells[rank].wait(until, |state| (state.events[event] >= epoch).then_some(()))
    }

    /// Offers a message to the rank it goes to.
    pub(crate) fn post(&self, key: Key, message: P) {
        self.cells[key.to as usize].change(|state| state.posts.insert(key, message));
    }

    /// Waits for the first of several messages to `rank`; returns its place in `keys`.
    pub(crate) fn take_any(&self, rank: usize, keys: &[Key], until: Option<Instant>) -> Result<(usize, P), Stop<E>> {
        self.cells[rank].wait(until, |state| {
            keys.iter().enumerate().find_map(|(i, key)| state.posts.remove(key).map(|message| (i, message)))
        })
    }

    /// Tells the sender of a message that it was taken.
    pub(crate) fn confirm(&self, key: Key, receipt: R) {
        self.cells[key.from as usize].change(|state| state.receipts.insert(key, receipt));
    }

    /// Waits until the message was taken.
    pub(crate) fn wait_receipt(&self, key: Key, until: Option<Instant>) -> Result<R, Stop<E>> {
        self.cells[key.from as usize].wait(until, |state| state.receipts.remove(&key))
    }

    /// Sleeps until an instant, or until the world fails.
    pub(crate) fn rest(&self, rank: usize, until: Instant) -> Result<(), E> {
        match self.cells[rank].wait(Some(until), |_| None::<()>) {
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Deadline) | Ok(()) => Ok(()),
        }
    }

    /// Fails the world; the first failure is what every rank learns.
    pub(crate) fn fail(&self, error: E) {
        // Held until every cell knows, so that two failures cannot reach two ranks first.
        let mut first = whole(self.first.lock());
        let error = first.get_or_insert(error).clone();
        for cell in &self.cells {
            cell.change(|state| state.failed = Some(error.clone()));
        }
    }

    /// The failure of the world.
    pub(crate) fn failure(&self, rank: usize) -> Option<E> {
        whole(self.cells[rank].state.lock()).failed.clone()
    }
}

impl<P, R, E: Clone> Cell<P, R, E> {
    fn change<T>(&self, change: impl FnOnce(&mut State<P, R, E>) -> T) {
        let mut state: MutexGuard<'_, State<P, R, E>> = whole(self.state.lock());
        change(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    fn wait<T>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&mut State<P, R, E>) -> Option<T>,
    ) -> Result<T, Stop<E>> {
        let mut state: MutexGuard<'_, State<P, R, E>> = whole(self.state.lock());
        let mut passed = false;
        loop {
            if let Some(error) = &state.failed {
                return Err(Stop::Failed(error.clone()));
            }
            if let Some(found) = look(&mut state) {
                return Ok(found);
            }
            if passed {
                return Err(Stop::Deadline);
            }
            if sync::LOSES_WAKE_UPS {
                drop(state);
                state = whole(self.state.lock());
            }
            (state, passed) = sync::sleep(&self.changed, state, until);
        }
    }
}
