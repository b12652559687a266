//! Communication between ranks that are threads of one process.
//!
//! A sender posts a lease of its bytes to the receiver, who copies them straight into its own
//! region: no staging. Message `i` from a to b under a tag meets the `i`-th from a on b; tags
//! never meet each other. The sender's op ends when all its messages were taken, the receiver's
//! when all have arrived. With a [`Link`] messages take time; the bytes are copied before that
//! time has passed, so that the copy does not add to it.
//!
//! A reducing op sums, on each rank that receives, what every member of the group sends it: in
//! group order, in f32, rounded once. Assumes that a lease stays valid until the op that posted
//! it has ended. Links can be made to fail ([`Faults`]); with checksums a message that arrives
//! otherwise than it was sent is an error, without them it is not noticed. Tests:
//! `tests/exec_host.rs`, `tests/schedules.rs`, `tests/failure/links.rs`.

mod board;
mod faults;
mod ports;
mod reduce;
mod sync;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use faults::{Cut, Faults, Spoil};
pub use ports::Link;

use crate::error::{Error, Failure, FailureKind, Result};
use crate::plan::{Comm, Direction};
use board::{Board, Key, Stop};
use faults::checksum;
use ports::{Flight, Ports};

/// The bytes of one transfer.
pub(crate) trait Lease: Clone + Send {
    /// The bytes, to be read.
    fn bytes(&self) -> &[u8];
    /// The bytes, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// The ranks of a process, and what they tell each other: messages, events, failure.
pub(crate) struct Local<L> {
    board: Board<Message<L>, Instant, Error>,
    ports: Ports,
    deadline: Duration,
    /// Whom each rank's communications wait for, by op: an event that does not come is explained
    /// by the communication that would record it.
    waiting: Vec<Mutex<BTreeMap<Arc<str>, String>>>,
    faults: Faults,
    checksums: bool,
    /// When the run began.
    start: Mutex<Instant>,
}

/// How messages travel.
#[derive(Clone, Default)]
pub(crate) struct Links {
    /// How fast; `None` takes no time.
    pub(crate) link: Option<Link>,
    pub(crate) faults: Faults,
    /// Compare what arrives with what was sent.
    pub(crate) checksums: bool,
}

/// One communication, as a rank enters it.
pub(crate) struct Call<'a, L> {
    pub(crate) epoch: u64,
    pub(crate) rank: usize,
    pub(crate) label: &'a Arc<str>,
    pub(crate) comm: &'a Comm,
    /// The ranks of the communication, in group order.
    pub(crate) group: &'a [u32],
    /// The bytes of each transfer of `comm`.
    pub(crate) leases: Vec<L>,
}

struct Message<L> {
    lease: L,
    posted: Instant,
    label: Arc<str>,
    /// Of the bytes, if they are to be compared.
    checksum: Option<u64>,
}

/// The bytes of a message as they arrived.
enum Arrived<L> {
    Lease(L),
    Spoiled(Vec<u8>),
}

impl<L: Lease> Arrived<L> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Lease(lease) => lease.bytes(),
            Self::Spoiled(bytes) => bytes,
        }
    }
}

impl<L: Lease> Local<L> {
    /// Ranks with the given numbers of events.
    pub(crate) fn new(events: &[usize], links: Links, deadline: Duration) -> Self {
        Self {
            board: Board::new(events),
            ports: Ports::new(links.link, events.len()),
            deadline,
            waiting: events.iter().map(|_| Mutex::default()).collect(),
            faults: links.faults,
            checksums: links.checksums,
            start: Mutex::new(Instant::now()),
        }
    }

    /// Forgets the failure and the messages of the last run; no rank is in a call.
    pub(crate) fn clear(&self) {
        self.board.clear();
        self.ports.clear();
        *sync::whole(self.start.lock()) = Instant::now();
        self.waiting.iter().for_each(|rank| rank.lock().unwrap_or_else(PoisonError::into_inner).clear());
    }

    /// Records an event.
    pub(crate) fn record(&self, rank: usize, event: usize, epoch: u64) {
        self.board.record(rank, event, epoch);
    }

    /// Waits for an event on behalf of the op `label`.
    pub(crate) fn wait_event(&self, rank: usize, event: usize, epoch: u64, label: &str, name: &str) -> Result<()> {
        self.board
            .wait_event(rank, event, epoch, self.until())
            .map_err(|stop| self.error(stop, rank, label, || format!("{name}{}", self.explanation(rank))))
    }

    /// What this rank's communications wait for, to stand behind the name of an event.
    fn explanation(&self, rank: usize) -> String {
        let waiting = self.waiting[rank].lock().unwrap_or_else(PoisonError::into_inner);
        let list: Vec<String> = waiting.iter().map(|(op, what)| format!("op \"{op}\" waits for {what}")).collect();
        if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) }
    }

    fn note(&self, call: &Call<'_, L>, what: String) {
        let mut waiting = self.waiting[call.rank].lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(call.label.clone(), what);
    }

    /// Sleeps until an instant, or until the world fails.
    pub(crate) fn rest(&self, rank: usize, until: Instant) -> Result<()> {
        if until <= Instant::now() {
            return Ok(());
        }
        self.board.rest(rank, until)
    }

    /// Fails the world: every wait ends with the first failure.
    pub(crate) fn fail(&self, error: Error) {
        self.board.fail(error);
    }

    /// The failure that `rank` has learned of.
    pub(crate) fn failure(&self, rank: usize) -> Option<Error> {
        self.board.failure(rank)
    }

    /// Runs one communication; returns the bytes sent to other ranks.
    pub(crate) fn run(&self, mut call: Call<'_, L>) -> Result<u64> {
        let bytes = self.exchange(&mut call);
        self.waiting[call.rank].lock().unwrap_or_else(PoisonError::into_inner).remove(call.label);
        bytes
    }

    fn exchange(&self, call: &mut Call<'_, L>) -> Result<u64> {
        let begin = Instant::now();
        let (sent, own) = self.post_all(call, begin);
        let arrived = if call.comm.kind.reduces() {
            self.receive_sums(call, begin, &own)?
        } else {
            self.receive_all(call, begin)?
        };
        let mut end = arrived;
        let mut bytes = 0;
        for (key, len) in sent {
            let what = || format!("rank {} to take message {} of tag {}, {len} bytes", key.to, key.index, key.tag);
            self.note(call, what());
            let receipt = self.board.wait_receipt(key, self.until());
            let left = receipt.map_err(|stop| self.error(stop, call.rank, call.label, what))?;
            end = end.max(left);
            bytes += if key.to == key.from { 0 } else { len as u64 };
        }
        self.cross(call, end)?;
        Ok(bytes)
    }

    /// Posts every message; in a reducing op the own slots stay here.
    fn post_all(&self, call: &Call<'_, L>, posted: Instant) -> (Vec<(Key, usize)>, Vec<L>) {
        let mut keys = Keys::new(call);
        let (mut sent, mut own) = (Vec::new(), Vec::new());
        for (transfer, lease) in call.comm.transfers.iter().zip(&call.leases) {
            if transfer.direction != Direction::Send {
                continue;
            }
            if call.comm.kind.reduces() && transfer.peer as usize == call.rank {
                own.push(lease.clone());
                continue;
            }
            let key = keys.next(call.rank as u32, transfer.peer);
            sent.push((key, lease.bytes().len()));
            let checksum = self.checksums.then(|| checksum(lease.bytes()));
            self.board.post(key, Message { lease: lease.clone(), posted, label: call.label.clone(), checksum });
        }
        (sent, own)
    }

    fn receive_all(&self, call: &mut Call<'_, L>, begin: Instant) -> Result<Instant> {
        let mut keys = Keys::new(call);
        let receives = call.comm.transfers.iter().zip(&call.leases).filter(|(t, _)| t.direction == Direction::Recv);
        let wanted: Vec<(Key, L)> =
            receives.map(|(t, lease)| (keys.next(t.peer, call.rank as u32), lease.clone())).collect();
        let (keys, mut slots): (Vec<Key>, Vec<L>) = wanted.into_iter().unzip();
        self.receive(
            call,
            begin,
            &keys,
            |which, message| {
                let slot = &mut slots[which];
                let arrived = self.arrive(call, keys[which], message, slot.bytes().len())?;
                slot.bytes_mut().copy_from_slice(arrived.bytes());
                Ok(())
            },
            |key, left| self.board.confirm(key, left),
        )
    }

    /// Receives the slots of all other members and sums them with the own one.
    fn receive_sums(&self, call: &mut Call<'_, L>, begin: Instant, own: &[L]) -> Result<Instant> {
        let receives = call.comm.transfers.iter().zip(&call.leases).filter(|(t, _)| t.direction == Direction::Recv);
        let mut sums: Vec<L> = receives.map(|(_, lease)| lease.clone()).collect();
        let group = call.group;
        if own.len() != sums.len() {
            return Err(rank_error(
                call,
                format!("{} sums but {} own slots: send oneself a slot a sum", sums.len(), own.len()),
            ));
        }
        let others: Vec<u32> = group.iter().copied().filter(|&from| from as usize != call.rank).collect();
        let mut next = Keys::new(call);
        let rounds = sums.iter().flat_map(|_| &others);
        let keys: Vec<Key> = rounds.map(|&from| next.next(from, call.rank as u32)).collect();
        let mut slots: Vec<Option<Arrived<L>>> = keys.iter().map(|_| None).collect();
        let mut taken: Vec<(Key, Instant)> = Vec::new();
        let arrived = self.receive(
            call,
            begin,
            &keys,
            |which, message| {
                let expected = sums[which / others.len()].bytes().len();
                slots[which] = Some(self.arrive(call, keys[which], message, expected)?);
                Ok(())
            },
            |key, left| taken.push((key, left)),
        )?;
        for (i, sum) in sums.iter_mut().enumerate() {
            let mut received = slots[i * others.len()..][..others.len()].iter().flatten();
            let parts: Vec<&[u8]> = group
                .iter()
                .filter_map(|&from| match from as usize == call.rank {
                    true => own.get(i).map(Lease::bytes),
                    false => received.next().map(Arrived::bytes),
                })
                .collect();
            if parts.iter().any(|part| part.len() != sum.bytes().len()) {
                return Err(rank_error(call, "the own slot and the sum differ in length".into()));
            }
            reduce::sum(call.comm.dtype, &parts, sum.bytes_mut()).map_err(|why| rank_error(call, why))?;
        }
        // Only now may the senders write their slots again.
        taken.into_iter().for_each(|(key, left)| self.board.confirm(key, left));
        Ok(arrived)
    }

    /// Takes every message as soon as it is posted, and starts it as soon as the ports are free.
    /// Returns when the last one arrives.
    fn receive(
        &self,
        call: &Call<'_, L>,
        begin: Instant,
        keys: &[Key],
        mut take: impl FnMut(usize, Message<L>) -> Result<()>,
        mut started: impl FnMut(Key, Instant),
    ) -> Result<Instant> {
        let mut waiting: Vec<usize> = (0..keys.len()).collect();
        let mut flights: Vec<Flight<Key>> = Vec::new();
        let mut arrived = begin;
        let mut until = self.until();
        loop {
            let wake = if flights.is_empty() {
                None
            } else {
                match self.ports.start(call.rank, &mut flights) {
                    Ok((flight, times)) => {
                        started(flight.what, times.left);
                        arrived = arrived.max(times.arrived);
                        until = self.until();
                        continue;
                    }
                    Err(wake) => Some(wake),
                }
            };
            let wanted: Vec<Key> = waiting.iter().map(|&which| keys[which]).collect();
            let Some(oldest) = wanted.first() else {
                let Some(wake) = wake else { return Ok(arrived) };
                self.cross(call, wake)?;
                continue;
            };
            let what = || format!("rank {} to send message {} of tag {}", oldest.from, oldest.index, oldest.tag);
            self.note(call, what());
            match self.board.take_any(call.rank, &wanted, wake.into_iter().chain(until).min()) {
                Ok((i, message)) => {
                    let which = waiting.remove(i);
                    let (bytes, posted) = (message.lease.bytes().len(), message.posted.max(begin));
                    let posted = self.faults.ready(keys[which], posted, *sync::whole(self.start.lock()));
                    take(which, message)?;
                    flights.push(Flight { from: keys[which].from as usize, bytes, posted, what: keys[which] });
                    until = self.until();
                }
                Err(Stop::Deadline) if wake.is_some() && until.is_none_or(|until| until > Instant::now()) => {}
                Err(stop) => {
                    return Err(self.error(stop, call.rank, call.label, what));
                }
            }
        }
    }

    /// The bytes of a message, once they are known to be as many as expected and those sent.
    fn arrive(&self, call: &Call<'_, L>, key: Key, message: Message<L>, expected: usize) -> Result<Arrived<L>> {
        check_len(call, key, &message, expected)?;
        let spoiled = match self.faults.arriving(key, message.lease.bytes()) {
            Cow::Borrowed(_) => None,
            Cow::Owned(bytes) => Some(bytes),
        };
        let sent = message.checksum;
        let arrived = spoiled.map_or(Arrived::Lease(message.lease), Arrived::Spoiled);
        if sent.is_some_and(|sent| sent != checksum(arrived.bytes())) {
            return Err(Error::Between(Box::new(Failure {
                kind: FailureKind::Corrupt { bytes: expected },
                rank: call.rank,
                comm: "plan".into(),
                seq: Some(u64::from(key.tag)),
                op: call.label.to_string(),
                culprits: vec![key.from as usize],
                elapsed_ms: message.posted.elapsed().as_millis() as u64,
            })));
        }
        Ok(arrived)
    }

    /// Sleeps while messages are on the modelled link, no longer than the deadline.
    fn cross(&self, call: &Call<'_, L>, wake: Instant) -> Result<()> {
        let what = || format!("its messages with {} to cross the link", peers(call));
        self.note(call, what());
        match self.until().filter(|until| *until < wake) {
            None => self.rest(call.rank, wake),
            Some(until) => {
                self.rest(call.rank, until)?;
                Err(self.error(Stop::Deadline, call.rank, call.label, what))
            }
        }
    }

    fn until(&self) -> Option<Instant> {
        Instant::now().checked_add(self.deadline)
    }

    fn error(&self, stop: Stop<Error>, rank: usize, op: &str, waited_for: impl FnOnce() -> String) -> Error {
        match stop {
            Stop::Failed(error) => error,
            Stop::Deadline => Error::Timeout {
                rank,
                op: op.to_string(),
                waited_for: waited_for(),
                after_ms: self.deadline.as_millis() as u64,
            },
        }
    }
}

/// `rank 1, rank 3`: the other ends of a call's messages.
fn peers<L>(call: &Call<'_, L>) -> String {
    let peers: BTreeSet<u32> = call.comm.transfers.iter().map(|transfer| transfer.peer).collect();
    let others = peers.into_iter().filter(|&peer| peer as usize != call.rank);
    others.map(|peer| format!("rank {peer}")).collect::<Vec<_>>().join(", ")
}

/// Numbers the messages of each (from, to) pair.
struct Keys {
    epoch: u64,
    tag: u32,
    counts: HashMap<(u32, u32), u32>,
}

impl Keys {
    fn new<L>(call: &Call<'_, L>) -> Self {
        Self { epoch: call.epoch, tag: call.comm.tag.0, counts: HashMap::new() }
    }

    fn next(&mut self, from: u32, to: u32) -> Key {
        let count = self.counts.entry((from, to)).or_default();
        *count += 1;
        Key { epoch: self.epoch, tag: self.tag, from, to, index: *count - 1 }
    }
}

fn check_len<L: Lease>(call: &Call<'_, L>, key: Key, message: &Message<L>, expected: usize) -> Result<()> {
    let sent = message.lease.bytes().len();
    if sent == expected {
        return Ok(());
    }
    Err(rank_error(
        call,
        format!(
            "rank {} sends {sent} bytes as message {} of tag {} (op \"{}\"), but rank {} expects {expected}: make both counts equal",
            key.from, key.index, key.tag, message.label, key.to
        ),
    ))
}

fn rank_error<L>(call: &Call<'_, L>, why: String) -> Error {
    Error::Rank { rank: call.rank, op: call.label.to_string(), why }
}
