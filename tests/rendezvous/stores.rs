//! What every store promises.

use std::sync::Arc;
use std::time::{Duration, Instant};

use seqpar::error::{Error, FailureKind};
use seqpar::rendezvous::{FileStore, KEY_BYTES_MAX, MemoryStore, Store, VALUE_BYTES_MAX};

use crate::stalls::unless_stalled;

/// Two ends of one store.
type Ends = (&'static str, Arc<dyn Store>, Arc<dyn Store>);

fn ends() -> Vec<Ends> {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let folder = crate::file::folder();
    let file = || Arc::new(FileStore::open(&folder, "contract").unwrap()) as Arc<dyn Store>;
    #[cfg_attr(not(feature = "nccl"), allow(unused_mut))]
    let mut all = vec![("memory", memory.clone(), memory), ("file", file(), file())];
    #[cfg(feature = "nccl")]
    {
        let (host, client) = crate::tcp::pair();
        all.push(("tcp", Arc::new(host), Arc::new(client)));
    }
    #[cfg(feature = "torchrun")]
    {
        let (one, other) = crate::torch::pair();
        all.push(("torch", Arc::new(one), Arc::new(other)));
    }
    all
}

/// What a store must do at its two ends.
pub type Check = fn(&str, Arc<dyn Store>, Arc<dyn Store>);

pub fn everywhere(check: Check) {
    ends().into_iter().for_each(|(name, one, other)| check(name, one, other));
}

/// All of them.
#[cfg(feature = "nccl")]
pub const CHECKS: [Check; 5] = [
    values_are_seen_at_the_other_end_in,
    keys_do_not_run_into_each_other_in,
    of_many_claims_one_wins_in,
    a_wait_ends_with_the_value_or_at_its_deadline_in,
    long_keys_and_values_are_refused_alike_in,
];

fn kind(error: Error) -> FailureKind {
    let Error::Between(failure) = error else { panic!("{error:?}") };
    failure.kind
}

#[test]
fn values_are_seen_at_the_other_end() {
    everywhere(values_are_seen_at_the_other_end_in);
}

fn values_are_seen_at_the_other_end_in(name: &str, one: Arc<dyn Store>, other: Arc<dyn Store>) {
    assert_eq!(other.read("a").unwrap(), None, "{name}");
    one.set("a", b"1").unwrap();
    assert_eq!(other.read("a").unwrap().unwrap(), b"1", "{name}");
    other.set("a", b"").unwrap();
    assert_eq!(one.read("a").unwrap().unwrap(), b"", "{name}");
    let large: Vec<u8> = (0..VALUE_BYTES_MAX).map(|i| i as u8).collect();
    one.set("a", &large).unwrap();
    assert!(other.read("a").unwrap().unwrap() == large, "{name}");
}

#[test]
fn keys_do_not_run_into_each_other() {
    everywhere(keys_do_not_run_into_each_other_in);
}

fn keys_do_not_run_into_each_other_in(name: &str, one: Arc<dyn Store>, other: Arc<dyn Store>) {
    let keys = ["a", "A", "a/b", "a%2fb", "a.b", ".a", "..", "a-b", "a_b", "/", "a/", "~"];
    for (i, key) in keys.iter().enumerate() {
        one.set(key, &[i as u8]).unwrap();
    }
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(other.read(key).unwrap().unwrap(), [i as u8], "{name}: {key}");
    }
}

#[test]
fn of_many_claims_one_wins() {
    everywhere(of_many_claims_one_wins_in);
}

fn of_many_claims_one_wins_in(name: &str, one: Arc<dyn Store>, other: Arc<dyn Store>) {
    for round in 0..5 {
        let key = format!("claim/{round}");
        let claims: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let claim = |i: u8| {
                let (store, key) = (if i < 4 { &one } else { &other }, &key);
                scope.spawn(move || store.claim(key, &[i; 100]).unwrap())
            };
            (0..8).map(claim).collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(claims.iter().all(|there| *there == claims[0] && there.len() == 100), "{name}: {claims:?}");
        assert_eq!(one.read(&key).unwrap().unwrap(), claims[0], "{name}");
    }
}

#[test]
fn a_wait_ends_with_the_value_or_at_its_deadline() {
    unless_stalled(|| {
        everywhere(a_wait_ends_with_the_value_or_at_its_deadline_in);
    });
}

fn a_wait_ends_with_the_value_or_at_its_deadline_in(name: &str, one: Arc<dyn Store>, other: Arc<dyn Store>) {
    let begin = Instant::now();
    let error = other.wait("w", begin + Duration::from_millis(300)).unwrap_err();
    let took = begin.elapsed();
    assert!(matches!(kind(error), FailureKind::Timeout { .. }), "{name}");
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(800), "{name}: {took:?}");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| other.wait("w", Instant::now() + Duration::from_secs(5)));
        // One that waits keeps nobody else from the store.
        std::thread::sleep(Duration::from_millis(100));
        other.set("elsewhere", b"x").unwrap();
        one.set("w", b"now").unwrap();
        let set = Instant::now();
        assert_eq!(waits.join().unwrap().unwrap(), b"now", "{name}");
        assert!(set.elapsed() < Duration::from_secs(1), "{name}");
    });
}

#[test]
fn long_keys_and_values_are_refused_alike() {
    everywhere(long_keys_and_values_are_refused_alike_in);
}

fn long_keys_and_values_are_refused_alike_in(name: &str, one: Arc<dyn Store>, _: Arc<dyn Store>) {
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    for key in ["", "a b", "a\nb", "ä", long.as_str()] {
        for error in [
            one.set(key, b"v").unwrap_err(),
            one.read(key).unwrap_err(),
            one.claim(key, b"v").unwrap_err(),
            one.wait(key, Instant::now()).unwrap_err(),
        ] {
            assert!(matches!(kind(error), FailureKind::Store { .. }), "{name}: {key:?}");
        }
    }
    let large = vec![0; VALUE_BYTES_MAX + 1];
    assert!(matches!(kind(one.set("v", &large).unwrap_err()), FailureKind::Store { .. }), "{name}");
    assert!(matches!(kind(one.claim("v", &large).unwrap_err()), FailureKind::Store { .. }), "{name}");
    assert_eq!(one.read("v").unwrap(), None, "{name}");
    one.set(&"k".repeat(KEY_BYTES_MAX), b"v").unwrap();
}
