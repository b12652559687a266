//! The watchdog when its store hangs, fails or holds what nobody can read, and when a rank is cut off
//! from it (A11).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seqpar::comm::watchdog::Options;
use seqpar::error::{Error, Failure, FailureKind, Result};
use seqpar::rendezvous::Store;

use super::dogs::{begin, failure, learn, memory, ms, options, start, torn};
use super::stalls::unless_stalled;

/// A store of which one rank's end can be cut.
struct Cut {
    inner: Arc<dyn Store>,
    how: Mutex<How>,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Whole,
    /// Calls fail.
    Fails,
    /// Calls do not return.
    Hangs,
    /// What this rank says is lost; what others say arrives.
    Mute,
    /// What others say is lost; what this rank says arrives.
    Deaf,
}

impl Cut {
    fn new(inner: &Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), how: Mutex::new(How::Whole) })
    }

    fn be(&self, how: How) {
        *self.how.lock().unwrap() = how;
    }

    /// True if the call is to go on.
    fn pass(&self, writes: bool) -> Result<bool> {
        loop {
            let how = *self.how.lock().unwrap();
            return match how {
                How::Whole => Ok(true),
                How::Fails => Err(Error::Data("connection refused".into())),
                How::Mute => Ok(!writes),
                How::Deaf => Ok(writes),
                How::Hangs => {
                    std::thread::sleep(ms(5));
                    continue;
                }
            };
        }
    }
}

impl Store for Cut {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        if self.pass(true)? { self.inner.set(key, value) } else { Ok(()) }
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        if self.pass(false)? { self.inner.read(key) } else { Ok(None) }
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.inner.wait(key, deadline)
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        if self.pass(true)? { self.inner.claim(key, value) } else { Ok(value.to_vec()) }
    }
}

#[test]
fn a_rank_that_has_started_has_given_a_sign_of_life() {
    unless_stalled(|| {
        // Whoever ends at once is noticed only if it was seen to live before.
        for _ in 0..20 {
            let store = memory();
            let (dog, _) = start(&store, 0, 2, options());
            assert!(store.read("watch/beat/0").unwrap().is_some());
            dog.goodbye();
        }
        // A store that hangs does not hold the start.
        let cut = Cut::new(&memory());
        cut.be(How::Hangs);
        let store: Arc<dyn Store> = cut.clone();
        let begin = Instant::now();
        let (dog, _) = start(&store, 0, 2, options());
        assert!(begin.elapsed() < ms(800), "{:?}", begin.elapsed());
        cut.be(How::Whole);
        drop(dog);
    });
}

#[test]
fn a_store_that_hangs_keeps_no_deadline_from_passing() {
    unless_stalled(|| {
        let cut = Cut::new(&memory());
        let store: Arc<dyn Store> = cut.clone();
        let (dog, watch) = start(&store, 0, 2, Options { deadline: ms(300), ..options() });
        begin(&watch, 0, None);
        cut.be(How::Hangs);
        let (failure, after) = learn(&watch, ms(1500));
        assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}");
        assert!(after < ms(800), "{after:?}");
        let begin = Instant::now();
        drop(dog);
        assert!(begin.elapsed() < ms(700), "{:?}", begin.elapsed());
        cut.be(How::Whole);
    });
}

#[test]
fn a_store_that_is_gone_is_an_error_after_the_time_for_lost_ranks() {
    unless_stalled(|| {
        let cut = Cut::new(&memory());
        let store: Arc<dyn Store> = cut.clone();
        let (_dog, watch) = start(&store, 0, 2, Options { lost_after: ms(400), ..options() });
        cut.be(How::Fails);
        let (failure, after) = learn(&watch, ms(1500));
        let text = failure.to_string();
        assert!(text.contains("the store cannot be reached: connection refused"), "{text}");
        assert!(after > ms(390) && after < ms(900), "{after:?}");
    });
}

/// A11 for the ranks' link to the store: three ranks, that of rank 2 is cut.
fn cut_off(how: How, heals: bool) -> Vec<Option<(Failure, Duration)>> {
    let store = memory();
    let cut = Cut::new(&store);
    let own: Arc<dyn Store> = cut.clone();
    let lost_after = ms(600);
    let options = Options { lost_after, deadline: ms(1200), ..options() };
    let ranks: Vec<_> =
        (0..3).map(|rank| start(if rank == 2 { &own } else { &store }, rank, 3, options.clone())).collect();
    std::thread::sleep(ms(150));
    cut.be(how);
    let begin = Instant::now();
    let mut told = vec![None; 3];
    while begin.elapsed() < ms(1300) && told.iter().any(Option::is_none) {
        if heals && begin.elapsed() > lost_after / 2 {
            cut.be(How::Whole);
        }
        for ((_, watch), told) in ranks.iter().zip(&mut told).filter(|(_, told)| told.is_none()) {
            *told = watch.check().err().map(|error| (failure(error), begin.elapsed()));
        }
        std::thread::sleep(ms(2));
    }
    cut.be(How::Whole);
    ranks.into_iter().for_each(|(dog, _)| dog.goodbye());
    told
}

#[test]
fn a_rank_that_is_cut_off_is_lost_to_the_others_and_they_to_it() {
    unless_stalled(|| {
        for how in [How::Fails, How::Mute, How::Hangs] {
            let told = cut_off(how, false);
            for (rank, told) in told.iter().enumerate().take(2) {
                let (failure, after) = told.as_ref().unwrap();
                assert!(matches!(failure.kind, FailureKind::PeerLost { .. }), "rank {rank}: {failure}");
                assert_eq!(failure.culprits, [2], "rank {rank}: {failure}");
                assert!(*after < ms(1100), "rank {rank}: {after:?}");
            }
        }
        // It hears nobody: they are lost to it, and it can still say so.
        let told = cut_off(How::Deaf, false);
        for told in told {
            let (failure, after) = told.unwrap();
            assert!(
                failure.rank == 2
                    || failure.to_string().contains("says rank 2")
                    || matches!(failure.kind, FailureKind::Aborted { .. }),
                "{failure}"
            );
            assert!(after < ms(1100), "{after:?}");
        }
    });
}

#[test]
fn a_link_that_heals_in_time_harms_nobody() {
    unless_stalled(|| {
        for how in [How::Fails, How::Mute, How::Deaf, How::Hangs] {
            let told = cut_off(how, true);
            assert!(told.iter().all(Option::is_none), "{told:?}");
        }
    });
}

/// What is known of the others is as old as the store's last answer, and says nothing of this op.
#[test]
fn a_store_that_hangs_blames_nobody() {
    unless_stalled(|| {
        let inner = memory();
        let cut = Cut::new(&inner);
        let store: Arc<dyn Store> = cut.clone();
        let options = Options { deadline: ms(800), ..options() };
        let (other, _) = start(&inner, 1, 2, options.clone());
        let (dog, watch) = start(&store, 0, 2, options);
        std::thread::sleep(ms(200));
        cut.be(How::Hangs);
        std::thread::sleep(ms(100));
        begin(&watch, 0, None);
        let (failure, _) = learn(&watch, ms(2000));
        assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}");
        assert!(failure.culprits.is_empty() && failure.to_string().contains("the store does not answer"), "{failure}");
        cut.be(How::Whole);
        drop(dog);
        other.goodbye();
    });
}

/// Of a large world each round looks at some ranks only; those looked at a while ago are not silent.
#[test]
fn of_many_ranks_only_the_silent_one_is_blamed() {
    unless_stalled(|| {
        const WORLD: usize = 1000;
        const SILENT: usize = 170;
        let store = memory();
        let beat = |rank: usize, count: u64| store.set(&format!("watch/beat/{rank}"), &count.to_le_bytes()).unwrap();
        (1..WORLD).for_each(|rank| beat(rank, 1));
        // A look at all of them takes 16 periods, which is longer than silence may last.
        let options = Options { deadline: ms(2500), silence: ms(500), ..options() };
        let (_dog, watch) = start(&store, 0, WORLD, options);
        begin(&watch, 0, None);
        let from = Instant::now();
        let failure = loop {
            let count = 2 + from.elapsed().as_millis() as u64 / 10;
            (1..WORLD).filter(|&rank| rank != SILENT).for_each(|rank| beat(rank, count));
            if let Err(Error::Between(failure)) = watch.check() {
                break failure;
            }
            assert!(from.elapsed() < ms(6000));
            std::thread::sleep(ms(10));
        };
        assert_eq!(failure.culprits, [SILENT], "{failure}");
        assert!(failure.to_string().contains("rank 170 gives no sign of life"), "{failure}");
    });
}

/// Counts what is claimed.
struct Counting(Arc<dyn Store>, AtomicUsize);

impl Store for Counting {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.0.set(key, value)
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.0.read(key)
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.0.wait(key, deadline)
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.claim(key, value)
    }
}

#[test]
fn garbage_in_place_of_the_failure_keeps_nobody_busy() {
    unless_stalled(|| {
        let inner = memory();
        inner.set("watch/failure", b"garbage").unwrap();
        let store = Arc::new(Counting(inner, AtomicUsize::new(0)));
        let (dog, watch) = start(&(store.clone() as Arc<dyn Store>), 0, 1, options());
        watch.check().unwrap();
        dog.fail(torn());
        let (failure, after) = learn(&watch, ms(1500));
        assert_eq!(failure.kind, torn().kind);
        assert!(after > ms(100), "{after:?}: the store was not waited for");
        std::thread::sleep(ms(500));
        let claims = store.1.load(Ordering::Relaxed);
        assert!((2..40).contains(&claims), "{claims} claims");
    });
}
