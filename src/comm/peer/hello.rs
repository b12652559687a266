//! The ranks of a world, met through a store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::page::Page;
use super::process::Process;
use crate::cuda::Context;
use crate::error::{Error, Failure, FailureKind, Result};
use crate::rendezvous::{Store, is_timeout, set_long, until, wait_long};

const VERSION: &str = "seqpar-peer-1";

/// How long the store may take to hear of a failure.
const TELL: Duration = Duration::from_secs(2);

/// How often the store is asked whether a rank has let go.
const LET_GO_PERIOD: Duration = Duration::from_millis(1);

/// How often the store is asked for the failure of others.
const HEALTH_PERIOD: Duration = Duration::from_millis(10);

/// One rank, and what it knows of the others of its world. A family: what it connects fails
/// together.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    name: String,
    rank: usize,
    deadline: Duration,
    /// By rank, this one's too.
    hellos: Vec<Hello>,
    /// Programs connected so far.
    connected: AtomicUsize,
    pages: Mutex<Vec<Weak<Page>>>,
    state: Mutex<State>,
}

struct State {
    failure: Option<String>,
    /// The others have been told of it.
    told: bool,
    asked: Instant,
}

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq)]
struct Hello {
    world: usize,
    process: Process,
    device: i32,
    /// Whether this process sees the other.
    seen: bool,
}

impl Peers {
    /// Meets the other ranks of the world. `name` is of this job alone: nobody has used it in this
    /// store before. `context` is the rank's, current on this thread; for ranks of one process on
    /// several devices, peer access is enabled.
    ///
    /// # Errors
    /// Ranks that do not come, that believe in another world or version or claim this rank; devices
    /// that cannot reach each other; what the store and the driver say.
    pub fn join(
        store: Arc<dyn Store>,
        name: &str,
        rank: usize,
        world: usize,
        context: &Context,
        deadline: Duration,
    ) -> Result<Self> {
        if rank >= world {
            return Err(Error::Mesh(format!("rank {rank} of a world of {world}: ranks go from 0 to world - 1")));
        }
        let mut shared = Shared {
            store,
            name: name.to_string(),
            rank,
            deadline,
            hellos: Vec::new(),
            connected: AtomicUsize::new(0),
            pages: Mutex::default(),
            state: Mutex::new(State { failure: None, told: false, asked: Instant::now() }),
        };
        let own = Hello { world, process: Process::this(), device: context.device(), seen: true };
        let text = own.encode();
        let there = shared.store.claim(&shared.key(&format!("hello/{rank}")), text.as_bytes())?;
        if there != text.as_bytes() {
            return Err(shared.failure(FailureKind::DuplicateRank, vec![rank], Instant::now()));
        }
        for (other, said) in
            shared.gather("hello", world, |store, key, deadline| store.wait(key, deadline))?.into_iter().enumerate()
        {
            let hello = shared.understand(other, &said, world)?;
            if other != rank && hello.process.is_this() && hello.device != own.device {
                let theirs = Context::primary(hello.device)?;
                context.reach(&theirs)?;
            }
            shared.hellos.push(hello);
        }
        context.bind()?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.shared.hellos.len()
    }

    /// Fails once the family has failed: a rank said so, or its process has ended.
    ///
    /// # Errors
    /// [`FailureKind::Aborted`], [`FailureKind::PeerLost`]; [`FailureKind::Poisoned`] from the second
    /// time on.
    pub fn health(&self) -> Result<()> {
        let shared = &self.shared;
        let now = Instant::now();
        {
            let mut state = shared.state();
            if let Some(first_cause) = &state.failure {
                let first_cause = first_cause.clone();
                return Err(shared.failure(FailureKind::Poisoned { first_cause }, Vec::new(), now));
            }
            if now.duration_since(state.asked) < HEALTH_PERIOD {
                return Ok(());
            }
            state.asked = now;
        }
        // Not under the lock: an abort does not wait for a store that hangs.
        let error = match shared.store.read(&shared.key("failed"))? {
            Some(said) => {
                let by = String::from_utf8_lossy(&said).into_owned();
                let culprit = by.strip_prefix("rank ").and_then(|rest| rest.split(':').next()?.parse().ok());
                shared.failure(FailureKind::Aborted { by }, culprit.into_iter().collect(), now)
            }
            None => {
                let lost: Vec<usize> = (0..self.world()).filter(|&rank| !shared.hellos[rank].is_there()).collect();
                if lost.is_empty() {
                    return Ok(());
                }
                shared.failure(FailureKind::PeerLost { how: "its process has ended".into() }, lost, now)
            }
        };
        shared.state().failure.get_or_insert_with(|| error.to_string());
        Err(error)
    }

    /// Fails once a rank has aborted, whether or not its process is there: what it sends from then
    /// on means nothing. Always asks the store.
    ///
    /// # Errors
    /// As [`Peers::health`], and a store that cannot be reached.
    pub fn is_whole(&self) -> Result<()> {
        let shared = &self.shared;
        let is_well = shared.state().failure.is_none() && shared.store.read(&shared.key("failed"))?.is_none();
        if is_well {
            return Ok(());
        }
        shared.state().asked = Instant::now().checked_sub(HEALTH_PERIOD).unwrap_or_else(Instant::now);
        self.health()
    }

    /// Ends the family: tells the other ranks why, and ends every wait of this one, though the store
    /// may not answer. On a thread on which the rank's context is current. Again: ends the waits
    /// that have come since.
    pub fn abort(&self, why: &str) {
        let shared = &self.shared;
        if !std::mem::replace(&mut shared.state().told, true) {
            let said = format!("rank {}: {why}", shared.rank);
            shared.state().failure.get_or_insert_with(|| said.clone());
            // Before the waits end here: what is sent from then on means nothing.
            if !shared.clone().tell(said.clone()) {
                log::warn!("the other ranks are not told that {said}: their deadlines have to help");
            }
        }
        for page in shared.pages().iter().filter_map(Weak::upgrade) {
            if let Err(error) = page.raise_all() {
                log::error!("flags of rank {} stay as they are: {error}", shared.rank);
            }
        }
    }

    /// What all ranks say under `what`, in the order of ranks, this rank's among them.
    pub(super) fn exchange(&self, what: &str, said: &str) -> Result<Vec<String>> {
        let shared = &self.shared;
        set_long(&*shared.store, &shared.key(&format!("{what}/{}", shared.rank)), said.as_bytes())?;
        shared.gather(what, self.world(), wait_long)
    }

    /// A number for the next program: the same on all ranks, which connect alike.
    pub(super) fn next_connection(&self) -> usize {
        self.shared.connected.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn watch(&self, page: &Arc<Page>) {
        let mut pages = self.shared.pages();
        pages.retain(|page| page.strong_count() > 0);
        pages.push(Arc::downgrade(page));
    }

    /// Whether that rank is a thread of this process.
    pub(super) fn is_here(&self, rank: usize) -> bool {
        self.shared.hellos.get(rank).is_some_and(|hello| hello.process.is_this())
    }

    pub(super) fn failure(&self, kind: FailureKind, culprits: Vec<usize>) -> Error {
        self.shared.failure(kind, culprits, Instant::now())
    }

    /// Says that this rank has let go, and waits (not long) until all have that are still there;
    /// false: they have not.
    pub(super) fn all_let_go(&self, what: &str, longest: Duration) -> bool {
        let shared = &self.shared;
        let until = Instant::now() + longest;
        let has_let_go = |rank: usize| {
            let key = shared.key(&format!("{what}/{rank}"));
            loop {
                match shared.store.read(&key) {
                    Ok(Some(_)) => return true,
                    Ok(None) if Instant::now() < until && shared.hellos[rank].is_there() => {
                        std::thread::sleep(LET_GO_PERIOD)
                    }
                    Ok(None) => return !shared.hellos[rank].is_there(),
                    Err(_) => return false,
                }
            }
        };
        let said = shared.store.set(&shared.key(&format!("{what}/{}", shared.rank)), b"gone");
        said.is_ok() && (0..self.world()).all(has_let_go)
    }
}

impl Shared {
    /// Has the store keep the first failure; false if it does not in time.
    fn tell(self: Arc<Self>, said: String) -> bool {
        let (done, wait) = sync_channel(1);
        let work = move || done.send(self.store.claim(&self.key("failed"), said.as_bytes()).is_ok());
        let thread = Builder::new().name("seqpar-tell".into()).spawn(work);
        thread.is_ok() && wait.recv_timeout(TELL) == Ok(true)
    }

    fn key(&self, what: &str) -> String {
        format!("peer/{}/{what}", self.name)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> MutexGuard<'_, Vec<Weak<Page>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all ranks have said, as `wait` reads it.
    fn gather(
        &self,
        what: &str,
        world: usize,
        wait: impl Fn(&dyn Store, &str, Instant) -> Result<Vec<u8>>,
    ) -> Result<Vec<String>> {
        let (begin, deadline) = (Instant::now(), until(self.deadline));
        let (mut said, mut missing) = (Vec::new(), Vec::new());
        for rank in 0..world {
            match wait(&*self.store, &self.key(&format!("{what}/{rank}")), deadline) {
                Ok(bytes) => said.push(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if is_timeout(&error) => missing.push(rank),
                Err(error) => return Err(error),
            }
        }
        if missing.is_empty() { Ok(said) } else { Err(self.failure(FailureKind::RendezvousTimeout, missing, begin)) }
    }

    fn understand(&self, rank: usize, said: &str, world: usize) -> Result<Hello> {
        let begin = Instant::now();
        let Some(mut hello) = Hello::decode(said) else {
            let theirs = said.split(' ').next().unwrap_or_default().to_string();
            return Err(self.failure(FailureKind::VersionSkew { mine: VERSION.into(), theirs }, vec![rank], begin));
        };
        if hello.world != world {
            let mut seen = vec![world, hello.world];
            seen.sort_unstable();
            return Err(self.failure(FailureKind::WorldMismatch { seen }, vec![rank], begin));
        }
        hello.seen = hello.process.is_seen();
        Ok(hello)
    }

    fn failure(&self, kind: FailureKind, culprits: Vec<usize>, begin: Instant) -> Error {
        Error::Between(Box::new(Failure {
            kind,
            rank: self.rank,
            comm: format!("peers \"{}\"", self.name),
            seq: None,
            op: String::new(),
            culprits,
            elapsed_ms: begin.elapsed().as_millis() as u64,
        }))
    }
}

impl Hello {
    /// False if the process is known to have ended.
    fn is_there(&self) -> bool {
        self.process.is_alive(self.seen)
    }

    fn encode(&self) -> String {
        let Process { nonce, id, started } = self.process;
        format!("{VERSION} {} {nonce} {id} {started} {}", self.world, self.device)
    }

    fn decode(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [VERSION, world, nonce, id, started, device] = words[..] else { return None };
        let process = Process { nonce: nonce.parse().ok()?, id: id.parse().ok()?, started: started.parse().ok()? };
        Some(Self { world: world.parse().ok()?, process, device: device.parse().ok()?, seen: false })
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("name", &self.shared.name).field("rank", &self.rank()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_reads_as_it_was_written() {
        let hello = Hello { world: 4, process: Process { nonce: 7, id: 8, started: 9 }, device: 3, seen: false };
        assert_eq!(Hello::decode(&hello.encode()), Some(hello.clone()));
        for wrong in ["", "seqpar-peer-0 4 7 8 9 3", "seqpar-peer-1 4 7 8 9", "seqpar-peer-1 4 7 x 9 3"] {
            assert_eq!(Hello::decode(wrong), None, "{wrong}");
        }
    }
}
