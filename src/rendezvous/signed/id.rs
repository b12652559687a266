//! The identity of a communicator goes from rank 0 to all others.
//!
//! Whoever knows it can join the communicator, so it is never part of an error or a log line. It
//! is signed, not hidden: who can read the store can read it.
//!
//! Proof: `tests/rendezvous/`, A8.

use std::time::{Duration, Instant};

use super::join::{COMM, Members};
use super::key::Key;
use super::post::{Board, Slot};
use crate::error::{Error, FailureKind, Result};
use crate::rendezvous::store::{Store, failure, told_by};

/// Length of the identity of a communicator.
pub const ID_BYTES: usize = 128;

/// The id that rank 0 makes, on every rank. `name` is the communicator's, at most 32 bytes, and
/// used once in a job. Rank 0 keeps the store open until the others have the id.
///
/// # Errors
/// Rank 0: what `make` says. Others: [`Error::Rank`] if rank 0 said that it failed,
/// [`FailureKind::PeerLost`] where the store went with rank 0, else [`FailureKind::Timeout`] at the
/// deadline, which names rank 0.
pub fn exchange_id(
    store: &dyn Store,
    key: &Key,
    members: &Members,
    name: &str,
    make: impl FnOnce() -> Result<[u8; ID_BYTES]>,
    deadline: Instant,
) -> Result<[u8; ID_BYTES]> {
    if name.is_empty() || name.len() > 32 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::Unsupported(format!("name {name:?}: take 1 to 32 ASCII letters without spaces")));
    }
    let (begin, op) = (Instant::now(), format!("id of {name}"));
    let board = Board { store, key, nonce: members.nonce() };
    let entry = format!("id/{name}");
    let id =
        if members.rank() == 0 { give(&board, &entry, name, make) } else { take(&board, &entry, &op, begin, deadline) };
    id.map_err(|error| told_by(error, members.rank(), COMM, &op, begin))
}

const MADE: u8 = 0;
const FAILED: u8 = 1;

fn give(
    board: &Board<'_>,
    entry: &str,
    name: &str,
    make: impl FnOnce() -> Result<[u8; ID_BYTES]>,
) -> Result<[u8; ID_BYTES]> {
    let made = make();
    let said = match &made {
        Ok(id) => [&[MADE], id.as_slice()].concat(),
        Err(why) => [&[FAILED], why.to_string().as_bytes()].concat().into_iter().take(1024).collect(),
    };
    if board.claim(entry, &said)? != said {
        return Err(Error::Unsupported(format!(
            "id \"{name}\" was exchanged before: give each communicator its own name"
        )));
    }
    made
}

fn take(board: &Board<'_>, entry: &str, op: &str, begin: Instant, deadline: Instant) -> Result<[u8; ID_BYTES]> {
    let mut slot = Slot::default();
    loop {
        if let Some(said) = board.read(entry, &mut slot)? {
            return match said.split_first() {
                Some((&MADE, id)) => id.try_into().map_err(|_| garbled()),
                Some((&FAILED, why)) => {
                    Err(Error::Rank { rank: 0, op: op.into(), why: String::from_utf8_lossy(why).into_owned() })
                }
                _ => Err(garbled()),
            };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let stage = "rank 0 did not give the id; look at that rank, or raise the deadline".to_string();
            return Err(failure(FailureKind::Timeout { stage }, vec![0], begin));
        }
        board.rest(entry, slot, left.min(Duration::from_secs(1)))?;
    }
}

fn garbled() -> Error {
    failure(FailureKind::Store { why: "the id cannot be read".into() }, vec![0], Instant::now())
}
