//! Communicators: how they come to be, are split, and end.

use std::ffi::c_int;
use std::ptr::null_mut;

use seqpar::cuda::{Context, DeviceMemory};

use crate::mock::{MODES, on_mock};
use crate::raw::{
    Config, Handle, IN_PROGRESS, INVALID_ARGUMENT, INVALID_USAGE, NO_COLOR, REMOTE_ERROR, UniqueId, error_string, nccl,
    ok,
};
use crate::world::{Comm, run, run_and_abort, unique_id};

#[test]
fn the_library_knows_its_version_and_its_errors() {
    on_mock(|mock| {
        let version = || {
            let mut version = 0;
            // SAFETY: writes one number.
            ok(unsafe { (nccl().ncclGetVersion)(&mut version) });
            version
        };
        assert_eq!(version(), 22809);
        mock.configure("nccl_version=21700");
        assert_eq!(version(), 21700);
        assert_eq!(error_string(6), "remote process exited or there was a network error");
        assert_eq!(error_string(99), "unknown result code");
    });
}

#[test]
fn ids_differ_and_look_like_nccls() {
    on_mock(|_| {
        let (a, b) = (unique_id(), unique_id());
        assert_ne!(a.0, b.0);
        assert!(a.0[..8] != [0; 8] && a.0[40..] == [0; 88]);
    });
}

fn init(world: c_int, id: UniqueId, rank: c_int, config: &mut Config) -> (c_int, Handle) {
    let mut comm = null_mut();
    // SAFETY: writes one handle.
    let code = unsafe { (nccl().ncclCommInitRankConfig)(&mut comm, world, id, rank, config) };
    (code, comm)
}

#[test]
fn arguments_are_checked_as_nccl_checks_them() {
    on_mock(|mock| {
        let _context = Context::primary(0).unwrap();
        let refused = |world, rank, change: fn(&mut Config)| {
            let mut config = Config::new(false);
            change(&mut config);
            init(world, unique_id(), rank, &mut config).0
        };
        assert_eq!(refused(0, 0, |_| ()), INVALID_ARGUMENT);
        assert_eq!(refused(2, 2, |_| ()), INVALID_ARGUMENT);
        assert_eq!(refused(2, -1, |_| ()), INVALID_ARGUMENT);
        assert_eq!(refused(1, 0, |config| config.magic = 0), INVALID_ARGUMENT);
        assert_eq!(refused(1, 0, |config| config.blocking = 2), INVALID_ARGUMENT);
        assert_eq!(refused(1, 0, |config| config.min_ctas = 0), INVALID_ARGUMENT);
        assert_eq!(refused(1, 0, |config| (config.min_ctas, config.max_ctas) = (4, 2)), INVALID_ARGUMENT);
        assert_eq!(refused(1, 0, |config| config.min_ctas = 4), INVALID_ARGUMENT, "without a maximum");
        // SAFETY: takes nothing.
        assert_eq!(unsafe { (nccl().ncclGroupEnd)() }, INVALID_USAGE);
        mock.assert_clean("refusals");
        assert_eq!(mock.leaks(), ["context"]);
    });
}

/// The facts that a rank knows of its communicator.
fn facts(comm: &Comm) -> [c_int; 3] {
    let mut facts = [0; 3];
    // SAFETY: write one number each.
    unsafe {
        ok((nccl().ncclCommUserRank)(comm.0, &mut facts[0]));
        ok((nccl().ncclCommCount)(comm.0, &mut facts[1]));
        ok((nccl().ncclCommCuDevice)(comm.0, &mut facts[2]));
    }
    facts
}

#[test]
fn an_initialisation_waits_for_all_ranks() {
    on_mock(|mock| {
        for mode in MODES {
            mock.reset(mode, 1);
            mock.configure("in_progress=3 devices=2");
            let (id, contexts) = (unique_id(), [0, 1].map(|device| Context::primary(device).unwrap()));
            contexts[0].bind().unwrap();
            let first = Comm::begin(id, 2, 0);
            for _ in 0..50 {
                assert_eq!(first.state(), IN_PROGRESS, "{mode}");
            }
            let mut count = 0;
            // SAFETY: writes one number.
            assert_eq!(unsafe { (nccl().ncclCommCount)(first.0, &mut count) }, INVALID_ARGUMENT, "{mode}: not ready");
            contexts[1].bind().unwrap();
            let second = Comm::begin(id, 2, 1);
            let polls: Vec<c_int> = (0..4).map(|_| second.state()).collect();
            assert_eq!(polls, [IN_PROGRESS, IN_PROGRESS, IN_PROGRESS, 0], "{mode}");
            assert_eq!(first.settle(), 0, "{mode}");
            assert_eq!([facts(&first), facts(&second)], [[0, 2, 0], [1, 2, 1]], "{mode}");
            assert_eq!(mock.leaks().iter().filter(|leak| *leak == "communicator").count(), 2, "{mode}");
            first.abort();
            second.abort();
            drop(contexts);
            assert_eq!(mock.leaks(), Vec::<String>::new(), "{mode}");
            mock.assert_clean(mode);
        }
    });
}

/// Neither side is told, as in NCCL.
#[test]
fn ranks_that_disagree_wait_for_ever() {
    on_mock(|mock| {
        let _context = Context::primary(0).unwrap();
        for [first, second] in [[(2, 0), (3, 1)], [(2, 0), (2, 0)]] {
            mock.reset("late", 1);
            let id = unique_id();
            let comms = [first, second].map(|(world, rank)| Comm::begin(id, world, rank));
            for comm in comms {
                assert!((0..50).all(|_| comm.state() == IN_PROGRESS));
                comm.abort();
            }
            assert!(mock.reports()[0].starts_with("MISMATCH"), "{:?}", mock.reports());
        }
    });
}

#[test]
fn a_rank_that_never_comes_is_waited_for() {
    on_mock(|mock| {
        let _context = Context::primary(0).unwrap();
        mock.configure("absent=1");
        let id = unique_id();
        for comm in [0, 1, 2].map(|rank| Comm::begin(id, 3, rank)) {
            assert!((0..50).all(|_| comm.state() == IN_PROGRESS));
            comm.abort();
        }
        mock.reset("late", 1);
        mock.configure("absent=1");
        // Blocking, nobody can help: NCCL would wait for ever.
        let id = unique_id();
        let codes = mock.ranks(2, |rank| {
            let _context = Context::primary(0).unwrap();
            init(2, id, rank as c_int, &mut Config::new(true)).0
        });
        assert!(codes.iter().all(|&code| code != 0), "{codes:?}");
        assert!(mock.reports()[0].contains("DEADLOCK") && mock.reports()[0].contains("did not come"));
    });
}

#[test]
fn an_id_is_for_one_world() {
    on_mock(|_| {
        let _context = Context::primary(0).unwrap();
        for id in [UniqueId([3; 128]), unique_id()] {
            let comm = Comm::begin(id, 1, 0);
            let known = comm.settle();
            comm.abort();
            let again = Comm::begin(id, 1, 0);
            assert_eq!((known == 0, again.settle()), (id.0 != [3; 128], REMOTE_ERROR));
            again.abort();
        }
    });
}

#[test]
fn a_device_shared_by_two_ranks_is_refused_unless_allowed() {
    on_mock(|mock| {
        for (shared, expected) in [(1, 0), (0, INVALID_USAGE)] {
            mock.reset("late", 1);
            mock.configure(&format!("share_device={shared}"));
            let id = unique_id();
            let states = mock.ranks(2, |rank| {
                let _context = Context::primary(0).unwrap();
                let comm = Comm::begin(id, 2, rank);
                let state = comm.settle();
                comm.abort();
                state
            });
            assert_eq!(states, [expected; 2]);
        }
    });
}

#[test]
fn blocking_calls_and_one_thread_for_all_ranks() {
    on_mock(|mock| {
        for mode in MODES {
            mock.reset(mode, 1);
            let _context = Context::primary(0).unwrap();
            let (id, mut comms) = (unique_id(), [null_mut(); 2]);
            // SAFETY: write one handle each, when the group ends.
            unsafe {
                ok((nccl().ncclGroupStart)());
                for (rank, comm) in comms.iter_mut().enumerate() {
                    ok((nccl().ncclCommInitRank)(comm, 2, id, rank as c_int));
                }
                ok((nccl().ncclGroupEnd)());
                for comm in comms {
                    ok((nccl().ncclCommDestroy)(comm));
                }
            }
            mock.assert_clean(mode);
        }
    });
}

/// Colors by parity, keys that turn the order round; one rank stays out.
#[test]
fn a_split_orders_by_key() {
    on_mock(|mock| {
        for mode in MODES {
            for blocking in [false, true] {
                mock.reset(mode, 4);
                mock.configure("devices=5 in_progress=2");
                let results = run(mock, 5, 5, |rank| {
                    let (color, key) =
                        if rank.rank == 4 { (NO_COLOR, 0) } else { (rank.rank as c_int % 2, -(rank.rank as c_int)) };
                    let (mut part, mut config) = (null_mut(), Config::new(blocking));
                    // SAFETY: the handle is written before the parent is settled.
                    rank.comm.done(unsafe { (nccl().ncclCommSplit)(rank.comm.0, color, key, &mut part, &mut config) });
                    if part.is_null() {
                        return (-1, vec![]);
                    }
                    let part = Comm(part);
                    let [own, count, _] = facts(&part);
                    assert_eq!(count, 2);
                    let (send, receive) = (rank.memory(&[rank.rank as i32]), rank.memory(&[-1; 2]));
                    rank.join(&rank.compute, &rank.communication.stream);
                    // SAFETY: both are alive until the result was read.
                    part.done(unsafe {
                        (nccl().ncclAllGather)(send.address(), receive.address(), 1, 2, part.0, rank.communication.raw)
                    });
                    rank.join(&rank.communication.stream, &rank.compute);
                    let result = rank.read(&receive);
                    part.finish();
                    (own, result)
                });
                let expected = [(1, vec![2, 0]), (1, vec![3, 1]), (0, vec![2, 0]), (0, vec![3, 1]), (-1, vec![])];
                assert_eq!(results, expected, "{mode} blocking {blocking}");
                mock.assert_clean(&format!("{mode} blocking {blocking}"));
                assert_eq!(mock.leaks(), Vec::<String>::new());
            }
        }
    });
}

#[test]
fn a_finalisation_waits_for_the_others() {
    on_mock(|mock| {
        let _context = Context::primary(0).unwrap();
        mock.configure("in_progress=0");
        let id = unique_id();
        let [first, second] = [0, 1].map(|rank| Comm::begin(id, 2, rank));
        assert_eq!([first.settle(), second.settle()], [0, 0]);
        // SAFETY: the handles are alive.
        unsafe {
            assert_eq!((nccl().ncclCommFinalize)(first.0), IN_PROGRESS);
            assert!((0..50).all(|_| first.state() == IN_PROGRESS));
            assert_eq!((nccl().ncclCommFinalize)(second.0), 0);
            assert_eq!(first.settle(), 0);
            assert_eq!((nccl().ncclCommFinalize)(second.0), INVALID_USAGE, "twice");
            ok((nccl().ncclCommDestroy)(first.0));
            ok((nccl().ncclCommDestroy)(second.0));
            mock.assert_clean("ends");
            assert_eq!((nccl().ncclCommDestroy)(second.0), INVALID_ARGUMENT);
        }
        assert!(mock.reports()[0].starts_with("MISUSE: ncclCommDestroy"), "{:?}", mock.reports());
    });
}

#[test]
fn revoked_communicators_can_be_split_and_destroyed_only() {
    on_mock(|mock| {
        mock.configure("devices=2");
        run_and_abort(mock, 2, |rank| {
            let mut part = null_mut();
            // SAFETY: the handles are alive; the new one is written before the parent is settled.
            unsafe {
                rank.comm.done((nccl().ncclCommRevoke)(rank.comm.0, 0));
                assert_eq!((nccl().ncclCommFinalize)(rank.comm.0), INVALID_USAGE);
                assert_eq!(rank.send(0, 1, 0), INVALID_USAGE);
                rank.comm.done((nccl().ncclCommSplit)(rank.comm.0, 0, 0, &mut part, null_mut()));
            }
            Comm(part).finish();
        });
        mock.assert_clean("revoked");
    });
}

/// With a collective in flight that the lost rank never joins.
#[test]
fn survivors_go_on_in_a_smaller_communicator() {
    on_mock(|mock| {
        for mode in MODES {
            mock.reset(mode, 2);
            mock.configure("devices=3 die=1:1 death=remote");
            let results = run_and_abort(mock, 3, |rank| {
                let memory = rank.scratch(64);
                // SAFETY: the mock checks addresses.
                unsafe {
                    (nccl().ncclAllGather)(memory, memory + 64, 4, 2, rank.comm.0, rank.communication.raw);
                    rank.comm.settle();
                }
                if rank.rank == 1 {
                    return -1;
                }
                let (mut rest, mut lost) = (null_mut(), [1]);
                // SAFETY: the handle is written before the parent is settled.
                let code =
                    unsafe { (nccl().ncclCommShrink)(rank.comm.0, lost.as_mut_ptr(), 1, &mut rest, null_mut(), 1) };
                rank.comm.done(code);
                let rest = Comm(rest);
                let [own, count, _] = facts(&rest);
                assert_eq!(count, 2);
                // SAFETY: the mock checks addresses.
                rest.done(unsafe { (nccl().ncclAllGather)(memory, memory + 64, 4, 2, rest.0, rank.communication.raw) });
                rank.communication.stream.synchronize().unwrap();
                rest.finish();
                own
            });
            assert_eq!(results, [0, -1, 1], "{mode}");
            mock.assert_clean(mode);
        }
    });
}

#[test]
fn memory_and_what_is_registered() {
    on_mock(|mock| {
        mock.configure("windows=0");
        run(mock, 1, 1, |rank| {
            let (comm, memory, mut handle, mut window) =
                (rank.comm.0, DeviceMemory::new(64).unwrap(), null_mut(), null_mut());
            let (address, mut own) = (memory.address() as *mut _, null_mut());
            // SAFETY: the memory outlives its registrations.
            unsafe {
                ok((nccl().ncclCommRegister)(comm, address, 64, &mut handle));
                ok((nccl().ncclCommWindowRegister)(comm, address, 64, &mut window, 1));
                assert!(window.is_null(), "unsupported: success, and nothing");
                mock.configure("windows=1");
                ok((nccl().ncclCommWindowRegister)(comm, address, 64, &mut window, 1));
                assert_eq!(
                    mock.leaks().iter().filter(|leak| ["window", "registration"].contains(&&leak[..])).count(),
                    2
                );
                ok((nccl().ncclCommWindowDeregister)(comm, window));
                ok((nccl().ncclCommDeregister)(comm, handle));
                ok((nccl().ncclMemAlloc)(&mut own, 64));
                ok((nccl().ncclMemFree)(own));
                mock.assert_clean("registered");
                assert_eq!((nccl().ncclCommRegister)(comm, address, 65, &mut handle), INVALID_ARGUMENT);
            }
        });
        assert_eq!(mock.leaks(), Vec::<String>::new());
    });
}
