//! What goes wrong between ranks, and how it shows.

use std::ffi::c_int;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use seqpar::cuda::{Event, capture};

use crate::mock::{MODES, Mock, on_mock};
use crate::raw::{
    IN_PROGRESS, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR, SUCCESS, UNHANDLED_CUDA_ERROR, dtype, nccl, ok,
};
use crate::world::{Comm, Rank, run, run_and_abort, unique_id};

const WORLD: usize = 3;

const ELEMS: usize = 128;

/// What differs on rank 1: kind, count, type, reduction or root.
fn odd_one(rank: &Rank, from: u64, what: usize) {
    let odd = rank.rank == 1;
    let (to, raw) = (from + 64, rank.communication.raw);
    let pick = |usual: c_int, other: c_int| if odd { other } else { usual };
    // SAFETY: the mock checks addresses.
    let code = unsafe {
        match what {
            0 if odd => (nccl().ncclAllReduce)(from, to, 8, dtype::INT32, 0, rank.comm.0, raw),
            0 => (nccl().ncclAllGather)(from, to, 8, dtype::INT32, rank.comm.0, raw),
            1 => (nccl().ncclAllGather)(from, to, if odd { 4 } else { 8 }, dtype::INT32, rank.comm.0, raw),
            2 => (nccl().ncclAllGather)(from, to, 8, pick(dtype::INT32, dtype::FLOAT32), rank.comm.0, raw),
            3 => (nccl().ncclAllReduce)(from, to, 8, dtype::INT32, pick(0, 2), rank.comm.0, raw),
            _ => (nccl().ncclBroadcast)(from, to, 8, dtype::INT32, pick(0, 1), rank.comm.0, raw),
        }
    };
    rank.comm.done(code);
}

#[test]
fn ranks_that_call_different_things_are_reported_and_wait_for_ever() {
    on_mock(|mock| {
        for mode in MODES {
            for what in 0..5 {
                mock.reset(mode, what as u64);
                mock.configure("devices=3");
                run_and_abort(mock, WORLD, |rank| {
                    let memory = rank.scratch(ELEMS);
                    odd_one(rank, memory, what);
                    assert!((0..50).all(|_| !rank.communication.stream.is_done().unwrap()), "{mode} {what}");
                    assert_eq!(rank.comm.state(), SUCCESS, "nobody is told");
                });
                let reports = mock.reports();
                assert!(reports.len() == 1 && reports[0].starts_with("MISMATCH"), "{mode} {what}: {reports:?}");
            }
        }
    });
}

#[test]
fn sends_and_receives_that_differ_are_reported() {
    on_mock(|mock| {
        for mode in MODES {
            mock.reset(mode, 0);
            mock.configure("devices=2");
            run_and_abort(mock, 2, |rank| {
                let memory = rank.scratch(ELEMS);
                let code = if rank.rank == 0 { rank.send(memory, 8, 1) } else { rank.receive(memory, 4, 0) };
                rank.comm.done(code);
            });
            assert!(mock.reports()[0].contains("rank 0 calls ncclSend of 8 int32, rank 1 calls ncclRecv of 4 int32"));
        }
    });
}

/// Sends of different sizes to each peer, nothing to some, one to itself: all in one group.
#[test]
fn uneven_groups_move_what_they_say() {
    on_mock(|mock| {
        for mode in MODES {
            for seed in 0..4 {
                mock.reset(mode, seed);
                mock.configure("devices=3 host=thread");
                let results = run(mock, WORLD, WORLD, |rank| {
                    let own: Vec<i32> = (0..16 * WORLD as i32).map(|i| 100 * rank.rank as i32 + i).collect();
                    let (from, to) = (rank.memory(&own), rank.memory(&[-1; 16 * WORLD]));
                    rank.join(&rank.compute, &rank.communication.stream);
                    let elems = |sender: usize, receiver: usize| (sender + 2 * receiver) % 4;
                    rank.comm.group(|| {
                        for peer in 0..WORLD {
                            ok(rank.send(from.address() + 64 * peer as u64, elems(rank.rank, peer), peer));
                            ok(rank.receive(to.address() + 64 * peer as u64, elems(peer, rank.rank), peer));
                        }
                    });
                    rank.join(&rank.communication.stream, &rank.compute);
                    let received = rank.read(&to);
                    for (at, &value) in received.iter().enumerate() {
                        let (peer, i) = (at / 16, at % 16);
                        let sent = 100 * peer as i32 + 16 * rank.rank as i32 + i as i32;
                        assert_eq!(value, if i < elems(peer, rank.rank) { sent } else { -1 }, "{mode} {seed}");
                    }
                });
                assert_eq!(results.len(), WORLD);
                mock.assert_clean(&format!("{mode} {seed}"));
            }
        }
    });
}

#[test]
fn a_cycle_of_sends_outside_a_group_is_a_deadlock() {
    on_mock(|mock| {
        for mode in MODES {
            mock.reset(mode, 0);
            mock.configure("devices=3");
            let begin = Instant::now();
            run_and_abort(mock, WORLD, |rank| {
                let memory = rank.scratch(ELEMS);
                let (next, previous) = ((rank.rank + 1) % WORLD, (rank.rank + WORLD - 1) % WORLD);
                rank.comm.done(rank.send(memory, 8, next));
                rank.comm.done(rank.receive(memory + 64, 8, previous));
                assert!(rank.communication.stream.synchronize().is_err());
            });
            let reports = mock.reports();
            assert!(reports[0].starts_with("DEADLOCK") && reports[1].contains("has other work"), "{mode}: {reports:?}");
            assert!(begin.elapsed() < Duration::from_secs(10), "{mode}: time is waited for");
            mock.reset(mode, 0);
        }
    });
}

/// All gathers twice; a fault takes one rank away at the second. Whether all of it has run, and
/// what the rank is told, once every rank has done its calls.
fn two_gathers(rank: &Rank, all: &Barrier) -> (bool, c_int) {
    let memory = rank.scratch(ELEMS);
    rank.all_gather(memory, memory + 64, 8);
    all.wait();
    // SAFETY: the memory is alive. Who hears of the fault early is refused.
    let second = unsafe {
        let (comm, raw) = (rank.comm.0, rank.communication.raw);
        (nccl().ncclAllGather)(memory, memory + 64, 8, dtype::INT32, comm, raw)
    };
    if second == IN_PROGRESS {
        rank.comm.settle();
    }
    let done = Event::new(false).unwrap();
    done.record(&rank.communication.stream).unwrap();
    all.wait();
    let seen = (0..20).any(|_| done.is_done().unwrap());
    (seen && second == SUCCESS, rank.comm.state())
}

#[test]
fn the_death_of_a_rank_is_silent_unless_asked_for() {
    on_mock(|mock| {
        for mode in MODES {
            for (told, expected) in [
                ("", [SUCCESS; 5]),
                ("death=remote", [REMOTE_ERROR, REMOTE_ERROR, SUCCESS, REMOTE_ERROR, REMOTE_ERROR]),
                ("death=neighbours", [SUCCESS, REMOTE_ERROR, SUCCESS, REMOTE_ERROR, SUCCESS]),
            ] {
                mock.reset(mode, 1);
                mock.configure(&format!("devices=5 die=2:2 {told}"));
                let all = Barrier::new(5);
                let seen = run_and_abort(mock, 5, |rank| two_gathers(rank, &all));
                assert!(seen.iter().all(|(done, _)| !done), "{mode} {told}: {seen:?}");
                let states: Vec<c_int> = seen.iter().map(|(_, state)| *state).collect();
                assert_eq!(states, expected, "{mode} {told}");
                mock.assert_clean(&format!("{mode} {told}"));
            }
        }
    });
}

#[test]
fn a_communicator_fails_by_itself_where_asked() {
    on_mock(|mock| {
        mock.configure("devices=3 comm_error=1:2=3");
        let all = Barrier::new(WORLD);
        let seen = run_and_abort(mock, WORLD, |rank| {
            let seen = two_gathers(rank, &all);
            let again = rank.send(0, 1, 0);
            (seen, again)
        });
        assert_eq!(seen[1], ((false, 3), 3));
        assert_eq!(seen[0].0, (false, SUCCESS));
    });
}

/// An abort ends what is queued, not the context; later work of the stream runs.
#[test]
fn an_abort_releases_the_stream() {
    on_mock(|mock| {
        for mode in MODES {
            mock.reset(mode, 2);
            mock.configure("devices=2");
            let id = unique_id();
            mock.ranks(2, |rank| {
                let rank = Rank::new(id, 2, rank, 2);
                let memory = rank.memory(&[1; ELEMS]);
                rank.join(&rank.compute, &rank.communication.stream);
                if rank.rank == 0 {
                    rank.all_gather(memory.address(), memory.address() + 64, 8);
                    rank.all_gather(memory.address(), memory.address() + 64, 8);
                }
                memory.fill(9, &rank.communication.stream).unwrap();
                rank.comm.abort();
                rank.communication.stream.synchronize().unwrap();
                rank.context.synchronize().unwrap();
                rank.join(&rank.communication.stream, &rank.compute);
                assert_eq!(rank.read(&memory), [0x09090909; ELEMS], "{mode}");
            });
            mock.assert_clean(mode);
            assert_eq!(mock.leaks(), Vec::<String>::new(), "{mode}");
        }
    });
}

#[test]
fn a_graph_with_a_communicator_that_was_aborted_is_reported() {
    on_mock(|mock| {
        let id = unique_id();
        mock.ranks(1, |rank| {
            let rank = Rank::new(id, 1, rank, 1);
            let memory = rank.scratch(ELEMS);
            rank.communication.stream.synchronize().unwrap();
            let graph = capture(&rank.communication.stream, || {
                rank.all_gather(memory, memory, 8);
                Ok(())
            });
            rank.comm.abort();
            // SAFETY: the memory outlives the work.
            unsafe { graph.unwrap().launch(&rank.communication.stream).unwrap() };
            rank.communication.stream.synchronize().unwrap();
        });
        assert!(mock.reports()[0].contains("of a communicator that was given up"), "{:?}", mock.reports());
    });
}

/// Each call fails once, with the code asked for, on one rank alone where that is asked for.
#[test]
fn any_call_fails_on_request() {
    on_mock(|mock| {
        for rank_of_fault in 0..2 {
            mock.reset("late", 1);
            mock.configure(&format!("devices=2 fail=ncclAllGather@{rank_of_fault}:2=99"));
            let codes = run_and_abort(mock, 2, |rank| {
                let memory = rank.scratch(ELEMS);
                // SAFETY: the mock checks addresses.
                let gather = || unsafe {
                    (nccl().ncclAllGather)(memory, memory + 64, 8, dtype::INT32, rank.comm.0, rank.communication.raw)
                };
                rank.comm.done(gather());
                gather()
            });
            assert_eq!(codes[rank_of_fault], 99);
            assert!([SUCCESS, IN_PROGRESS].contains(&codes[1 - rank_of_fault]));
        }
        mock.reset("late", 1);
        mock.configure("fail=ncclGetUniqueId:1=2");
        let mut id = crate::raw::UniqueId([0; 128]);
        // SAFETY: writes one id.
        assert_eq!(unsafe { (nccl().ncclGetUniqueId)(&mut id) }, 2);
    });
}

#[test]
fn a_group_with_a_bad_call_launches_nothing() {
    on_mock(|mock| {
        mock.configure("devices=2");
        run(mock, 2, 2, |rank| {
            let memory = rank.scratch(ELEMS);
            // SAFETY: the mock checks addresses.
            unsafe {
                ok((nccl().ncclGroupStart)());
                ok(rank.send(memory, 4, 0));
                assert_eq!(rank.receive(memory, 4, 7), INVALID_ARGUMENT);
                assert_eq!((nccl().ncclGroupEnd)(), INVALID_ARGUMENT);
            }
            rank.communication.stream.synchronize().unwrap();
        });
        mock.assert_clean("nothing was launched");
    });
}

#[test]
fn a_call_that_never_returns_holds_nobody_else_up() {
    on_mock(|mock| {
        mock.configure("hang=ncclCommAbort:1 devices=2");
        let id = unique_id();
        let stuck = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for rank in 0..2 {
                let stuck = &stuck;
                scope.spawn(move || {
                    let rank = Rank::new(id, 2, rank, 2);
                    stuck.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    rank.comm.abort();
                    stuck.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                });
            }
            let deadline = Instant::now() + Duration::from_secs(20);
            while mock.calls().iter().all(|(name, count)| name != "ncclCommAbort" || *count < 2) {
                assert!(Instant::now() < deadline);
            }
            // Both are inside; one comes back, the other does not.
            let stuck = || stuck.load(std::sync::atomic::Ordering::SeqCst);
            while stuck() > 1 {
                assert!(Instant::now() < deadline);
            }
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(stuck(), 1);
            mock.configure("hang=nothing");
        });
    });
}

#[test]
fn ranges_of_one_group_that_overlap_are_reported() {
    on_mock(|mock| {
        mock.configure("devices=2");
        run(mock, 2, 2, |rank| {
            let memory = rank.scratch(ELEMS);
            let peer = 1 - rank.rank;
            rank.comm.group(|| {
                ok(rank.send(memory, 8, peer));
                ok(rank.receive(memory + 16, 8, peer));
            });
        });
        assert!(mock.reports()[0].starts_with("RACE (in a group)"), "{:?}", mock.reports());
        mock.reset("late", 1);
        run(mock, 2, 2, |rank| {
            let memory = rank.scratch(ELEMS);
            rank.all_gather(memory + 4, memory, 8);
        });
        assert!(mock.reports()[0].contains("ranges that overlap"), "{:?}", mock.reports());
    });
}

#[test]
fn a_range_that_is_not_there_ends_the_context() {
    on_mock(|mock| {
        mock.configure("devices=2");
        run_and_abort(mock, 2, |rank| {
            let memory = rank.scratch(ELEMS);
            let from = if rank.rank == 0 { memory + 4 * (ELEMS as u64 - 4) } else { memory };
            rank.all_gather(from, memory + 64, 8);
            if rank.rank == 0 {
                let error = rank.communication.stream.synchronize().unwrap_err().to_string();
                assert!(error.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
            }
        });
        assert!(mock.reports()[0].starts_with("OUT OF BOUNDS"), "{:?}", mock.reports());
        mock.reset("late", 0);
    });
}

#[test]
fn streams_and_communicators_that_do_not_fit_are_refused() {
    on_mock(|mock: &Mock| {
        mock.configure("devices=2");
        run(mock, 2, 2, |rank| {
            let memory = rank.scratch(ELEMS);

            let gather = |comm: &Comm, stream: u64| {
                // SAFETY: the mock checks handles.
                unsafe { (nccl().ncclAllGather)(memory, memory, 4, dtype::INT32, comm.0, stream) }
            };
            assert_eq!(gather(&rank.comm, memory), UNHANDLED_CUDA_ERROR);
            assert_eq!(gather(&Comm(memory as *mut _), rank.communication.raw), INVALID_ARGUMENT);
            assert_eq!(gather(&Comm(std::ptr::null_mut()), rank.communication.raw), INVALID_ARGUMENT);
            // SAFETY: the mock checks handles.
            unsafe {
                ok((nccl().ncclGroupStart)());
                ok(rank.send(memory, 1, rank.rank));
                // Another stream: one group would tie the two together.
                ok((nccl().ncclRecv)(memory + 64, 1, dtype::INT32, rank.rank as c_int, rank.comm.0, 0));
                assert_eq!((nccl().ncclGroupEnd)(), INVALID_USAGE);
            }
        });
    });
}
