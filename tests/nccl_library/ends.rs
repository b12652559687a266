//! Finalize, abort and drop: once, from anywhere, in time, and with nobody inside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config};
use seqpar::error::FailureKind;

use crate::fake::*;
use crate::groups::{send_something, stream};
use crate::stalls::unless_stalled;

#[test]
fn finalize_destroys_and_aborts_nothing() {
    let fake = Fake::new();
    let mut communicator = fake.communicator();
    let handle = communicator.abort_handle();
    send_something(&mut communicator, &stream(1)).unwrap();
    fake.set("polls", 100);
    communicator.finalize(SECOND).unwrap();
    assert_eq!((fake.count("ncclCommFinalize"), fake.count("ncclCommDestroy")), (1, 1));
    // Too late, and no failure.
    handle.abort("late").unwrap();
    handle.async_error().unwrap();
    assert!(handle.has_ended());
    assert_eq!(fake.count("ncclCommAbort"), 0);
    fake.assert_lawful();
}

/// Who looks at the handle for a moment makes nobody believe that it lives.
#[test]
fn an_end_stays_an_end_while_others_look() {
    let fake = Fake::new();
    let communicator = fake.communicator();
    let handle = communicator.abort_handle();
    communicator.finalize(SECOND).unwrap();
    let over = AtomicBool::new(false);
    let stays = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    handle.abort("late").unwrap()
                }
            });
        }
        let begin = Instant::now();
        let mut stays = true;
        while stays && begin.elapsed() < SECOND {
            stays = handle.has_ended();
        }
        over.store(true, Ordering::Release);
        stays
    });
    assert!(stays);
    handle.async_error().unwrap();
}

#[test]
fn a_finalize_that_never_settles_is_a_timeout_and_aborts() {
    unless_stalled(|| {
        let fake = Fake::new();
        let communicator = fake.communicator();
        fake.set("polls", -1);
        let begin = Instant::now();
        let failed = failure(communicator.finalize(Duration::from_millis(100)));
        assert!(matches!(failed.kind, FailureKind::Timeout { .. }), "{failed}");
        assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
        assert_eq!((fake.count("ncclCommAbort"), fake.count("ncclCommDestroy")), (1, 0));
        fake.assert_lawful();
    });
}

#[test]
fn an_end_that_does_not_return_is_unrecoverable() {
    unless_stalled(|| {
        for function in ["ncclCommFinalize", "ncclCommDestroy"] {
            let fake = Fake::new();
            let communicator = fake.communicator();
            let handle = communicator.abort_handle();
            fake.hang(function);
            let begin = Instant::now();
            let failed = kind(communicator.finalize(Duration::from_millis(100)));
            assert!(matches!(failed, FailureKind::Unrecoverable { .. }), "{failed}");
            assert!(begin.elapsed() < 2 * SECOND, "{:?}", begin.elapsed());
            assert!(handle.unrecoverable().is_some());
            fake.set("released", 1);
        }
    });
}

#[test]
fn dropping_aborts_behind_the_back() {
    unless_stalled(|| {
        let fake = Fake::new();
        let mut communicator = fake.communicator();
        fake.set("polls", -1);
        assert!(send_something(&mut communicator, &stream(1)).is_err());
        let begin = Instant::now();
        drop(communicator);
        assert!(begin.elapsed() < Duration::from_millis(250), "{:?}", begin.elapsed());
        fake.wait_for("ncclCommAbort", 1);
        fake.assert_lawful();
    });
}

#[test]
fn an_op_in_flight_is_cut_off_by_a_drop_elsewhere_and_by_a_panic() {
    let fake = Fake::new();
    for (round, panics) in [(1, false), (2, true)] {
        let mut communicator = fake.communicator();
        let handle = communicator.abort_handle();
        send_something(&mut communicator, &stream(1)).unwrap();
        let elsewhere = thread::spawn(move || {
            let _dropped = communicator;
            assert!(!panics, "a panic that a test wants");
        });
        assert_eq!(elsewhere.join().is_err(), panics);
        fake.wait_for("ncclCommAbort", round);
        assert!(handle.has_ended());
        handle.abort("again").unwrap();
    }
    assert_eq!(fake.count("ncclCommAbort"), 2);
    fake.assert_lawful();
}

#[test]
fn a_drop_whose_abort_never_returns_is_unrecoverable_after_the_reapers_deadline() {
    unless_stalled(|| {
        assert_eq!(Config::default().reaper_deadline, Duration::from_secs(10));
        let fake = Fake::new();
        let mut communicator = fake.communicator();
        let mut part = communicator.split(Some(0), 0, &config(), SECOND).unwrap().unwrap();
        let handle = communicator.abort_handle();
        fake.hang("ncclCommAbort");
        let begin = Instant::now();
        drop(communicator);
        assert!(begin.elapsed() < Duration::from_millis(250), "{:?}", begin.elapsed());
        assert_eq!(handle.unrecoverable(), None);
        while handle.unrecoverable().is_none() {
            assert!(begin.elapsed() < 2 * SECOND, "never marked");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
        let failed = kind(send_something(&mut part, &stream(1)));
        assert!(matches!(&failed, FailureKind::Poisoned { first_cause } if first_cause.contains("ncclCommAbort")));
        fake.set("released", 1);
    });
}

#[test]
fn an_abort_that_never_returns_is_unrecoverable() {
    unless_stalled(|| {
        let fake = Fake::new();
        let communicator = fake.communicator();
        fake.hang("ncclCommAbort");
        let begin = Instant::now();
        let failed = kind(communicator.abort_handle().abort("a test"));
        assert!(matches!(failed, FailureKind::Unrecoverable { .. }), "{failed}");
        assert!((300..1300).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
        // What NCCL used is still in use: nobody is told of an end, and nobody waits for it again.
        let begin = Instant::now();
        let again = kind(communicator.abort_handle().abort("a test"));
        assert!(matches!(again, FailureKind::Unrecoverable { .. }), "{again}");
        assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());
        fake.set("released", 1);
    });
}

#[test]
fn an_abort_from_another_thread_frees_the_owner_and_happens_once() {
    unless_stalled(|| {
        let fake = Fake::new();
        let mut communicator = patient(&fake, config().reaper_deadline);
        let handle = communicator.abort_handle();
        fake.set("polls", -1);
        let aborter = thread::spawn({
            let handle = handle.clone();
            move || {
                thread::sleep(Duration::from_millis(100));
                handle.abort("the watchdog: rank 3 is lost")
            }
        });
        let begin = Instant::now();
        let failed = failure(send_something(&mut communicator, &stream(1)));
        assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
        assert!(matches!(&failed.kind, FailureKind::Aborted { by } if by.contains("watchdog")), "{failed}");
        assert_eq!((failed.seq, failed.op.as_str()), (Some(0), "something"));
        aborter.join().unwrap().unwrap();
        handle.abort("again").unwrap();
        communicator.abort_handle().abort("and again").unwrap();
        let FailureKind::Poisoned { first_cause } = kind(communicator.async_error()) else { panic!() };
        assert!(first_cause.contains("watchdog"), "{first_cause}");
        drop(communicator);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(fake.count("ncclCommAbort"), 1);
        fake.assert_lawful();
    });
}

#[test]
fn a_finalize_that_an_abort_overtakes_returns_after_its_end() {
    for first in ["ncclCommAbort", "ncclCommFinalize"] {
        let fake = Fake::new();
        let communicator = patient(&fake, 30 * SECOND);
        let handle = communicator.abort_handle();
        fake.set("polls", -1);
        fake.hang("ncclCommAbort");
        let (done, ended) = channel();
        let abort = || handle.abort("a test").unwrap();
        let finalize = move || done.send(kind(communicator.finalize(20 * SECOND))).unwrap();
        thread::scope(|scope| {
            if first == "ncclCommAbort" {
                scope.spawn(abort);
                fake.wait_for(first, 1);
                scope.spawn(finalize);
            } else {
                scope.spawn(finalize);
                fake.wait_for(first, 1);
                scope.spawn(abort);
                fake.wait_for("ncclCommAbort", 1);
            }
            let early = ended.recv_timeout(Duration::from_millis(100));
            fake.set("released", 1);
            assert_eq!(early.ok(), None, "told of an end that has not come");
            let kind = ended.recv_timeout(20 * SECOND).unwrap();
            assert!(matches!(kind, FailureKind::Aborted { .. } | FailureKind::Poisoned { .. }), "{kind}");
        });
        assert_eq!((fake.count("ncclCommAbort"), fake.count("ncclCommDestroy")), (1, 0));
        fake.assert_lawful();
    }
}

/// A communicator whose ops may take long, and its end.
fn patient(fake: &Fake, reaper_deadline: Duration) -> Communicator {
    let id = fake.library.unique_id().unwrap();
    let config = Config { op_deadline: 30 * SECOND, reaper_deadline, ..config() };
    Communicator::new(&fake.library, &id, 1, 4, &config, SECOND).unwrap()
}

#[test]
fn no_abort_while_a_thread_is_inside() {
    unless_stalled(|| {
        let fake = Fake::new();
        let mut communicator = patient(&fake, config().reaper_deadline);
        let handle = communicator.abort_handle();
        fake.hang("ncclGroupEnd");
        let owner = thread::spawn(move || kind(send_something(&mut communicator, &stream(1))));
        fake.wait_for("ncclGroupEnd", 1);
        // A look does not wait for it.
        handle.async_error().unwrap();
        let begin = Instant::now();
        let failed = kind(handle.abort("a test"));
        assert!(matches!(&failed, FailureKind::Unrecoverable { what } if what.contains("a call of NCCL")), "{failed}");
        assert!((300..1300).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
        assert_eq!(fake.count("ncclCommAbort"), 0);
        fake.set("released", 1);
        let owners = owner.join().unwrap();
        assert!(matches!(owners, FailureKind::Aborted { .. }), "{owners}");
        // It is out now, and its drop aborts.
        fake.wait_for("ncclCommAbort", 1);
        fake.assert_lawful();
    });
}

/// The owner goes in and out as fast as it can; aborts come at any time.
#[test]
fn aborts_at_any_time_meet_nobody_inside() {
    let fake = Fake::new();
    for round in 0..200 {
        let mut communicator = patient(&fake, 30 * SECOND);
        let handle = communicator.abort_handle();
        fake.set("polls", round % 5);
        let owner = thread::spawn(move || {
            loop {
                if let Err(error) = send_something(&mut communicator, &stream(1)) {
                    return kind(Err::<(), _>(error));
                }
            }
        });
        let watcher = thread::spawn({
            let handle = handle.clone();
            move || while handle.async_error().is_ok() && !handle.has_ended() {}
        });
        thread::sleep(Duration::from_micros(37 * (round as u64 % 40)));
        handle.abort("a test").unwrap();
        let kind = owner.join().unwrap();
        assert!(matches!(kind, FailureKind::Aborted { .. } | FailureKind::Poisoned { .. }), "{kind}");
        watcher.join().unwrap();
        fake.set("polls", 0);
    }
    fake.wait_for("ncclCommAbort", 200);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(fake.count("ncclCommAbort"), 200);
    fake.assert_lawful();
}

#[test]
fn dropping_one_that_shares_resources_ends_the_family() {
    let fake = Fake::new();
    let id = fake.library.unique_id().unwrap();
    for (shares, survives) in [(false, true), (true, false)] {
        let config = Config { split_share: Some(shares), ..config() };
        let mut communicator = Communicator::new(&fake.library, &id, 1, 4, &config, SECOND).unwrap();
        drop(communicator.split(Some(0), 0, &crate::fake::config(), SECOND).unwrap());
        assert_eq!(communicator.async_error().is_ok(), survives, "split_share {shares}");
        // In good order it is no failure.
        let mut communicator = Communicator::new(&fake.library, &id, 1, 4, &config, SECOND).unwrap();
        communicator.split(Some(0), 0, &crate::fake::config(), SECOND).unwrap().unwrap().finalize(SECOND).unwrap();
        communicator.async_error().unwrap();
    }
}
