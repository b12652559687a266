//! Notices failures between ranks and names them: every rank learns the first one, and from then
//! on every call of the family fails at once.
//!
//! A [`Watchdog`] is one a rank, so one a process where ranks are processes. Its thread polls each
//! watched communicator through the function values of a [`Probe`]: its own error, the ops that
//! have ended, the deadline of the oldest that has not. A second thread, the courier, talks to the
//! [`Store`], which may be slow: it puts this rank's sign of life there, reads those of others,
//! and the first failure, which is claimed once for all ranks. Where ranks share a host, a
//! [`Presence`] shows at once that a process has ended.
//!
//! It refuses to guess: a rank is lost if its process has ended, if it left without a goodbye, or
//! if it was silent for [`Options::lost_after`] and nothing says that its process lives. A rank
//! that only stands still is named by the [`FailureKind::Timeout`] of the op that waits for it.
//! It assumes that ranks say goodbye before they end, and that nobody else writes the store: wrap one
//! that others can into a [`SignedStore`](crate::rendezvous). It knows no device, and no call of it
//! blocks, except that starting and dropping it may take [`Options::stop_within`] each. Tests: `tests/failure/`.

mod courier;
mod dumps;
mod message;
mod peers;
mod poll;
mod presence;
mod watch;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

pub use presence::{Life, Presence};
pub use watch::{Abort, Probe, Watch};

use crate::comm::flight::Dump;
use crate::error::{Error, Failure, FailureKind, Result};
use crate::rendezvous::{KEY_BYTES_MAX, Store, until};
use message::Cause;
use peers::Peer;
use watch::{Comm, Poison};

/// How a watchdog watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time between two looks at everything.
    pub period: Duration,
    /// Longest time of an op that names none of its own.
    pub deadline: Duration,
    /// Silence after which a rank is lost whose process cannot be seen.
    pub lost_after: Duration,
    /// Silence after which a rank is named by an op that waits in vain.
    pub silence: Duration,
    /// Longest time of an abort.
    pub abort_within: Duration,
    /// Longest time that dropping the watchdog may take.
    pub stop_within: Duration,
    /// Folder for the flight records of a failure, `flight-COMM-RANK.json`; none are written
    /// without one.
    pub dumps: Option<PathBuf>,
    /// Start of all its keys in the store: one a job.
    pub prefix: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            period: Duration::from_millis(50),
            deadline: Duration::from_secs(60),
            lost_after: Duration::from_secs(5),
            silence: Duration::from_millis(500),
            abort_within: Duration::from_secs(10),
            stop_within: Duration::from_millis(500),
            dumps: None,
            prefix: "watch".into(),
        }
    }
}

/// Longest period.
const PERIOD_MAX: Duration = Duration::from_secs(3600);

/// Leaves room for the rest of a key.
const PREFIX_BYTES_MAX: usize = KEY_BYTES_MAX - 30;

/// Watches the communicators of one rank, which are one family.
pub struct Watchdog {
    shared: Arc<Shared>,
    told: AtomicBool,
    /// Given up last, when the goodbye is in the store.
    _presence: Option<Presence>,
}

impl Watchdog {
    /// Starts to watch as `rank` of `world`. `presence` is this rank's, if ranks of this host have
    /// a folder for them. Returns when the first sign of life is in the store, so that others notice
    /// from then on how this rank ends; or after [`Options::stop_within`] without it.
    ///
    /// # Errors
    /// Options that make no sense, and a system without threads to give.
    pub fn start(
        store: Arc<dyn Store>,
        rank: usize,
        world: usize,
        options: Options,
        presence: Option<Presence>,
    ) -> Result<Self> {
        if rank >= world {
            return Err(Error::Mesh(format!("rank {rank} of {world}: ranks are counted from 0")));
        }
        if options.period.is_zero() || options.period > PERIOD_MAX || options.deadline.is_zero() {
            let why = "a watchdog's period is above 0 and at most an hour, its deadline above 0";
            return Err(Error::Unsupported(why.into()));
        }
        if options.prefix.len() > PREFIX_BYTES_MAX || !options.prefix.bytes().all(|b| b.is_ascii_graphic()) {
            let why = format!("is not at most {PREFIX_BYTES_MAX} ASCII letters without spaces");
            return Err(Error::Unsupported(format!("a watchdog's prefix {:?} {why}", options.prefix)));
        }
        let shared = Arc::new(Shared {
            rank,
            options,
            poison: Arc::default(),
            calls: Arc::default(),
            state: Mutex::new(State::new(world)),
            changed: Condvar::new(),
        });
        let looks: courier::Look = match &presence {
            Some(presence) => Box::new(presence.observer()),
            None => Box::new(|_| Life::Unknown),
        };
        let watchdog = Self { shared: shared.clone(), told: AtomicBool::new(false), _presence: presence };
        let refuse = |error: std::io::Error| Error::Unsupported(format!("no thread for the watchdog: {error}"));
        let courier = shared.clone();
        shared.state().threads += 1;
        let started =
            Builder::new().name(format!("courier {rank}")).spawn(move || courier::run(&courier, &*store, looks));
        if let Err(error) = started {
            shared.ended();
            return Err(refuse(error));
        }
        shared.state().threads += 1;
        let poll = shared.clone();
        if let Err(error) = Builder::new().name(format!("watchdog {rank}")).spawn(move || poll::run(&poll)) {
            shared.ended();
            return Err(refuse(error));
        }
        shared.wait_for_first_beat();
        Ok(watchdog)
    }

    /// Watches a communicator of the ranks `members`, in its order. Its name is the same on all of
    /// them, and no other communicator's.
    pub fn watch(&self, comm: &str, members: &[usize], probe: Probe) -> Watch {
        let shared = &self.shared;
        let comm = Comm::new(comm, shared.rank, members, shared.options.deadline, probe, shared.calls.clone());
        let comm = Arc::new(comm);
        self.shared.state().comms.push(comm.clone());
        Watch { comm, poison: self.shared.poison.clone() }
    }

    /// Reports a failure of this rank: all ranks learn of it. The first of all ranks counts.
    pub fn fail(&self, failure: Failure) {
        self.shared.suspect(Cause { failure, call: None });
    }

    /// As [`Watch::check`], for calls of no communicator.
    ///
    /// # Errors
    /// The first failure of the family.
    pub fn check(&self) -> Result<()> {
        self.shared.poison.check(&self.told, self.shared.rank, "watchdog")
    }

    /// The first failure, if there was one; asking for it changes nothing.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.poison.first()
    }

    /// The flight records of all communicators, as they are now.
    pub fn dumps(&self) -> Vec<Dump> {
        let failure = self.failure().map(|failure| failure.to_string());
        self.shared.state().comms.iter().map(|comm| comm.flight.dump(failure.clone())).collect()
    }

    /// Stops, and tells the other ranks that this one has done its work.
    pub fn goodbye(self) {
        self.shared.stop(Stop::Goodbye);
    }
}

impl Drop for Watchdog {
    /// Without a goodbye all other ranks learn that this one left.
    fn drop(&mut self) {
        self.shared.stop(if std::thread::panicking() { Stop::Panicked } else { Stop::Left });
    }
}

/// How a rank ends its watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Goodbye,
    Left,
    Panicked,
}

/// What the two threads and the rank share.
struct Shared {
    rank: usize,
    options: Options,
    poison: Arc<Poison>,
    calls: Arc<AtomicU64>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    comms: Vec<Arc<Comm>>,
    peers: Vec<Peer>,
    /// This rank's failure, until the store has one for all.
    suspected: Option<(Cause, Instant)>,
    /// The first failure, as the store has it.
    first: Option<Cause>,
    /// Since when the store has failed, and what it says.
    unreachable: Option<(Instant, String)>,
    stop: Option<Stop>,
    /// This rank's first sign of life is in the store.
    has_beaten: bool,
    threads: usize,
}

impl State {
    fn new(world: usize) -> Self {
        Self {
            comms: Vec::new(),
            peers: vec![Peer::default(); world],
            suspected: None,
            first: None,
            unreachable: None,
            stop: None,
            has_beaten: false,
            threads: 0,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps a period, or until something has changed that cannot wait.
    fn rest(&self, until: Instant, wakes: impl Fn(&State) -> bool) {
        let mut state = self.state();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.stop.is_some() || wakes(&state) {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_for_first_beat(&self) {
        let deadline = until(self.options.stop_within);
        let mut state = self.state();
        while !state.has_beaten {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("rank {}: the store is slow to take the first sign of life", self.rank);
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has the courier claim a failure for all ranks, unless there is one.
    fn suspect(&self, cause: Cause) {
        let mut state = self.state();
        if state.suspected.is_none() && state.first.is_none() {
            state.suspected = Some((cause, Instant::now()));
        }
        drop(state);
        self.changed.notify_all();
    }

    fn failure(&self, kind: FailureKind, comm: &str, culprits: Vec<usize>) -> Failure {
        let comm = comm.to_string();
        Failure { kind, rank: self.rank, comm, seq: None, op: String::new(), culprits, elapsed_ms: 0 }
    }

    /// A thread has ended.
    fn ended(&self) {
        self.state().threads -= 1;
        self.changed.notify_all();
    }

    fn stop(&self, stop: Stop) {
        let deadline = until(self.options.stop_within);
        let mut state = self.state();
        if state.stop.is_some() {
            return;
        }
        state.stop = Some(stop);
        self.changed.notify_all();
        while state.threads > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("rank {}: the watchdog does not stop, the store does not answer", self.rank);
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let comms = std::mem::take(&mut state.comms);
        drop(state);
        // A probe may hold the communicator that holds its watch. Whoever is in one keeps it.
        for comm in comms {
            let probe = comm.probe.try_lock().map(|mut probe| std::mem::take(&mut *probe));
            drop(probe);
        }
    }
}
