//! What is in progress, for long and for ever.

use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config};
use seqpar::error::FailureKind;

use crate::fake::*;
use crate::groups::{send_something, stream};
use crate::stalls::unless_stalled;

#[test]
fn ten_thousand_times_in_progress_is_no_failure() {
    unless_stalled(|| {
        let fake = Fake::new();
        let patient = Config { op_deadline: 20 * SECOND, ..config() };
        let round = || {
            fake.set("polls", 10_000);
            let (asked, begin) = (fake.count("ncclCommGetAsyncError"), Instant::now());
            let id = fake.library.unique_id().unwrap();
            let mut communicator = Communicator::new(&fake.library, &id, 1, 4, &patient, 20 * SECOND).unwrap();
            let took = begin.elapsed();
            assert!(fake.count("ncclCommGetAsyncError") - asked > 10_000);
            fake.set("polls", 1000);
            send_something(&mut communicator, &stream(1)).unwrap();
            assert_eq!(communicator.split(None, 0, &config(), 20 * SECOND).map(|part| part.is_none()), Ok(true));
            communicator.finalize(20 * SECOND).unwrap();
            took
        };
        // A millisecond each would be ten seconds. Other work on the machine may slow one.
        let fastest = (0..3).map(|_| round()).min().unwrap();
        assert!(fastest < 5 * SECOND, "{fastest:?}");
        fake.assert_lawful();
    });
}

#[test]
fn an_init_that_never_settles_is_a_timeout_and_is_aborted() {
    unless_stalled(|| {
        let fake = Fake::new();
        fake.set("polls", -1);
        let begin = Instant::now();
        let failed = failure(fake.try_communicator(Duration::from_millis(200)));
        assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
        let FailureKind::Timeout { stage } = failed.kind else { panic!("{failed}") };
        assert!(stage.contains("4 ranks"), "{stage}");
        assert_eq!((failed.rank, failed.comm.as_str(), failed.seq, failed.op.as_str()), (1, "test", None, "init"));
        assert!((200..1000).contains(&failed.elapsed_ms), "{}", failed.elapsed_ms);
        fake.wait_for("ncclCommAbort", 1);
        fake.assert_lawful();
    });
}

#[test]
fn an_op_that_never_settles_is_a_timeout_that_names_it() {
    unless_stalled(|| {
        let fake = Fake::new();
        let mut communicator = fake.communicator();
        send_something(&mut communicator, &stream(1)).unwrap();
        fake.set("polls", -1);
        let begin = Instant::now();
        let failed = failure(send_something(&mut communicator, &stream(1)));
        assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
        assert!(matches!(failed.kind, FailureKind::Timeout { .. }), "{failed}");
        assert_eq!((failed.seq, failed.op.as_str()), (Some(1), "something"));
        let last = communicator.status().last(|op| op.cloned()).unwrap();
        assert_eq!((last.seq, last.label.as_str(), last.enqueued), (1, "something", None));
    });
}

#[test]
fn a_split_gives_rank_and_world_or_nothing() {
    unless_stalled(|| {
        let fake = Fake::new();
        fake.set("polls", 3);
        let mut communicator = fake.communicator();
        let part = communicator.split(Some(0), 2, &config(), SECOND).unwrap().unwrap();
        assert_eq!((part.rank(), part.world()), (2, 3));
        assert!(communicator.split(None, 2, &config(), SECOND).unwrap().is_none());
        part.finalize(SECOND).unwrap();
        communicator.finalize(SECOND).unwrap();
        assert_eq!((fake.count("ncclCommDestroy"), fake.count("ncclCommAbort")), (2, 0));
        fake.assert_lawful();
    });
}

/// NCCL's threads write the new handle when they get to it, long after the caller has given up.
#[test]
fn a_handle_that_comes_after_the_deadline_overwrites_nothing() {
    let fake = Fake::new();
    let mut communicator = fake.communicator();
    fake.set("polls", -1);
    let split = communicator.split(Some(0), 0, &config(), Duration::from_millis(20));
    assert!(matches!(kind(split), FailureKind::Timeout { .. }));
    let noise: Vec<Box<usize>> = (0..1000).map(|_| Box::new(0)).collect();
    drop(communicator);
    fake.wait_for("ncclCommAbort", 1);
    std::thread::sleep(Duration::from_millis(20));
    assert!(noise.iter().all(|slot| **slot == 0));
}

#[test]
fn survivors_make_a_communicator_of_a_poisoned_one() {
    let fake = Fake::new();
    let mut communicator = fake.communicator();
    communicator.revoke("rank 3 is lost", SECOND).unwrap();
    assert!(matches!(kind(communicator.async_error()), FailureKind::Poisoned { .. }));
    let mut rest = communicator.shrink(&[3], &config(), SECOND).unwrap();
    assert_eq!(rest.world(), 3);
    assert_eq!(communicator.shrink(&[3, 2, 3], &config(), SECOND).unwrap().world(), 2);
    send_something(&mut rest, &stream(1)).unwrap();
    assert!(communicator.shrink(&[], &config(), SECOND).is_err());
    assert!(communicator.shrink(&[1], &config(), SECOND).is_err(), "rank 1 itself");
    fake.assert_lawful();
}
