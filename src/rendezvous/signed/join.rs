//! All ranks of a job meet: each says its hello and hears all others', or all get one error.
//!
//! A rank claims its name with its hello, reads the others', and claims the verdict: `Joined` once
//! it has heard all of them and nothing contradicts, else what is wrong, at the deadline who is
//! missing. A claim has one winner, and every rank returns what the winner said, so no rank
//! believes in a world that another has given up. The verdict comes at once, not at the deadline,
//! where something contradicts.
//!
//! Assumes a store in which a claimed value stays. A second process that claims a rank after all
//! have joined is refused itself; the others do not hear of it. A hello under another key or nonce
//! is as if it had not been said; where a rank is missed at the deadline and somebody spoke under
//! its name with a wrong key, the error is `AuthRejected`.
//!
//! Proof: `tests/rendezvous/`, A1 to A5.

use std::time::{Duration, Instant};

use super::hello::{Decoded, Hello};
use super::key::{Key, Nonce};
use super::post::{Board, Slot};
use super::verdict::{Verdict, Why, conflict, protocol_skew};
use crate::error::{Error, FailureKind, Result};
use crate::rendezvous::store::{Store, failure, told_by};

/// What failures here name in place of a communicator.
pub(super) const COMM: &str = "rendezvous";

/// How long ranks rest between two looks at what nobody is told of.
const SLICE: Duration = Duration::from_millis(50);

/// A contradiction waits so long for more hellos, to name the fewer as culprits.
const SETTLE: Duration = Duration::from_millis(150);

/// The ranks of a job, all of which have met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    rank: usize,
    hellos: Vec<Hello>,
}

impl Members {
    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks in all.
    pub fn world(&self) -> usize {
        self.hellos.len()
    }

    /// What each rank said, in the order of ranks.
    pub fn hellos(&self) -> &[Hello] {
        &self.hellos
    }

    /// The ranks on this rank's machine, itself among them, ascending.
    pub fn neighbours(&self) -> Vec<usize> {
        let Some(own) = self.hellos.get(self.rank) else { return Vec::new() };
        self.hellos.iter().filter(|hello| hello.host.is(&own.host)).map(|hello| hello.rank).collect()
    }

    /// Name of the job.
    pub fn nonce(&self) -> Nonce {
        self.hellos.first().map_or(Nonce([0; 16]), |hello| hello.nonce)
    }
}

/// Meets the other ranks of `hello.world` in the store.
///
/// ```
/// use seqpar::rendezvous::{Hello, Key, MemoryStore, join};
/// use std::time::{Duration, Instant};
///
/// # fn main() -> seqpar::Result<()> {
/// let (store, key) = (MemoryStore::default(), Key::random()?);
/// let mut hello = Hello::new(0, 1, key.nonce("job 17, first try"))?;
/// hello.plans = vec![0x5e9a];
/// let members = join(&store, &key, &hello, Instant::now() + Duration::from_secs(60))?;
/// assert_eq!((members.rank(), members.world()), (0, 1));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`FailureKind::RendezvousTimeout`] at the deadline; [`FailureKind::WorldMismatch`],
/// [`FailureKind::DuplicateRank`], [`FailureKind::VersionSkew`], [`FailureKind::Mismatch`] (plans),
/// [`FailureKind::DeviceConflict`] at once, the same on all ranks; [`FailureKind::AuthRejected`];
/// what the store says where it cannot be used.
pub fn join(store: &dyn Store, key: &Key, hello: &Hello, deadline: Instant) -> Result<Members> {
    hello.check()?;
    let begin = Instant::now();
    let board = Board { store, key, nonce: hello.nonce };
    meet(&board, hello, begin, deadline).map_err(|error| told_by(error, hello.rank, COMM, "join", begin))
}

fn meet(board: &Board<'_>, own: &Hello, begin: Instant, deadline: Instant) -> Result<Members> {
    let said = own.encode();
    if board.claim(&name(own.rank), &said)? != said {
        let duplicate = Verdict { why: Why::Duplicate, culprits: vec![own.rank] };
        let verdict = decide(board, &duplicate)?;
        // The others have joined without us.
        let verdict = if verdict.why == Why::Joined { duplicate } else { verdict };
        return Err(error_of(&verdict, own.rank, begin));
    }
    let mut heard = Heard::new(own);
    let mut wrong: Option<(Verdict, Instant)> = None;
    let mut verdict_slot = Slot::default();
    loop {
        if heard.listen(board, own)? {
            let since = wrong.map_or(Instant::now(), |(_, since)| since);
            wrong = heard.wrong().map(|verdict| (verdict, since));
        }
        if let Some(bytes) = board.read(VERDICT, &mut verdict_slot)? {
            return conclude(board, &decoded(&bytes)?, heard, own, begin, deadline);
        }
        let now = Instant::now();
        let complete = heard.missing().next().is_none();
        let verdict = match &wrong {
            Some((wrong, since)) if complete || now >= *since + SETTLE || now >= deadline => Some(wrong.clone()),
            Some(_) => None,
            None if complete => Some(Verdict { why: Why::Joined, culprits: Vec::new() }),
            None if now >= deadline => Some(heard.late()),
            None => None,
        };
        if let Some(verdict) = verdict {
            return conclude(board, &decide(board, &verdict)?, heard, own, begin, deadline);
        }
        heard.rest(board, deadline)?;
    }
}

/// Claims the verdict; the one that counts.
fn decide(board: &Board<'_>, verdict: &Verdict) -> Result<Verdict> {
    decoded(&board.claim(VERDICT, &verdict.encode())?)
}

fn decoded(bytes: &[u8]) -> Result<Verdict> {
    let garbled =
        || failure(FailureKind::Store { why: "its verdict cannot be read".into() }, Vec::new(), Instant::now());
    Verdict::decode(bytes).ok_or_else(garbled)
}

fn conclude(
    board: &Board<'_>,
    verdict: &Verdict,
    mut heard: Heard,
    own: &Hello,
    begin: Instant,
    deadline: Instant,
) -> Result<Members> {
    if let Some(error) = verdict.error(own.rank, begin) {
        return Err(error);
    }
    // Somebody has heard everybody, so all hellos are there; a network disk may show them late.
    let patience = deadline.max(Instant::now() + SETTLE);
    while heard.missing().next().is_some() && Instant::now() < patience {
        heard.listen(board, own)?;
        heard.rest(board, patience)?;
    }
    match heard.all() {
        Ok(hellos) => Ok(Members { rank: own.rank, hellos }),
        Err(heard) => Err(error_of(&heard.late(), own.rank, begin)),
    }
}

fn error_of(verdict: &Verdict, rank: usize, begin: Instant) -> Error {
    verdict.error(rank, begin).unwrap_or_else(|| failure(FailureKind::RendezvousTimeout, Vec::new(), begin))
}

const VERDICT: &str = "verdict";

fn name(rank: usize) -> String {
    format!("hello/{rank}")
}

/// What was heard so far, by rank.
struct Heard {
    said: Vec<Said>,
    slots: Vec<Slot>,
}

#[derive(Clone)]
enum Said {
    Nothing,
    Hello(Box<Hello>),
    /// One that we cannot read, of another protocol.
    Foreign(u32),
}

impl Heard {
    fn new(own: &Hello) -> Self {
        let mut said = vec![Said::Nothing; own.world];
        if let Some(said) = said.get_mut(own.rank) {
            // As the others hear it: names that are too long are cut.
            *said = match Hello::decode(&own.encode(), own.protocol) {
                Decoded::Hello(hello) => Said::Hello(hello),
                _ => Said::Hello(Box::new(own.clone())),
            };
        }
        Self { said, slots: vec![Slot::default(); own.world] }
    }

    fn missing(&self) -> impl Iterator<Item = usize> {
        self.said.iter().enumerate().filter(|(_, said)| matches!(said, Said::Nothing)).map(|(rank, _)| rank)
    }

    /// True if something new was heard.
    fn listen(&mut self, board: &Board<'_>, own: &Hello) -> Result<bool> {
        let mut new = false;
        for (rank, (said, slot)) in self.said.iter_mut().zip(&mut self.slots).enumerate() {
            if !matches!(said, Said::Nothing) {
                continue;
            }
            let Some(bytes) = board.read(&name(rank), slot)? else { continue };
            new = true;
            *said = match Hello::decode(&bytes, own.protocol) {
                Decoded::Hello(hello) if hello.rank == rank && hello.nonce == own.nonce => Said::Hello(hello),
                Decoded::OtherProtocol(protocol) => Said::Foreign(protocol),
                // Signed by the job's key, so not a stranger's: a fault of ours or of the store.
                _ => {
                    let why = format!("the hello of rank {rank} cannot be read");
                    return Err(failure(FailureKind::Store { why }, vec![rank], Instant::now()));
                }
            };
        }
        Ok(new)
    }

    fn wrong(&self) -> Option<Verdict> {
        let protocols = self.said.iter().enumerate().filter_map(|(rank, said)| match said {
            Said::Nothing => None,
            Said::Hello(hello) => Some((rank, hello.protocol)),
            Said::Foreign(protocol) => Some((rank, *protocol)),
        });
        let hellos = self.said.iter().filter_map(|said| match said {
            Said::Hello(hello) => Some(hello.as_ref()),
            _ => None,
        });
        protocol_skew(protocols).or_else(|| conflict(&hellos.collect::<Vec<_>>()))
    }

    /// The verdict at the deadline.
    fn late(&self) -> Verdict {
        let missing: Vec<_> = self.missing().collect();
        let rejected: Vec<_> =
            missing.iter().copied().filter(|&rank| self.slots.get(rank).is_some_and(|slot| slot.skipped())).collect();
        if rejected.is_empty() {
            return Verdict { why: Why::Missing, culprits: missing };
        }
        Verdict { why: Why::Rejected, culprits: rejected }
    }

    /// Sleeps until the first rank that is missing may have come.
    fn rest(&self, board: &Board<'_>, deadline: Instant) -> Result<()> {
        let slice = SLICE.min(deadline.saturating_duration_since(Instant::now()));
        match self.missing().next().and_then(|rank| Some((rank, *self.slots.get(rank)?))) {
            Some((rank, slot)) => board.rest(&name(rank), slot, slice),
            None => {
                std::thread::sleep(slice);
                Ok(())
            }
        }
    }

    fn all(self) -> std::result::Result<Vec<Hello>, Self> {
        if self.missing().next().is_some() {
            return Err(self);
        }
        Ok(self
            .said
            .into_iter()
            .filter_map(|said| match said {
                Said::Hello(hello) => Some(*hello),
                _ => None,
            })
            .collect())
    }
}
