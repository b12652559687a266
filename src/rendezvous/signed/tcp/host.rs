//! Rank 0's end: the values, the door, and a thread for each connection that has the key.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::frame::Session;
use super::handshake::{Answer, Nonces, answer};
use super::{TcpOptions, door};
use crate::error::Result;
use crate::rendezvous::MemoryStore;
use crate::rendezvous::signed::key::Key;
use crate::rendezvous::store::{Store, is_timeout, unusable};
use crate::rendezvous::stream::write_by;

/// Longest time that a request keeps its thread; clients that wait longer ask again.
pub(super) const SLICE: Duration = Duration::from_secs(1);

/// How long a message may take from its first byte to its last.
const MESSAGE: Duration = Duration::from_secs(1);

const STACK_BYTES: usize = 256 << 10;

/// First byte of a request: what is asked. A key follows with its length (u8), then the value, or
/// the milliseconds (u32) of a wait.
pub(super) mod request {
    pub(in crate::rendezvous::signed::tcp) const SET: u8 = 1;
    pub(in crate::rendezvous::signed::tcp) const READ: u8 = 2;
    pub(in crate::rendezvous::signed::tcp) const WAIT: u8 = 3;
    pub(in crate::rendezvous::signed::tcp) const CLAIM: u8 = 4;
}

/// First byte of a reply; the value, or why not, follows.
pub(super) mod reply {
    pub(in crate::rendezvous::signed::tcp) const VALUE: u8 = 0;
    pub(in crate::rendezvous::signed::tcp) const NOTHING: u8 = 1;
    pub(in crate::rendezvous::signed::tcp) const REFUSED: u8 = 2;
}

/// What the threads of a host share.
pub(super) struct Shared {
    pub(super) key: Key,
    pub(super) options: TcpOptions,
    pub(super) closed: AtomicBool,
    values: MemoryStore,
    peers: Mutex<Peers>,
}

#[derive(Default)]
struct Peers {
    next: u64,
    open: HashMap<u64, Arc<TcpStream>>,
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rank 0's end of the store.
pub(super) struct Host {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// The door's own, as a stream: only those can be shut down.
    listener: TcpStream,
    door: Option<JoinHandle<()>>,
}

impl Host {
    pub(super) fn start(listener: TcpListener, key: &Key, options: &TcpOptions) -> Result<Self> {
        let said = |why| unusable(format!("the socket listened on: {why}"));
        let address = listener.local_addr().map_err(said)?;
        let second = listener.try_clone().map_err(said)?;
        let shared = Arc::new(Shared {
            key: key.clone(),
            options: *options,
            closed: AtomicBool::new(false),
            values: MemoryStore::default(),
            peers: Mutex::default(),
        });
        let inside = shared.clone();
        let door = Builder::new().name("seqpar-door".into()).stack_size(STACK_BYTES);
        let door = door.spawn(move || door::keep(&listener, &inside));
        let door = door.map_err(|why| unusable(format!("no thread for the store: {why}")))?;
        Ok(Self { shared, address, listener: OwnedFd::from(second).into(), door: Some(door) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn values(&self) -> &MemoryStore {
        &self.shared.values
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        for stream in self.shared.peers().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the door out of accept on Linux; elsewhere a knock does. Where neither can, the thread
        // stays until the process ends.
        let woken = self.listener.shutdown(Shutdown::Both).is_ok();
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let woken = woken || TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok();
        if let Some(door) = self.door.take().filter(|door| woken || door.is_finished()) {
            let _ = door.join();
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.address)
    }
}

/// Gives a connection that has the key a thread of its own, if there is room.
pub(super) fn admit(stream: TcpStream, nonces: &Nonces, shared: &Arc<Shared>) {
    let until = Instant::now() + MESSAGE;
    let say = |stream: &TcpStream, what| write_by(stream, &answer(&shared.key, Some(nonces), what), until);
    let Ok(session) = nonces.session(&shared.key) else { return };
    if stream.set_nonblocking(false).is_err() {
        return;
    }
    let stream = Arc::new(stream);
    let number = {
        let mut peers = shared.peers();
        if peers.open.len() >= shared.options.peers_max {
            drop(peers);
            let _ = say(&stream, Answer::Full);
            return;
        }
        peers.next += 1;
        let number = peers.next;
        peers.open.insert(number, stream.clone());
        number
    };
    let (inside, peer) = (shared.clone(), stream.clone());
    let thread = Builder::new().name("seqpar-store".into()).stack_size(STACK_BYTES);
    let welcome = say(&stream, Answer::Welcome).and_then(|()| {
        thread.spawn(move || {
            serve(&peer, Session::of_host(session), &inside);
            let _ = peer.shutdown(Shutdown::Both);
            inside.peers().open.remove(&number);
        })
    });
    if welcome.is_err() {
        shared.peers().open.remove(&number);
    }
}

/// Answers requests until the other end goes or says something it should not.
fn serve(stream: &TcpStream, mut session: Session, shared: &Shared) {
    while !shared.closed.load(Ordering::Acquire) {
        // An idle rank is no fault; half a message is.
        match stream.set_read_timeout(Some(SLICE)).and_then(|()| stream.peek(&mut [0])) {
            Ok(0) => return,
            Ok(_) => {}
            Err(why) => match why.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => continue,
                _ => return,
            },
        }
        let Ok(request) = session.receive(stream, Instant::now() + MESSAGE) else { return };
        let reply = reply_to(&request, &shared.values);
        if session.send(stream, &reply, Instant::now() + MESSAGE).is_err() {
            return;
        }
    }
}

fn reply_to(request: &[u8], values: &MemoryStore) -> Vec<u8> {
    let Some((what, key, rest)) = taken_apart(request) else { return vec![reply::REFUSED] };
    let value = match what {
        request::SET => values.set(key, rest).map(|()| None),
        request::READ => values.read(key),
        request::CLAIM => values.claim(key, rest).map(Some),
        request::WAIT => {
            let ms = rest.first_chunk::<4>().map_or(0, |ms| u32::from_le_bytes(*ms));
            let slice = SLICE.min(Duration::from_millis(ms.into()));
            match values.wait(key, Instant::now() + slice) {
                Err(error) if is_timeout(&error) => Ok(None),
                other => other.map(Some),
            }
        }
        _ => return vec![reply::REFUSED],
    };
    match value {
        Ok(Some(value)) => [&[reply::VALUE], value.as_slice()].concat(),
        Ok(None) => vec![reply::NOTHING],
        Err(_) => vec![reply::REFUSED],
    }
}

fn taken_apart(request: &[u8]) -> Option<(u8, &str, &[u8])> {
    let (&[what, length], rest) = request.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(length.into())?;
    Some((what, std::str::from_utf8(key).ok()?, rest))
}
