//! A12: signals that interrupt every call, and a network that gives a byte at a time, change nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seqpar::rendezvous::{Store, TcpOptions, TcpStore};

use crate::guard::guarded;
use crate::places::places;
use crate::ranks::{How, Rank, run};
use crate::tcp::{key, pair, soon};

/// Signals that were handled.
static SEEN: AtomicU64 = AtomicU64::new(0);

extern "C" fn seen(_: libc::c_int) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

/// Runs `body` while each thread of this process is signalled every few hundred microseconds; calls
/// that a signal interrupts are not taken up again by the system.
fn in_a_storm(body: impl FnOnce()) {
    // SAFETY: zeros are an action without flags; the handler only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = seen as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: asks for numbers.
            let (process, own) = unsafe { (libc::getpid(), libc::gettid()) };
            while !over.load(Ordering::Acquire) {
                for entry in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
                    let thread: libc::pid_t = entry.file_name().to_str().unwrap().parse().unwrap();
                    if thread != own {
                        // SAFETY: a thread that has ended is an error, which is ignored.
                        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        body();
        over.store(true, Ordering::Release);
    });
}

#[test]
fn a12_interrupted_calls_are_taken_up_again() {
    guarded(|| {
        in_a_storm(|| {
            for place in places(How::Threads) {
                let ranks: Vec<_> = (0..4)
                    .map(|rank| Rank { then: "id".into(), deadline: Duration::from_secs(10), ..Rank::of(rank, 4) })
                    .collect();
                for outcome in run(How::Threads, &place, &ranks) {
                    assert_eq!(outcome.said, "has the id", "{}: {outcome:?}", place.name());
                }
            }
        });
        let seen = SEEN.load(Ordering::Relaxed);
        println!("note: A12: {seen} signals");
        assert!(seen > 100, "{seen}: no storm");
    });
}

/// Values that fill the buffers of a socket, so that reads and writes are cut short as well; and a
/// wait in which the host's thread and ours sleep.
#[test]
fn a12_interrupted_stores_keep_their_promises() {
    guarded(|| {
        in_a_storm(|| crate::stores::CHECKS.iter().for_each(|check| crate::stores::everywhere(*check)));
        assert!(SEEN.load(Ordering::Relaxed) > 100);
    });
}

/// A way to the address that carries one byte a packet.
fn narrow(address: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(&address).unwrap());
            let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
            for (mut from, mut to) in ways {
                to.set_nodelay(true).unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(from.read(&mut byte), Ok(1)) && to.write_all(&byte).is_ok() {}
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    here
}

#[test]
fn a12_a_byte_at_a_time_is_as_good_as_all_of_them() {
    guarded(|| {
        let (host, _client) = pair();
        let address = narrow(host.address().to_string());
        let client = TcpStore::connect(&address, 1, &key(), &TcpOptions::default(), soon()).unwrap();
        let value: Vec<u8> = (0..3000).map(|i| i as u8).collect();
        client.set("a", &value).unwrap();
        assert!(host.read("a").unwrap().unwrap() == value);
        assert!(client.claim("a", b"other").unwrap() == value);
        assert_eq!(client.wait("a", Instant::now() + Duration::from_secs(2)).unwrap(), value);
        #[cfg(feature = "torchrun")]
        {
            let store = seqpar::rendezvous::TorchStore::connect(&narrow(crate::torch::server()), soon()).unwrap();
            store.set("a", &value).unwrap();
            assert!(store.claim("a", b"other").unwrap() == value);
        }
    });
}
