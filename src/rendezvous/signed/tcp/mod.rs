//! A store that rank 0 serves over TCP to the others.
//!
//! Both ends prove that they have the job's key before anything else is said, and sign every frame
//! after that ([`handshake`], [`frame`]). A connection that has proved nothing owns a few hundred
//! bytes and no thread, and is closed after one second, sooner where others wait; there are at most
//! [`TcpOptions::strangers_max`] of them and [`TcpOptions::peers_max`] that have. A frame has a
//! largest size, known to both ends.
//!
//! What it refuses: to listen on every interface unless [`Interface::Every`] says so, a wrong key,
//! a frame that was changed, repeated or left out. It does not encrypt.
//! Assumes that rank 0's store outlives its use by the others; a connection that breaks, or does not
//! answer in [`TcpOptions::answer_within`], is rank 0's loss.
//!
//! Proof: `tests/rendezvous/tcp.rs`, A6 to A8.

mod client;
mod door;
mod frame;
mod handshake;
mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use self::client::Client;
use self::host::Host;
use super::key::Key;
use crate::error::Result;
use crate::rendezvous::store::{Store, check, timeout, unusable};

/// Where rank 0 listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// Ranks of this machine alone.
    #[default]
    Loopback,
    /// The interface with this address, which is not the unspecified one.
    Address(IpAddr),
    /// Every interface of the machine.
    Every,
}

/// Limits of a TCP store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Where to listen.
    pub interface: Interface,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Connections that have proved the key; a rank has as many as threads that use its store at once.
    pub peers_max: usize,
    /// Connections that have not yet.
    pub strangers_max: usize,
    /// How long either end waits for the other where a call has no deadline of its own.
    pub answer_within: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            interface: Interface::Loopback,
            port: 0,
            peers_max: 256,
            strangers_max: 256,
            answer_within: Duration::from_secs(5),
        }
    }
}

/// A store that rank 0 serves over TCP.
#[derive(Debug)]
pub struct TcpStore(End);

#[derive(Debug)]
enum End {
    Host(Host),
    Client(Client),
}

impl TcpStore {
    /// Rank 0's end. The values go with it.
    ///
    /// # Errors
    /// An address that is taken, not this machine's, or the unspecified one.
    pub fn serve(key: &Key, options: &TcpOptions) -> Result<Self> {
        let address = match options.interface {
            Interface::Loopback => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Interface::Address(address) if address.is_unspecified() => {
                return Err(unusable(format!(
                    "{address} is every interface: name one, or say Interface::Every if all the network may knock"
                )));
            }
            Interface::Address(address) => address,
            Interface::Every => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut listener = TcpListener::bind(SocketAddr::new(address, options.port));
        // A machine without IPv6.
        if options.interface == Interface::Every && listener.is_err() {
            listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), options.port));
        }
        let listener =
            listener.map_err(|why| unusable(format!("cannot listen on {address}:{}: {why}", options.port)))?;
        Ok(Self(End::Host(Host::start(listener, key, options)?)))
    }

    /// Another rank's end: `address` is rank 0's, "host:port". Tries until the deadline, since rank
    /// 0 may come later.
    ///
    /// # Errors
    /// [`crate::error::FailureKind::RendezvousTimeout`] that names rank 0 at the deadline,
    /// [`crate::error::FailureKind::AuthRejected`] for another key.
    pub fn connect(address: &str, rank: usize, key: &Key, options: &TcpOptions, deadline: Instant) -> Result<Self> {
        Ok(Self(End::Client(Client::connect(address, rank, key, options, deadline)?)))
    }

    /// The address that rank 0 listens on, or was reached under.
    pub fn address(&self) -> SocketAddr {
        match &self.0 {
            End::Host(host) => host.address(),
            End::Client(client) => client.address(),
        }
    }
}

impl Store for TcpStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        check(key, value)?;
        match &self.0 {
            End::Host(host) => host.values().set(key, value),
            End::Client(client) => client.set(key, value),
        }
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check(key, &[])?;
        match &self.0 {
            End::Host(host) => host.values().read(key),
            End::Client(client) => client.read(key),
        }
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        check(key, &[])?;
        let begin = Instant::now();
        match &self.0 {
            End::Host(host) => host.values().wait(key, deadline),
            End::Client(client) => client.wait(key, deadline)?.ok_or_else(|| timeout(key, begin)),
        }
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        check(key, value)?;
        match &self.0 {
            End::Host(host) => host.values().claim(key, value),
            End::Client(client) => client.claim(key, value),
        }
    }
}
