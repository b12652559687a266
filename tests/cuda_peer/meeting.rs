//! Ranks that do not fit together are told so before anything is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seqpar::comm::peer::{Message, Peers};
use seqpar::cuda::{Context, DeviceMemory};
use seqpar::error::{Error, FailureKind, Result};
use seqpar::plan::Direction;
use seqpar::rendezvous::{MemoryStore, Store};

use crate::exchange::DEADLINE;
use crate::mock::on_mock;
use crate::mock::workload::context;
use crate::support::stalls::unless_stalled;

/// Where all come, or are refused before the deadline.
fn join(store: &Arc<MemoryStore>, rank: usize, world: usize, context: &Context) -> Result<Peers> {
    Peers::join(store.clone(), "job", rank, world, context, DEADLINE)
}

fn kind(result: Result<impl std::fmt::Debug>) -> (FailureKind, Vec<usize>) {
    match result.unwrap_err() {
        Error::Between(failure) => (failure.kind, failure.culprits),
        error => panic!("{error}"),
    }
}

#[test]
fn ranks_that_do_not_come_are_named() {
    unless_stalled(|| {
        on_mock(|_| {
            let (store, context) = (Arc::new(MemoryStore::default()), context());
            store.set("peer/job/hello/1", b"seqpar-peer-1 4 1 1 1 0").unwrap();
            let begin = Instant::now();
            let joined = Peers::join(store, "job", 2, 4, &context, Duration::from_millis(300));
            assert_eq!(kind(joined), (FailureKind::RendezvousTimeout, vec![0, 3]));
            assert!(begin.elapsed() < Duration::from_millis(800), "{:?}", begin.elapsed());
        });
    });
}

#[test]
fn another_world_version_or_claim_is_refused() {
    on_mock(|_| {
        let context = context();
        for (said, want) in [
            ("seqpar-peer-1 3 1 1 1 0", FailureKind::WorldMismatch { seen: vec![2, 3] }),
            (
                "seqpar-peer-9 2",
                FailureKind::VersionSkew { mine: "seqpar-peer-1".into(), theirs: "seqpar-peer-9".into() },
            ),
        ] {
            let store = Arc::new(MemoryStore::default());
            store.set("peer/job/hello/1", said.as_bytes()).unwrap();
            assert_eq!(kind(join(&store, 0, 2, &context)), (want, vec![1]));
        }
        let store = Arc::new(MemoryStore::default());
        store.set("peer/job/hello/0", b"seqpar-peer-1 2 1 1 1 0").unwrap();
        assert_eq!(kind(join(&store, 0, 2, &context)), (FailureKind::DuplicateRank, vec![0]));
        assert!(join(&store, 2, 2, &context).unwrap_err().to_string().contains("world - 1"));
    });
}

#[test]
fn messages_that_do_not_match_are_a_mismatch_on_both_sides() {
    on_mock(|mock| {
        let sent = |bytes: &[usize]| bytes.iter().map(|&bytes| (Direction::Send, bytes)).collect::<Vec<_>>();
        let received = |bytes: &[usize]| bytes.iter().map(|&bytes| (Direction::Recv, bytes)).collect::<Vec<_>>();
        for (first, second, told) in [
            (sent(&[8, 16]), received(&[8, 24]), ["send 16 bytes as message 1", "receive 24 bytes as message 1"]),
            (sent(&[8, 16]), received(&[8]), ["send 16 bytes as message 1", "receive 1 messages"]),
            (sent(&[8]), sent(&[8]), ["send 8 bytes as message 0", "receive 0 messages"]),
        ] {
            mock.reset("late", 0);
            let store = Arc::new(MemoryStore::default());
            let errors = mock.ranks(2, |rank| {
                let context = context();
                let peers = join(&store, rank, 2, &context).unwrap();
                let memory = DeviceMemory::new(64).unwrap();
                let of = |&(direction, bytes): &(Direction, usize)| Message {
                    peer: 1 - rank,
                    direction,
                    address: memory.address(),
                    bytes,
                };
                let messages: Vec<Message> = [&first, &second][rank].iter().map(of).collect();
                peers.connect(&messages).unwrap_err().to_string()
            });
            assert!(told.iter().all(|part| errors[0].contains(part)), "{errors:?}");
            assert!(errors[0].contains("rank 1") && errors[1].contains("rank 0"), "{errors:?}");
            assert_eq!(mock.leaks(), Vec::<String>::new());
        }
    });
}

/// A store that does not answer what concerns a failure, while it hangs.
#[derive(Default)]
struct Hanging {
    inner: MemoryStore,
    hangs: AtomicBool,
}

impl Hanging {
    fn pass(&self, key: &str) {
        while key.ends_with("/failed") && self.hangs.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Store for Hanging {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.inner.set(key, value)
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.pass(key);
        self.inner.read(key)
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.inner.wait(key, deadline)
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        self.pass(key);
        self.inner.claim(key, value)
    }
}

#[test]
fn a_store_that_hangs_holds_no_abort_up() {
    on_mock(|_| {
        let (store, context) = (Arc::new(Hanging::default()), context());
        let peers = Peers::join(store.clone(), "job", 0, 1, &context, Duration::from_secs(1)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        store.hangs.store(true, Ordering::Release);
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| peers.health());
            std::thread::sleep(Duration::from_millis(50));
            let begin = Instant::now();
            peers.abort("the test");
            assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
            let first_cause = "rank 0: the test".to_string();
            assert_eq!(kind(peers.health()), (FailureKind::Poisoned { first_cause }, vec![]));
            store.hangs.store(false, Ordering::Release);
            let _ = asks.join().unwrap();
        });
    });
}
