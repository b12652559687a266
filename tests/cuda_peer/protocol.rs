//! The steps of a message order what they must, for any number of runs of one capture, and none of
//! them is too many.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use seqpar::comm::peer::Step;
use seqpar::cuda::capture;
use seqpar::error::{Error, FailureKind};
use seqpar::rendezvous::MemoryStore;

use crate::exchange::Exchange;
use crate::mock::{MODES, Mock, on_mock};

/// All ranks run alike; rank 0 without one step. The reports, and whether all received the right
/// bytes (of a graph, in its last run).
fn outcome(mock: &Mock, world: usize, runs: usize, dropped: Option<usize>, graph: bool) -> (Vec<String>, bool) {
    let store = Arc::new(MemoryStore::default());
    let all_done = Barrier::new(world);
    let right = mock.ranks(world, |rank| {
        let kept = if graph { 1 } else { runs };
        let exchange = Exchange::new(store.clone(), "job", rank, world, kept).unwrap();
        let dropped = dropped.filter(|_| rank == 0);
        let enqueued = if graph {
            let graph = capture(&exchange.stream, || exchange.run(0, dropped)).unwrap();
            // SAFETY: everything is kept until all ranks have ended.
            (0..runs).try_for_each(|_| unsafe { graph.launch(&exchange.stream) })
        } else {
            (0..runs).try_for_each(|run| exchange.run(run, dropped))
        };
        let received = enqueued.and_then(|()| exchange.kept());
        all_done.wait();
        received.is_ok_and(|received| received == exchange.expected(kept))
    });
    (mock.reports(), right.iter().all(|right| *right))
}

#[test]
fn runs_are_clean_and_right_in_every_order() {
    on_mock(|mock| {
        for world in 1..=4 {
            for mode in MODES {
                for seed in 0..5 {
                    mock.reset(mode, seed);
                    assert_eq!(
                        outcome(mock, world, 5, None, false),
                        (Vec::new(), true),
                        "{world} ranks, {mode} {seed}"
                    );
                    assert_eq!(mock.leaks(), Vec::<String>::new());
                }
            }
        }
    });
}

#[test]
fn a_captured_run_is_replayed() {
    on_mock(|mock| {
        for mode in MODES {
            for seed in 0..3 {
                mock.reset(mode, seed);
                assert_eq!(outcome(mock, 3, 20, None, true), (Vec::new(), true), "{mode} {seed}");
            }
        }
    });
}

#[test]
fn every_dropped_step_is_reported() {
    on_mock(|mock| {
        let (world, kinds) = (3, kinds(mock));
        let mut silent = Vec::new();
        for (dropped, kind) in kinds.iter().enumerate() {
            let reported = (0..3).flat_map(|seed| MODES.map(|mode| (mode, seed))).any(|(mode, seed)| {
                mock.reset(mode, seed);
                mock.configure("deadlock_s=0.1");
                let (reports, right) = outcome(mock, world, 3, Some(dropped), false);
                // Nobody misses a copy but who reads what it should have brought.
                if *kind == "copy" { !right } else { !reports.is_empty() }
            });
            if !reported {
                silent.push((dropped, *kind));
            }
        }
        mock.reset("late", 0);
        assert_eq!(silent, []);
        assert_eq!(kinds.len(), 14);
    });
}

/// What the steps of rank 0 among three are.
fn kinds(mock: &Mock) -> Vec<&'static str> {
    mock.reset("late", 0);
    let store = Arc::new(MemoryStore::default());
    let steps = mock.ranks(3, |rank| Exchange::new(store.clone(), "kinds", rank, 3, 1).unwrap().steps());
    let kind = |step: &Step| match step {
        Step::Raise(_) => "raise",
        Step::Wait(_) => "wait",
        Step::Lower(_) => "lower",
        Step::Copy { .. } => "copy",
    };
    steps[0].iter().map(kind).collect()
}

/// One rank gives up: its own waits end, and the others hear of it.
#[test]
fn an_abort_ends_the_waits_of_all() {
    on_mock(|mock| {
        for mode in MODES {
            mock.reset(mode, 1);
            let store = Arc::new(MemoryStore::default());
            let gone = Barrier::new(3);
            mock.ranks(3, |rank| {
                let exchange = Exchange::new(store.clone(), "job", rank, 3, 1).unwrap();
                if rank < 2 {
                    exchange.run(0, None).unwrap();
                }
                let error = if rank == 1 {
                    assert!(!exchange.stream.is_done().unwrap(), "rank 2 has sent nothing");
                    exchange.peers.abort("the deadline passed");
                    exchange.peers.health().unwrap_err()
                } else {
                    loop {
                        match exchange.peers.health() {
                            Ok(()) => std::thread::sleep(Duration::from_millis(1)),
                            Err(error) => break error,
                        }
                    }
                };
                let Error::Between(failure) = error else { panic!("{error}") };
                match failure.kind {
                    FailureKind::Aborted { by } => {
                        assert_eq!((&by[..], &failure.culprits[..]), ("rank 1: the deadline passed", &[1][..]));
                    }
                    FailureKind::Poisoned { first_cause } => {
                        assert_eq!((rank, first_cause.contains("passed")), (1, true))
                    }
                    other => panic!("{other}"),
                }
                exchange.peers.abort("told by another");
                let begin = Instant::now();
                while !exchange.stream.is_done().unwrap() {
                    assert!(begin.elapsed() < Duration::from_secs(10), "rank {rank} still waits");
                }
                assert!(exchange.peers.connect(&[]).is_err(), "a failed family connects nothing");
                gone.wait();
            });
        }
    });
}
