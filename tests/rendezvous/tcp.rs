//! The store that rank 0 serves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

use seqpar::error::{Error, FailureKind};
use seqpar::rendezvous::{Interface, Key, Store, TcpOptions, TcpStore};

use crate::guard::guarded;
use crate::places::free_address;
use crate::ranks::{KEY, OTHER_KEY};
use crate::stalls::unless_stalled;

pub fn key() -> Key {
    Key::from_bytes(KEY.as_bytes()).unwrap()
}

/// A deadline of what succeeds, or is refused before it.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Rank 0's end and rank 1's.
pub fn pair() -> (TcpStore, TcpStore) {
    let host = TcpStore::serve(&key(), &TcpOptions::default()).unwrap();
    let client = TcpStore::connect(&host.address().to_string(), 1, &key(), &TcpOptions::default(), soon()).unwrap();
    (host, client)
}

fn kind(error: Error) -> (FailureKind, usize, Vec<usize>) {
    let Error::Between(failure) = error else { panic!("{error:?}") };
    (failure.kind, failure.rank, failure.culprits)
}

#[test]
fn it_listens_on_the_loopback_unless_told_otherwise() {
    let serve = |interface| TcpStore::serve(&key(), &TcpOptions { interface, ..TcpOptions::default() });
    assert!(serve(Interface::default()).unwrap().address().ip().is_loopback());
    assert!(serve(Interface::Address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)))).unwrap().address().ip().is_loopback());
    for every in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        let error = serve(Interface::Address(every)).unwrap_err().to_string();
        assert!(error.contains("every interface: name one"), "{error}");
    }
    let every = serve(Interface::Every).unwrap();
    assert!(every.address().ip().is_unspecified());
    let address = format!("127.0.0.1:{}", every.address().port());
    TcpStore::connect(&address, 1, &key(), &TcpOptions::default(), soon()).unwrap();
}

#[test]
fn an_address_of_any_kind_reaches_the_host() {
    unless_stalled(|| {
        let serve = |address| TcpStore::serve(&key(), &TcpOptions { interface: address, ..TcpOptions::default() });
        let reach = |address: &str| TcpStore::connect(address, 1, &key(), &TcpOptions::default(), soon());
        let host = serve(Interface::Loopback).unwrap();
        // The name may stand for ::1 as well, where nobody listens.
        reach(&format!("localhost:{}", host.address().port())).unwrap();
        match serve(Interface::Address(IpAddr::V6(Ipv6Addr::LOCALHOST))) {
            Ok(host) => {
                let port = host.address().port();
                for address in [format!("[::1]:{port}"), format!("::1:{port}")] {
                    reach(&address).unwrap().set("a", b"b").unwrap();
                }
            }
            Err(why) => println!("note: this machine has no IPv6: {why}"),
        }
        for none in ["", "host", "host:", ":1", "host:port", "host:70000"] {
            let begin = Instant::now();
            let error = reach(none).unwrap_err().to_string();
            assert!(error.contains("is not host:port"), "{none}: {error}");
            assert!(begin.elapsed() < Duration::from_secs(1), "{none}: it was waited for");
        }
    });
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let (host, _) = pair();
    let options = TcpOptions { port: host.address().port(), ..TcpOptions::default() };
    assert!(TcpStore::serve(&key(), &options).unwrap_err().to_string().contains("cannot listen"));
}

#[test]
fn another_key_is_refused_at_once() {
    unless_stalled(|| {
        let (host, _) = pair();
        let other = Key::from_bytes(OTHER_KEY.as_bytes()).unwrap();
        let begin = Instant::now();
        let error =
            TcpStore::connect(&host.address().to_string(), 3, &other, &TcpOptions::default(), soon()).unwrap_err();
        assert_eq!(kind(error), (FailureKind::AuthRejected, 3, vec![0]));
        assert!(begin.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn a_host_that_comes_late_is_waited_for_and_one_that_never_comes_is_named() {
    unless_stalled(|| {
        let address = free_address();
        std::thread::scope(|scope| {
            let late = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
                TcpStore::serve(&key(), &TcpOptions { port, ..TcpOptions::default() }).unwrap()
            });
            let client = TcpStore::connect(&address, 1, &key(), &TcpOptions::default(), soon()).unwrap();
            client.set("a", b"").unwrap();
            drop(late.join().unwrap());
        });
        for nobody in [free_address(), "no-such-host.invalid:1".into()] {
            let begin = Instant::now();
            let deadline = begin + Duration::from_millis(300);
            let error = TcpStore::connect(&nobody, 2, &key(), &TcpOptions::default(), deadline).unwrap_err();
            assert_eq!(kind(error), (FailureKind::RendezvousTimeout, 2, vec![0]));
            assert!(begin.elapsed() < Duration::from_millis(800), "{:?}", begin.elapsed());
        }
    });
}

#[test]
fn connections_have_a_limit_and_are_given_back() {
    unless_stalled(|| {
        let options = TcpOptions { peers_max: 2, ..TcpOptions::default() };
        let host = TcpStore::serve(&key(), &options).unwrap();
        let connect = || TcpStore::connect(&host.address().to_string(), 1, &key(), &options, soon());
        let (first, _second) = (connect().unwrap(), connect().unwrap());
        let error = connect().unwrap_err().to_string();
        assert!(error.contains("raise peers_max"), "{error}");
        drop(first);
        let until = Instant::now() + Duration::from_secs(2);
        while connect().is_err() {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

/// 8 may wait at the door at once; 100 that say nothing would keep it for 12 seconds.
#[test]
fn strangers_make_room_for_each_other() {
    unless_stalled(|| {
        let host = TcpStore::serve(&key(), &TcpOptions { strangers_max: 8, ..TcpOptions::default() }).unwrap();
        let begin = Instant::now();
        let strangers: Vec<_> = (0..100).map(|_| TcpStream::connect(host.address()).unwrap()).collect();
        let deadline = begin + Duration::from_secs(10);
        TcpStore::connect(&host.address().to_string(), 1, &key(), &TcpOptions::default(), deadline).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        drop(strangers);
    });
}

#[test]
fn what_the_host_leaves_behind_is_nothing() {
    guarded(|| {
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = (descriptors(), threads());
        for _ in 0..20 {
            let (host, client) = pair();
            let _stranger = TcpStream::connect(host.address()).unwrap();
            client.set("a", b"b").unwrap();
            let begin = Instant::now();
            drop(host);
            assert!(begin.elapsed() < Duration::from_millis(500));
            let (kind, rank, culprits) = kind(client.set("a", b"c").unwrap_err());
            assert!(matches!(kind, FailureKind::PeerLost { .. }), "{kind:?}");
            assert_eq!((rank, culprits), (1, vec![0]));
        }
        let until = Instant::now() + Duration::from_secs(2);
        while (descriptors(), threads()) != before {
            assert!(Instant::now() < until, "{before:?} became {:?}", (descriptors(), threads()));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn a_wait_ends_when_the_host_goes() {
    unless_stalled(|| {
        let (host, client) = pair();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| client.wait("never", Instant::now() + Duration::from_secs(20)));
            std::thread::sleep(Duration::from_millis(100));
            let begin = Instant::now();
            drop(host);
            let (kind, _, culprits) = kind(waits.join().unwrap().unwrap_err());
            assert!(matches!(kind, FailureKind::PeerLost { .. }) && culprits == [0], "{kind:?}");
            assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        });
    });
}
