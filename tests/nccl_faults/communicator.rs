//! A communicator of the crate when its peers, its library or its user let it down.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config};
use seqpar::cuda::{Context, DeviceMemory, Priority, Stream};
use seqpar::error::FailureKind;

use crate::mock::on_mock;
use crate::support::stalls::unless_stalled;
use crate::world::{
    DEADLINE, LONG, Rank, assert_in_time, assert_no_leaks, config, end, failure, gather, in_every_mode, library,
    poisoned, run,
};

#[test]
fn calls_in_progress_for_long_are_polled_to_their_end() {
    on_mock(|mock| {
        in_every_mode(mock, "in_progress=1000", |_, mut rank| {
            for _ in 0..3 {
                rank.gather("op").unwrap();
            }
            assert!(rank.ends(LONG));
            rank.comm.finalize(LONG).unwrap();
        });
        mock.configure("in_progress=-1");
    });
}

#[test]
fn an_op_that_stays_in_progress_is_a_timeout_that_names_it() {
    unless_stalled(|| {
        on_mock(|mock| {
            mock.configure("devices=3 in_progress=0");
            let config = Config { op_deadline: DEADLINE, ..config() };
            let all = Barrier::new(3);
            run(mock, &config, |mut rank| {
                rank.gather("first").unwrap();
                all.wait();
                mock.configure("in_progress=100000000");
                let begin = Instant::now();
                let failed = failure(rank.gather("second").unwrap_err());
                assert_in_time(begin);
                assert!(matches!(failed.kind, FailureKind::Timeout { .. }), "{failed}");
                assert_eq!((&failed.op[..], failed.seq, failed.rank), ("second", Some(1), rank.rank));
                end(&rank.comm);
            });
            mock.configure("in_progress=0");
            assert_no_leaks(mock, "a timeout");
        });
    });
}

#[test]
fn an_initialisation_without_one_rank_ends_at_its_deadline() {
    on_mock(|mock| {
        mock.configure("devices=3 absent=2");
        let library = library();
        let id = library.unique_id().unwrap();
        mock.ranks(3, |rank| {
            // Ended before the context goes, or the mock would say so.
            let _context = Context::primary(rank as i32).unwrap();
            let begin = Instant::now();
            let error = Communicator::new(&library, &id, rank, 3, &config(), DEADLINE).unwrap_err();
            assert_in_time(begin);
            let failed = failure(error);
            assert!(matches!(failed.kind, FailureKind::Timeout { .. }), "{failed}");
        });
        mock.assert_clean("nobody hangs");
        assert_no_leaks(mock, "an initialisation that failed");
    });
}

#[test]
fn ranks_on_one_device_are_told_so() {
    on_mock(|mock| {
        mock.configure("share_device=0");
        let library = library();
        let id = library.unique_id().unwrap();
        mock.ranks(2, |rank| {
            let _context = Context::primary(0).unwrap();
            let failed = failure(Communicator::new(&library, &id, rank, 2, &config(), LONG).unwrap_err());
            assert_eq!(
                (&failed.kind, failed.culprits.as_slice()),
                (&FailureKind::DeviceConflict, [1 - rank].as_slice())
            );
        });
    });
}

/// What NCCL does not say of a dead rank, the caller's own deadline and the abort make good.
#[test]
fn a_silent_death_leaves_the_abort_to_us() {
    on_mock(|mock| {
        in_every_mode(mock, "die=1:2", |mode, mut rank| {
            rank.gather("first").unwrap();
            rank.gather("second").unwrap();
            assert!(!rank.ends(Duration::from_millis(20)), "{mode}: who would finish it");
            rank.comm.async_error().unwrap();
            let handle = rank.comm.abort_handle();
            handle.abort("the test").unwrap();
            handle.abort("again, which does nothing").unwrap();
            assert!(rank.ends(LONG), "{mode}: released");
            assert!(handle.has_ended() && handle.unrecoverable().is_none());
            let cause = poisoned(rank.gather("third"));
            assert!(cause.contains("second") && cause.contains("the test"), "{cause}");
        });
    });
}

#[test]
fn a_death_that_nccl_notices_names_the_op() {
    on_mock(|mock| {
        let all = Barrier::new(3);
        in_every_mode(mock, "die=1:2 death=remote", |mode, mut rank| {
            rank.gather("first").unwrap();
            all.wait();
            // Who comes late is refused at once.
            let refused = rank.gather("second").err();
            if rank.rank == 1 {
                // A thread cannot die: what its op holds is given back.
                rank.comm.abort_handle().abort("its death").unwrap();
                return;
            }
            let begin = Instant::now();
            let error = refused.unwrap_or_else(|| {
                loop {
                    if let Err(error) = rank.comm.async_error() {
                        break error;
                    }
                    assert!(begin.elapsed() < LONG, "{mode}: never told");
                }
            });
            let failed = failure(error);
            assert!(matches!(failed.kind, FailureKind::PeerLost { .. }), "{mode}: {failed}");
            assert_eq!((&failed.op[..], failed.seq), ("second", Some(1)), "{mode}: {failed}");
            rank.comm.abort_handle().abort("the test").unwrap();
            assert!(rank.ends(LONG));
        });
    });
}

#[test]
fn every_call_after_a_failure_names_the_first_cause() {
    unless_stalled(|| {
        on_mock(|mock| {
            mock.configure("devices=3 comm_error=1:2=3 in_progress=1");
            run(mock, &config(), |mut rank| {
                let mut part = rank.comm.split(Some(0), rank.rank as u32, &config(), LONG).unwrap().unwrap();
                rank.gather("first").unwrap();
                let second = rank.gather("second");
                if rank.rank != 1 {
                    end(&part);
                    return end(&rank.comm);
                }
                let first = failure(second.unwrap_err());
                assert!(matches!(first.kind, FailureKind::PeerLost { .. }), "{first}");
                let begin = Instant::now();
                for turn in 0..1000 {
                    let comm = if turn % 2 == 0 { &mut rank.comm } else { &mut part };
                    let cause = poisoned(gather(comm, "later", &rank.memory, &rank.stream));
                    assert_eq!(cause, first.to_string());
                }
                assert!(begin.elapsed() < Duration::from_secs(1), "1 ms each");
                assert_eq!(poisoned(part.split(None, 0, &config(), LONG)), first.to_string());
                assert_eq!(poisoned(part.async_error()), first.to_string());
                end(&part);
                end(&rank.comm);
                assert_eq!(poisoned(part.finalize(LONG)), first.to_string());
            });
            assert_no_leaks(mock, "a family");
        });
    });
}

#[test]
fn what_a_group_refuses_poisons_nothing() {
    on_mock(|mock| {
        mock.configure("devices=3");
        run(mock, &config(), |mut rank| {
            // SAFETY: refused before anything is issued.
            let refused =
                rank.comm.group("odd", |group| unsafe { group.send(0, 1, seqpar::dtype::Dtype::I32, 9, &rank.stream) });
            assert!(refused.is_err());
            rank.gather("good").unwrap();
            assert!(rank.ends(LONG));
            rank.comm.finalize(LONG).unwrap();
        });
        mock.assert_clean("a refusal");
    });
}

#[test]
fn a_finalisation_with_a_dead_rank_ends_at_its_deadline() {
    on_mock(|mock| {
        mock.configure("devices=3 die=1:1");
        run(mock, &config(), |mut rank| {
            rank.gather("last").unwrap();
            let begin = Instant::now();
            let Rank { comm, stream, .. } = rank;
            let failed = failure(comm.finalize(DEADLINE).unwrap_err());
            assert_in_time(begin);
            assert!(matches!(failed.kind, FailureKind::Timeout { .. }), "{failed}");
            // It was aborted then.
            while !stream.is_done().unwrap() {
                assert!(begin.elapsed() < LONG);
            }
        });
        mock.assert_clean("a dead rank");
        assert_no_leaks(mock, "a dead rank");
    });
}

#[test]
fn a_drop_with_work_in_flight_returns_at_once() {
    unless_stalled(|| {
        on_mock(|mock| {
            in_every_mode(mock, "die=1:1", |mode, mut rank| {
                rank.gather("never").unwrap();
                let Rank { comm, stream, memory, context, .. } = rank;
                let begin = Instant::now();
                drop(comm);
                assert!(begin.elapsed() < Duration::from_secs(2), "{mode}: {:?}", begin.elapsed());
                while !stream.is_done().unwrap() {
                    assert!(begin.elapsed() < LONG);
                }
                drop((memory, stream, context));
            });
        });
    });
}

/// NCCL may never come back from an abort; we do.
#[test]
fn an_abort_that_never_returns_is_unrecoverable() {
    on_mock(|mock| {
        mock.configure("devices=1 hang=ncclCommAbort:1");
        let library = library();
        let id = library.unique_id().unwrap();
        let context = Context::primary(0).unwrap();
        let config = Config { reaper_deadline: DEADLINE, ..config() };
        let mut comm = Communicator::new(&library, &id, 0, 1, &config, LONG).unwrap();
        let (stream, memory) = (Stream::new(Priority::Low).unwrap(), DeviceMemory::new(1 << 10).unwrap());
        memory.fill(1, &stream).unwrap();
        gather(&mut comm, "op", &memory, &stream).unwrap();
        let handle = comm.abort_handle();
        let begin = Instant::now();
        let failed = failure(handle.abort("the test").unwrap_err());
        assert_in_time(begin);
        assert!(matches!(failed.kind, FailureKind::Unrecoverable { .. }), "{failed}");
        assert!(handle.unrecoverable().is_some());
        poisoned(gather(&mut comm, "later", &memory, &stream));
        drop(comm);
        // The hung thread is let go, so that nothing is left of it.
        mock.configure("hang=nothing");
        while mock.leaks().contains(&"communicator".to_string()) {
            assert!(begin.elapsed() < LONG);
        }
        drop((memory, stream, context));
        mock.assert_clean("an abort");
        assert_no_leaks(mock, "an abort");
    });
}

#[test]
fn survivors_shrink_and_go_on() {
    on_mock(|mock| {
        in_every_mode(mock, "die=1:2", |mode, mut rank| {
            rank.gather("first").unwrap();
            rank.gather("second").unwrap();
            if rank.rank == 1 {
                return end(&rank.comm);
            }
            rank.comm.revoke("the test", LONG).unwrap();
            let mut rest = rank.comm.shrink(&[1], &config(), LONG).unwrap();
            assert_eq!((rest.rank(), rest.world()), (rank.rank / 2, 2));
            gather(&mut rest, "third", &rank.memory, &rank.stream).unwrap();
            assert!(rank.ends(LONG), "{mode}");
            rest.finalize(LONG).unwrap();
            poisoned(rank.gather("fourth"));
            end(&rank.comm);
        });
    });
}
