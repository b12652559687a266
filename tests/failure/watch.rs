//! The watchdog with ranks as threads: who learns of what, when, and what it says afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seqpar::comm::signature::Signature;
use seqpar::comm::watchdog::{Options, Presence, Probe, Watch, Watchdog};
use seqpar::error::{Error, Failure, FailureKind};

use super::dogs::{await_abort, begin, call, failure, learn, memory, ms, options, scratch, start, torn, with_probe};
use super::stalls::unless_stalled;

#[test]
fn after_a_failure_every_call_is_poisoned_at_once_with_one_cause() {
    unless_stalled(|| {
        let store = memory();
        // Long enough for signs of life that say who has begun.
        let options = Options { deadline: ms(400), ..options() };
        let ranks: Vec<_> = (0..3).map(|rank| start(&store, rank, 3, options.clone())).collect();
        ranks.iter().take(2).for_each(|(_, watch)| begin(watch, 0, None));
        let mut causes = Vec::new();
        for (_, watch) in &ranks {
            let (first, _) = learn(watch, ms(1500));
            assert!(!matches!(first.kind, FailureKind::Poisoned { .. }), "{first}");
            let mut took = Vec::new();
            for i in 0..1000 {
                let begin = Instant::now();
                let error = if i % 2 == 0 { watch.check() } else { watch.begin(1, "more", None, &[call(1)]) };
                took.push(begin.elapsed());
                let FailureKind::Poisoned { first_cause } = failure(error.unwrap_err()).kind else {
                    panic!("not poisoned")
                };
                assert_eq!(first_cause, first.to_string());
            }
            took.sort();
            // The machine may take a core away now and then.
            assert!(took[989] < ms(1), "{:?}", took[989]);
            assert!(took[999] < ms(100), "{:?}", took[999]);
            causes.push((first.seq, first.culprits.clone()));
        }
        // Rank 2 never called the op.
        assert!(causes.iter().all(|cause| *cause == (Some(0), vec![2])), "{causes:?}");
    });
}

#[test]
fn ranks_that_are_not_neighbours_learn_within_two_periods() {
    unless_stalled(|| {
        let store = memory();
        let period = ms(100);
        let is_torn = Arc::new(AtomicBool::new(false));
        let ranks: Vec<_> = (0..6)
            .map(|rank| {
                let flag = is_torn.clone();
                let error = move || match rank == 0 && flag.load(Ordering::Acquire) {
                    true => Err(Error::Between(Box::new(torn()))),
                    false => Ok(()),
                };
                let probe = Probe { error: Some(Box::new(error)), ..Probe::default() };
                with_probe(&store, rank, 6, Options { period, ..options() }, probe)
            })
            .collect();
        std::thread::sleep(period);
        is_torn.store(true, Ordering::Release);
        let ends: Vec<(Failure, Instant)> = std::thread::scope(|scope| {
            let told = |watch: &Watch| (learn(watch, ms(2000)).0, Instant::now());
            let threads: Vec<_> = ranks.iter().map(|(_, watch)| scope.spawn(move || told(watch))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let first = ends.iter().map(|(_, at)| *at).min().unwrap();
        for (rank, (failure, at)) in ends.iter().enumerate() {
            assert!(failure.to_string().contains("ncclAllGather failed with 6"), "rank {rank}: {failure}");
            // Slack for a machine with fewer cores than threads.
            assert!(*at - first < 2 * period + ms(100), "rank {rank} learned after {:?}", *at - first);
        }
    });
}

#[test]
fn an_op_has_its_own_deadline_which_runs_from_the_end_of_the_op_before() {
    unless_stalled(|| {
        let store = memory();
        let (_dog, watch) = start(&store, 0, 1, options());
        begin(&watch, 0, Some(ms(400)));
        begin(&watch, 1, Some(ms(400)));
        std::thread::sleep(ms(300));
        watch.ended(0);
        std::thread::sleep(ms(250));
        watch.check().unwrap();
        let (failure, _) = learn(&watch, ms(700));
        assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}");
        assert_eq!((failure.seq, failure.op.as_str()), (Some(1), "op 1"));
        assert!((400..=900).contains(&failure.elapsed_ms), "{failure}");
    });
}

#[test]
fn ops_end_by_what_a_probe_counts() {
    unless_stalled(|| {
        let store = memory();
        let count = Arc::new(AtomicU64::new(0));
        let counter = count.clone();
        let probe = Probe { ended: Some(Box::new(move || counter.load(Ordering::Acquire))), ..Probe::default() };
        let (dog, watch) = with_probe(&store, 0, 1, Options { deadline: ms(200), ..options() }, probe);
        for seq in 0..8 {
            begin(&watch, seq, None);
            std::thread::sleep(ms(50));
            count.store(seq + 1, Ordering::Release);
        }
        std::thread::sleep(ms(250));
        watch.check().unwrap();
        assert!(watch.flight().dump(None).calls.iter().all(|call| call.completed_ns.is_some()));
        dog.goodbye();
    });
}

#[test]
fn an_abort_that_does_not_return_is_unrecoverable_and_holds_nobody() {
    unless_stalled(|| {
        let store = memory();
        let probe = Probe {
            abort: Some(Box::new(|_| {
                std::thread::sleep(Duration::from_secs(3600));
            })),
            ..Probe::default()
        };
        let options = Options { deadline: ms(100), abort_within: ms(300), ..options() };
        let (dog, watch) = with_probe(&store, 0, 1, options, probe);
        begin(&watch, 0, None);
        let (first, _) = learn(&watch, ms(700));
        assert!(matches!(first.kind, FailureKind::Timeout { .. }), "{first}");
        std::thread::sleep(ms(500));
        let last = failure(watch.check().unwrap_err());
        assert!(matches!(last.kind, FailureKind::Unrecoverable { .. }), "{last}");
        let begin = Instant::now();
        drop(dog);
        assert!(begin.elapsed() < ms(700), "{:?}", begin.elapsed());
    });
}

#[test]
fn cancelled_from_another_thread_every_rank_is_aborted() {
    unless_stalled(|| {
        let store = memory();
        let mut ranks: Vec<_> = (0..3).map(|rank| start(&store, rank, 3, options())).collect();
        ranks.iter().for_each(|(_, watch)| begin(watch, 0, None));
        let (dog, watch) = ranks.remove(0);
        let canceller = std::thread::spawn(move || {
            let kind = FailureKind::Aborted { by: "the user pressed stop".into() };
            dog.fail(Failure { kind, culprits: Vec::new(), ..torn() });
            dog
        });
        for watch in ranks.iter().map(|(_, watch)| watch).chain([&watch]) {
            let (failure, after) = learn(watch, ms(1000));
            assert!(matches!(failure.kind, FailureKind::Aborted { .. }), "{failure}");
            assert!(failure.to_string().contains("the user pressed stop"), "{failure}");
            assert!(after < ms(1000));
        }
        drop(canceller.join().unwrap());
    });
}

#[test]
fn a_rank_that_drops_or_panics_with_an_op_in_flight_is_lost_at_once() {
    unless_stalled(|| {
        for panics in [false, true] {
            let store = memory();
            let (_dog, watch) = start(&store, 0, 2, options());
            begin(&watch, 0, None);
            let (dog, other) = start(&store, 1, 2, options());
            begin(&other, 0, None);
            std::thread::sleep(ms(100));
            let leaves = Instant::now();
            let thread = std::thread::spawn(move || {
                let _dog = dog;
                if panics {
                    std::panic::resume_unwind(Box::new("out of paper"));
                }
            });
            assert_eq!(thread.join().is_err(), panics);
            assert!(leaves.elapsed() < ms(1000), "dropping took {:?}", leaves.elapsed());
            let (failure, after) = learn(&watch, ms(1000));
            let expected = if panics { "it panicked" } else { "left without a goodbye" };
            assert!(
                matches!(failure.kind, FailureKind::PeerLost { .. }) && failure.to_string().contains(expected),
                "{failure}"
            );
            assert_eq!(failure.culprits, [1]);
            assert!(after < ms(1000), "{after:?}");
        }
    });
}

#[test]
fn a_goodbye_is_no_failure_unless_an_op_waits_for_the_one_who_left() {
    unless_stalled(|| {
        let store = memory();
        let folder = scratch("goodbye");
        let options = Options { lost_after: ms(300), deadline: ms(700), ..options() };
        let (_dog, watch) = start(&store, 0, 2, options.clone());
        let presence = Presence::hold(&folder, 1).unwrap();
        let other = Watchdog::start(store.clone(), 1, 2, options, Some(presence)).unwrap();
        std::thread::sleep(ms(150));
        other.goodbye();
        std::thread::sleep(ms(500));
        watch.check().unwrap();
        begin(&watch, 0, None);
        let (failure, _) = learn(&watch, ms(1300));
        assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}");
        assert!(failure.to_string().contains("rank 1 left before it"), "{failure}");
        assert_eq!(failure.culprits, [1]);
    });
}

#[test]
fn a_lost_rank_explains_an_error_of_the_transport() {
    unless_stalled(|| {
        let store = memory();
        let folder = scratch("explains");
        let probe = |is_torn: Arc<AtomicBool>| Probe {
            error: Some(Box::new(move || match is_torn.load(Ordering::Acquire) {
                true => Err(Error::Between(Box::new(torn()))),
                false => Ok(()),
            })),
            ..Probe::default()
        };
        let is_torn = Arc::new(AtomicBool::new(false));
        let presence = Presence::hold(&folder, 0).unwrap();
        let dog = Watchdog::start(store.clone(), 0, 2, options(), Some(presence)).unwrap();
        let watch = dog.watch("world", &[0, 1], probe(is_torn.clone()));
        begin(&watch, 0, None);
        // Rank 1 beats once and holds a lock; then its connection tears and its process ends.
        let other = Presence::hold(&folder, 1).unwrap();
        store.set("watch/beat/1", &1u64.to_le_bytes()).unwrap();
        std::thread::sleep(ms(150));
        watch.check().unwrap();
        is_torn.store(true, Ordering::Release);
        drop(other);
        let (failure, _) = learn(&watch, ms(1000));
        assert!(matches!(failure.kind, FailureKind::PeerLost { .. }), "{failure}");
        assert_eq!((failure.culprits.as_slice(), failure.seq), ([1].as_slice(), Some(0)), "{failure}");
    });
}

#[test]
fn a_rank_that_calls_another_op_is_named_by_the_others_and_by_itself() {
    unless_stalled(|| {
        let store = memory();
        let options = Options { deadline: ms(600), ..options() };
        let ranks: Vec<_> = (0..3).map(|rank| start(&store, rank, 3, options.clone())).collect();
        for (rank, (_, watch)) in ranks.iter().enumerate() {
            let other = Signature { elems: 5, ..call(0) };
            // The odd one is the first whose time is up, so that its view counts, or the last.
            let deadline = if rank == 2 { ms(500) } else { ms(5000) };
            watch.begin(0, "op 0", Some(deadline), &[if rank == 2 { other } else { call(0) }]).unwrap();
        }
        let (own, _) = learn(&ranks[2].1, ms(2000));
        assert!(own.to_string().contains("this rank called another op than the others"), "{own}");
        assert_eq!(own.culprits, [2]);
        let (others, _) = learn(&ranks[0].1, ms(2000));
        assert_eq!(others.culprits, [2], "{others}");

        let store = memory();
        let ranks: Vec<_> = (0..3).map(|rank| start(&store, rank, 3, options.clone())).collect();
        for (rank, (_, watch)) in ranks.iter().enumerate() {
            let other = Signature { elems: 5, ..call(0) };
            let deadline = if rank == 0 { ms(500) } else { ms(5000) };
            watch.begin(0, "op 0", Some(deadline), &[if rank == 2 { other } else { call(0) }]).unwrap();
        }
        let (first, _) = learn(&ranks[0].1, ms(2000));
        assert!(first.to_string().contains("rank 2 called another op"), "{first}");
        assert_eq!(first.culprits, [2]);
    });
}

#[test]
fn a_watch_that_was_closed_is_late_for_nothing() {
    let store = memory();
    let (dog, watch) = start(&store, 0, 1, Options { deadline: ms(100), ..options() });
    begin(&watch, 0, None);
    watch.close();
    std::thread::sleep(ms(400));
    watch.check().unwrap();
    dog.check().unwrap();
}

#[test]
fn jobs_with_names_of_their_own_share_a_store() {
    let store = memory();
    let (one, _) = start(&store, 0, 1, Options { prefix: "one".into(), ..options() });
    let (_other, watch) = start(&store, 0, 1, Options { prefix: "other".into(), ..options() });
    one.fail(torn());
    let begin = Instant::now();
    while one.check().is_ok() {
        assert!(begin.elapsed() < ms(10_000), "its own failure was not told");
        std::thread::sleep(ms(1));
    }
    std::thread::sleep(ms(300));
    watch.check().unwrap();
}

#[test]
fn a_failure_leaves_a_flight_record_of_every_communicator() {
    unless_stalled(|| {
        let store = memory();
        let folder = scratch("dumps");
        let options = Options { deadline: ms(100), dumps: Some(folder.clone()), ..options() };
        let (dog, watch) = start(&store, 0, 1, options);
        let pair = dog.watch("pair/0", &[0], Probe::default());
        begin(&watch, 0, None);
        pair.begin(0, "quick", None, &[call(0)]).unwrap();
        pair.ended(0);
        learn(&watch, ms(700));
        for (name, state) in [("world", "scheduled"), ("pair_0", "completed")] {
            let text = std::fs::read_to_string(folder.join(format!("flight-{name}-0.json"))).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["calls"][0]["state"], state);
            assert!(value["failure"].as_str().unwrap().contains("op 0"), "{text}");
        }
        assert!(failure(pair.check().unwrap_err()).to_string().contains("op 0"), "the family is not poisoned");
    });
}

/// Nobody reads the pipe that a record is to be written to: the disk hangs.
#[test]
fn a_flight_record_that_cannot_be_written_holds_no_failure_back() {
    unless_stalled(|| {
        let store = memory();
        let folder = scratch("hanging");
        let pipe = folder.join(".flight-world-0.tmp");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the string lives until the call returns.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let aborted = Arc::new(AtomicBool::new(false));
        let flag = aborted.clone();
        let probe = Probe { abort: Some(Box::new(move |_| flag.store(true, Ordering::Release))), ..Probe::default() };
        let options = Options { deadline: ms(100), dumps: Some(folder), ..options() };
        let (dog, watch) = with_probe(&store, 0, 1, options, probe);
        begin(&watch, 0, None);
        let (failure, after) = learn(&watch, ms(5000));
        assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}");
        assert!(after < ms(2500), "{after:?}");
        drop(dog);
        await_abort(&aborted);
        drop(std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap());
    });
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let start = |rank, options| Watchdog::start(memory(), rank, 2, options, None).map(|_| ()).unwrap_err().to_string();
    assert!(start(2, options()).contains("rank 2 of 2"));
    assert!(start(0, Options { prefix: "a b".into(), ..options() }).contains("prefix"));
    assert!(start(0, Options { prefix: "a".repeat(60), ..options() }).contains("at most 50"));
    assert!(start(0, Options { period: Duration::ZERO, ..options() }).contains("above 0"));
}
