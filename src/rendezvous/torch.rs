//! A client of the store that torchrun's agent serves (c10d's TCPStore).
//!
//! PyTorch calls that protocol internal: it has no version field and no authentication, so what
//! ranks put there is signed by [`super::join`] and `exchange_id`; wrap it into a
//! [`super::SignedStore`] for all else. Anybody who reaches the agent can read it. A connection starts with `VALIDATE` and a magic number; then each query is a
//! type (u8) and its arguments, strings and bytes with their length (u64) before them, in the byte
//! order of the host. Keys stand under `/seqpar/`, apart from PyTorch's own.
//!
//! What it refuses: an answer longer than a value of ours. It asks (`CHECK`) every 10 to 50 ms
//! instead of using `WAIT`, which would keep other threads from the connection.
//! Assumes that nobody deletes our keys. A value has one byte before it, since the store takes an
//! empty one for none when it compares.
//!
//! Source: `torch/csrc/distributed/c10d/{TCPStore,TCPStoreBackend}.cpp`.
//! Proof: `tests/rendezvous/torch.rs`, against a server of the test's own written from that source;
//! `scripts/torch_store.sh` runs it against PyTorch (last: 2.11.0, both of its servers, four ranks
//! under torchrun).

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::store::{Store, VALUE_BYTES_MAX, check, failure, polled, unusable};
use super::stream::{reach_by, read_by, write_by};
use crate::error::{Error, FailureKind, Result};

const MAGIC: u32 = 0x3c85_f7ce;
const VALIDATE: u8 = 0;
const SET: u8 = 1;
const COMPARE_SET: u8 = 2;
const GET: u8 = 3;
const CHECK: u8 = 5;
const READY: u8 = 0;
const NOT_READY: u8 = 1;

const PREFIX: &str = "/seqpar/";

/// Stands before every value.
const FILLED: u8 = b'=';

const RETRY: Duration = Duration::from_millis(20);

/// How long the agent may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// torchrun's store.
#[derive(Debug)]
pub struct TorchStore {
    address: String,
    /// Nothing once an exchange broke off halfway, where what follows would be misread: the next
    /// query makes a new one. Every query may be said twice.
    stream: Mutex<Option<TcpStream>>,
}

impl TorchStore {
    /// Connects to the agent's store at `MASTER_ADDR:MASTER_PORT`. Tries until the deadline.
    ///
    /// # Errors
    /// [`FailureKind::RendezvousTimeout`] at the deadline.
    pub fn connect(address: &str, deadline: Instant) -> Result<Self> {
        let begin = Instant::now();
        loop {
            let why = match open(address, deadline) {
                Ok(stream) => return Ok(Self { address: address.into(), stream: Mutex::new(Some(stream)) }),
                Err(why) if why.kind() == ErrorKind::InvalidInput => {
                    return Err(unusable(format!("{address:?} is not host:port")));
                }
                Err(why) => why,
            };
            if Instant::now() + RETRY >= deadline {
                log::warn!("torchrun's store was not reached at {address}: {why}");
                return Err(failure(FailureKind::RendezvousTimeout, Vec::new(), begin));
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Sends a query and reads what comes back.
    fn ask<T>(&self, query: &[u8], reply: impl FnOnce(&TcpStream, Instant) -> io::Result<T>) -> Result<T> {
        let begin = Instant::now();
        let mut held = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // From now: others may have had the connection until here.
        let deadline = Instant::now() + ANSWER;
        let said = held.take().map_or_else(|| open(&self.address, deadline), Ok).and_then(|stream| {
            write_by(&stream, query, deadline)?;
            Ok((reply(&stream, deadline)?, stream))
        });
        let (said, stream) = said.map_err(|why| lost(&why, begin))?;
        *held = Some(stream);
        Ok(said)
    }
}

impl Store for TorchStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        check(key, value)?;
        // No answer comes; a CHECK behind it shows that it arrived.
        let query = [query(SET, key), bytes(&[FILLED], value), check_query(key)].concat();
        self.ask(&query, is_ready).map(|_| ())
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check(key, &[])?;
        // The agent drops a connection that asks for a key that is not there.
        if !self.ask(&check_query(key), is_ready)? {
            return Ok(None);
        }
        value(self.ask(&query(GET, key), vector)?).map(Some)
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        polled(key, deadline, || self.read(key))
    }

    fn claim(&self, key: &str, claimed: &[u8]) -> Result<Vec<u8>> {
        check(key, claimed)?;
        let query = [query(COMPARE_SET, key), bytes(&[], &[]), bytes(&[FILLED], claimed)].concat();
        value(self.ask(&query, vector)?)
    }
}

fn open(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let stream = reach_by(address, deadline)?;
    write_by(&stream, &[&[VALIDATE][..], &MAGIC.to_ne_bytes()].concat(), deadline)?;
    Ok(stream)
}

fn query(what: u8, key: &str) -> Vec<u8> {
    [vec![what], bytes(PREFIX.as_bytes(), key.as_bytes())].concat()
}

fn check_query(key: &str) -> Vec<u8> {
    [vec![CHECK], 1u64.to_ne_bytes().to_vec(), bytes(PREFIX.as_bytes(), key.as_bytes())].concat()
}

/// Two pieces as one string or vector.
fn bytes(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&((first.len() + second.len()) as u64).to_ne_bytes(), first, second].concat()
}

fn is_ready(stream: &TcpStream, deadline: Instant) -> io::Result<bool> {
    let mut answer = [0; 1];
    read_by(stream, &mut answer, deadline)?;
    match answer[0] {
        READY => Ok(true),
        NOT_READY => Ok(false),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

fn vector(stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    read_by(stream, &mut length, deadline)?;
    let length = u64::from_ne_bytes(length);
    if length > VALUE_BYTES_MAX as u64 + 1 {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    read_by(stream, &mut bytes, deadline)?;
    Ok(bytes)
}

fn value(bytes: Vec<u8>) -> Result<Vec<u8>> {
    match bytes.split_first() {
        Some((&FILLED, value)) => Ok(value.to_vec()),
        _ => Err(unusable("a value in torchrun's store is not seqpar's".into())),
    }
}

fn lost(why: &io::Error, begin: Instant) -> Error {
    let how = format!("torchrun's store does not answer as it should ({why})");
    failure(FailureKind::PeerLost { how }, Vec::new(), begin)
}
