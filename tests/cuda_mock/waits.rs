//! A wait that is missing is found, in every mode and seed, whatever order the run took.

use crate::mock::workload::{Ring, context, redundant, waits};
use crate::mock::{MODES, on_mock};

const CHUNKS: usize = 6;
const SEEDS: u64 = 20;

#[test]
fn all_waits_are_enough() {
    on_mock(|mock| {
        let context = context();
        for mode in MODES {
            for seed in 0..SEEDS {
                mock.reset(mode, seed);
                let ring = Ring::new(CHUNKS, 96).unwrap();
                ring.run(None).unwrap();
                assert_eq!(ring.result().unwrap(), ring.expected(), "{mode} {seed}");
                context.synchronize().unwrap();
                mock.assert_clean(&format!("{mode} {seed}"));
            }
        }
    });
}

#[test]
fn every_dropped_wait_is_reported() {
    on_mock(|mock| {
        let context = context();
        for mode in MODES {
            for seed in 0..SEEDS {
                for dropped in 0..waits(CHUNKS) {
                    mock.reset(mode, seed);
                    let ring = Ring::new(CHUNKS, 96).unwrap();
                    ring.run(Some(dropped)).unwrap();
                    context.synchronize().unwrap();
                    let reports = mock.reports();
                    let reported = reports.iter().any(|r| r.starts_with("RACE"));
                    let at = format!("wait {dropped}, {mode} {seed}: {reports:?}");
                    assert_eq!(reported, !redundant(dropped, CHUNKS), "{at}");
                }
            }
        }
    });
}

/// Without the detector: in some order the result is wrong, in some it is not.
#[test]
fn orders_differ_by_seed_and_repeat() {
    on_mock(|mock| {
        let context = context();
        for mode in ["late", "random"] {
            let order = |seed| {
                mock.reset(mode, seed);
                let ring = Ring::new(CHUNKS, 96).unwrap();
                ring.run(Some(4)).unwrap();
                let right = ring.result().unwrap() == ring.expected();
                context.synchronize().unwrap();
                (mock.order(), right)
            };
            let runs: Vec<_> = (0..SEEDS).map(|seed| (order(seed), order(seed))).collect();
            assert!(runs.iter().all(|(a, b)| a == b), "{mode}: one seed, two orders");
            assert!(runs.iter().any(|((a, _), _)| *a != runs[0].0.0), "{mode}: all seeds have one order");
        }
    });
}
