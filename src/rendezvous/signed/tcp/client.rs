//! The other ranks' end. A call takes an idle connection or makes one, so a thread that waits keeps
//! no other thread from the store.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::TcpOptions;
use super::frame::Session;
use super::handshake::{ANSWER_BYTES, Answer, GREETING_BYTES, answered, prove};
use super::host::{SLICE, reply, request};
use crate::error::{Error, Failure, FailureKind, Result};
use crate::rendezvous::signed::key::Key;
use crate::rendezvous::store::{failure, until, unusable};
use crate::rendezvous::stream::{connect_by, reach_by, read_by, write_by};

/// Between two tries to reach a host that is not there yet.
const RETRY: Duration = Duration::from_millis(20);

/// How long one handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// Connections kept for later.
const IDLE_MAX: usize = 4;

pub(super) struct Client {
    address: SocketAddr,
    rank: usize,
    key: Key,
    answer_within: Duration,
    idle: Mutex<Vec<Connection>>,
}

struct Connection {
    stream: TcpStream,
    session: Session,
}

/// Why there is no connection.
enum Closed {
    /// Nobody listens, or the host let us go before it looked at us.
    Absent(io::Error),
    WrongKey,
    Full,
    Random(Error),
}

impl Client {
    pub(super) fn connect(
        address: &str,
        rank: usize,
        key: &Key,
        options: &TcpOptions,
        deadline: Instant,
    ) -> Result<Self> {
        let begin = Instant::now();
        loop {
            let tried = match reach_by(address, deadline) {
                Ok(stream) => greeted(stream, key, deadline.min(Instant::now() + HANDSHAKE)),
                Err(why) if why.kind() == ErrorKind::InvalidInput => {
                    return Err(named(unusable(format!("{address:?} is not host:port")), rank));
                }
                Err(why) => Err(Closed::Absent(why)),
            };
            let tried = tried.and_then(|connection| match connection.stream.peer_addr() {
                Ok(address) => Ok((address, connection)),
                Err(why) => Err(Closed::Absent(why)),
            });
            let why = match tried {
                Ok((address, connection)) => {
                    let idle = Mutex::new(vec![connection]);
                    return Ok(Self { address, rank, key: key.clone(), answer_within: options.answer_within, idle });
                }
                Err(Closed::Absent(why)) => why,
                Err(closed) => return Err(named(closed.error(begin), rank)),
            };
            if Instant::now() + RETRY >= deadline {
                log::warn!("rank 0 was not reached at {address}: {why}");
                return Err(named(failure(FailureKind::RendezvousTimeout, vec![0], begin), rank));
            }
            std::thread::sleep(RETRY);
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.ask(request::SET, key, value, Duration::ZERO).map(|_| ())
    }

    pub(super) fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.ask(request::READ, key, &[], Duration::ZERO)
    }

    pub(super) fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        self.ask(request::CLAIM, key, value, Duration::ZERO).map(Option::unwrap_or_default)
    }

    /// The value, or nothing at the deadline.
    pub(super) fn wait(&self, key: &str, deadline: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            let slice = SLICE.min(deadline.saturating_duration_since(Instant::now()));
            let ms = (slice.as_millis() as u32).to_le_bytes();
            let value = self.ask(request::WAIT, key, &ms, slice)?;
            if value.is_some() || Instant::now() >= deadline {
                return Ok(value);
            }
        }
    }

    /// One request and its reply, which the host may hold back for `held`.
    fn ask(&self, what: u8, key: &str, rest: &[u8], held: Duration) -> Result<Option<Vec<u8>>> {
        let begin = Instant::now();
        let deadline = until(self.answer_within.saturating_add(held));
        let request = [&[what, key.len() as u8], key.as_bytes(), rest].concat();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // An idle connection may have been closed meanwhile; every request may be said twice.
        let mut reply = idle.map(|connection| self.exchange(connection, &request, deadline));
        if !matches!(reply, Some(Ok(_))) && Instant::now() < deadline {
            reply = Some(self.connection(begin, deadline)?.and_then(|new| self.exchange(new, &request, deadline)));
        }
        match reply {
            Some(Ok(reply)) => match reply.split_first() {
                Some((&reply::VALUE, value)) => Ok(Some(value.to_vec())),
                Some((&reply::NOTHING, _)) => Ok(None),
                _ => Err(named(unusable(format!("rank 0 refused \"{key}\"")), self.rank)),
            },
            Some(Err(why)) => Err(self.lost(&why, begin)),
            None => Err(self.lost(&ErrorKind::TimedOut.into(), begin)),
        }
    }

    fn exchange(&self, mut connection: Connection, request: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
        connection.session.send(&connection.stream, request, deadline)?;
        let reply = connection.session.receive(&connection.stream, deadline)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        Ok(reply)
    }

    /// A new connection; a crowd at the door is waited for, a closed door is not.
    fn connection(&self, begin: Instant, deadline: Instant) -> Result<io::Result<Connection>> {
        loop {
            match open(self.address, &self.key, deadline.min(Instant::now() + HANDSHAKE)) {
                Ok(connection) => return Ok(Ok(connection)),
                Err(Closed::Absent(why)) => {
                    if why.kind() == ErrorKind::ConnectionRefused || Instant::now() + RETRY >= deadline {
                        return Ok(Err(why));
                    }
                    std::thread::sleep(RETRY);
                }
                Err(closed) => return Err(named(closed.error(begin), self.rank)),
            }
        }
    }

    fn lost(&self, why: &io::Error, begin: Instant) -> Error {
        let how = match why.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "the host of the store does not answer".to_string(),
            ErrorKind::ConnectionRefused => "the host of the store is gone".to_string(),
            _ => format!("the connection to the host of the store broke ({why})"),
        };
        named(failure(FailureKind::PeerLost { how }, vec![0], begin), self.rank)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.address)
    }
}

impl Closed {
    fn error(self, begin: Instant) -> Error {
        match self {
            Self::Absent(why) => unusable(why.to_string()),
            Self::WrongKey => failure(FailureKind::AuthRejected, vec![0], begin),
            Self::Full => unusable("rank 0 serves no more connections: raise peers_max there".into()),
            Self::Random(error) => error,
        }
    }
}

fn named(error: Error, rank: usize) -> Error {
    match error {
        Error::Between(failure) => Error::Between(Box::new(Failure { rank, ..*failure })),
        other => other,
    }
}

fn open(address: SocketAddr, key: &Key, deadline: Instant) -> std::result::Result<Connection, Closed> {
    greeted(connect_by(address, deadline).map_err(Closed::Absent)?, key, deadline)
}

fn greeted(stream: TcpStream, key: &Key, deadline: Instant) -> std::result::Result<Connection, Closed> {
    let mut greeting = [0; GREETING_BYTES];
    read_by(&stream, &mut greeting, deadline).map_err(Closed::Absent)?;
    let Some((proof, nonces)) = prove(key, &greeting).map_err(Closed::Random)? else { return Err(Closed::WrongKey) };
    write_by(&stream, &proof, deadline).map_err(Closed::Absent)?;
    let mut answer = [0; ANSWER_BYTES];
    read_by(&stream, &mut answer, deadline).map_err(Closed::Absent)?;
    match answered(key, &nonces, &answer) {
        Answer::Welcome => {}
        Answer::WrongKey => return Err(Closed::WrongKey),
        Answer::Full => return Err(Closed::Full),
    }
    let session = Session::of_client(nonces.session(key).map_err(Closed::Random)?);
    Ok(Connection { stream, session })
}
