//! The board of the host executor, on which all its threads wait for each other, under a schedule
//! explorer: random and priority-driven schedules of events, messages, failure and reuse. A
//! variant of the board that loses wake-ups must be found.
#![allow(dead_code)]
// The same primitive over two shims: that is the point.
#![allow(clippy::duplicate_mod)]

use std::panic::catch_unwind;
use std::sync::Arc;

use shuttle::thread;

#[path = "schedules/broken.rs"]
mod broken;
#[path = "schedules/sound.rs"]
mod sound;

const SCHEDULES: usize = 3000;

/// Explores a scenario over a variant of the board. Deadlock is a panic.
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let again = scenario.clone();
    shuttle::check_random(move || scenario(), SCHEDULES);
    shuttle::check_pct(move || again(), SCHEDULES, 3);
}

/// The scenarios, over one variant.
macro_rules! scenarios {
    ($variant:ident) => {
        mod $variant {
            use super::*;
            use crate::$variant::board::{Board, Key, Stop};

            type World = Board<u32, u32, &'static str>;

            fn key(epoch: u64, from: u32, to: u32, index: u32) -> Key {
                Key { epoch, tag: 7, from, to, index }
            }

            /// A stream waits for an event of another, in two runs without a reset.
            pub(super) fn events() {
                let board = Arc::new(World::new(&[2]));
                for epoch in 1..=2 {
                    let recorder = board.clone();
                    let thread = thread::spawn(move || {
                        recorder.record(0, 0, epoch);
                        recorder.wait_event(0, 1, epoch, None)
                    });
                    assert_eq!(board.wait_event(0, 0, epoch, None), Ok(()));
                    board.record(0, 1, epoch);
                    assert_eq!(thread.join().unwrap(), Ok(()));
                }
            }

            /// Two ranks exchange two messages each, both posting before either takes; the second
            /// run uses the same tags.
            pub(super) fn rendezvous() {
                let board = Arc::new(World::new(&[0, 0]));
                for epoch in 1..=2 {
                    let ranks = [0u32, 1].map(|rank| {
                        let board = board.clone();
                        thread::spawn(move || {
                            let peer = 1 - rank;
                            for index in 0..2 {
                                board.post(key(epoch, rank, peer, index), 10 * rank + index);
                            }
                            let mut keys = vec![key(epoch, peer, rank, 0), key(epoch, peer, rank, 1)];
                            while !keys.is_empty() {
                                let (i, message) = board.take_any(rank as usize, &keys, None).unwrap();
                                let taken = keys.remove(i);
                                assert_eq!(message, 10 * peer + taken.index);
                                board.confirm(taken, message);
                            }
                            for index in 0..2 {
                                let receipt = board.wait_receipt(key(epoch, rank, peer, index), None);
                                assert_eq!(receipt, Ok(10 * rank + index));
                            }
                        })
                    });
                    ranks.into_iter().for_each(|rank| rank.join().unwrap());
                }
            }

            /// Two failures at once: every waiting thread ends, all with the same one; the board
            /// can be used again.
            pub(super) fn failure() {
                let board = Arc::new(World::new(&[1, 1]));
                let waits: Vec<_> = (0..2)
                    .map(|rank| {
                        let board = board.clone();
                        thread::spawn(move || board.wait_event(rank, 0, 1, None))
                    })
                    .collect();
                let message = {
                    let board = board.clone();
                    thread::spawn(move || board.take_any(1, &[key(1, 0, 1, 0)], None).map(|_| ()))
                };
                let other = {
                    let board = board.clone();
                    thread::spawn(move || board.fail("second"))
                };
                board.fail("first");
                other.join().unwrap();
                let mut seen: Vec<_> = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
                seen.push(message.join().unwrap());
                assert!(seen.iter().all(|end| end == &seen[0]), "{seen:?}");
                assert!(matches!(seen[0], Err(Stop::Failed("first" | "second"))));
                assert!(board.failure(0).is_some() && board.failure(0) == board.failure(1));
                board.clear();
                board.record(0, 0, 2);
                assert_eq!(board.wait_event(0, 0, 2, None), Ok(()));
            }
        }
    };
}

mod run {
    use super::*;
    scenarios!(sound);
    scenarios!(broken);

    #[test]
    fn events_are_never_lost() {
        explore(sound::events);
    }

    #[test]
    fn messages_meet_and_are_confirmed() {
        explore(sound::rendezvous);
    }

    #[test]
    fn one_failure_ends_every_wait() {
        explore(sound::failure);
    }

    #[test]
    fn the_explorer_finds_a_lost_wake_up() {
        for scenario in [broken::events, broken::rendezvous, broken::failure] {
            let found = catch_unwind(|| explore(scenario)).expect_err("the lost wake-up was not found");
            let text = found.downcast_ref::<String>().cloned().unwrap_or_default();
            assert!(text.contains("deadlock"), "{text}");
        }
    }
}
