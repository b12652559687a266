//! A8: rank 0 dies while the others wait for the id; what a killed job left is not believed.

use std::time::{Duration, Instant};

use crate::file::folder;
use crate::guard::guarded;
use crate::meeting::everywhere;
use crate::places::{Place, free_address};
use crate::ranks::{D, HOWS, How, Outcome, Process, Rank, SLACK, run, secret_id};

fn all_then(then: &str, n: usize) -> Vec<Rank> {
    (0..n).map(|rank| Rank { then: then.into(), ..Rank::of(rank, n) }).collect()
}

/// The first ends, the others say why they have no id.
fn survivors(place: &Place) -> Vec<Outcome> {
    run(How::Processes, place, &all_then("die", 3))[1..].to_vec()
}

#[test]
fn a8_the_host_of_the_store_dies_during_the_exchange() {
    guarded(|| {
        for outcome in survivors(&Place::Tcp(free_address())) {
            // Either while the others still hear of the verdict, or while they wait for the id.
            assert!(outcome.said.starts_with("PeerLost") && outcome.said.ends_with("[0]"), "{outcome:?}");
            assert!(outcome.took <= D + SLACK, "{outcome:?}");
        }
    });
}

#[test]
fn a8_rank_0_dies_during_the_exchange_and_the_store_stays() {
    guarded(|| {
        for outcome in survivors(&Place::File(folder())) {
            assert!(outcome.said.starts_with("Timeout") && outcome.said.ends_with("[0]"), "{outcome:?}");
            // Joining takes its own time before the wait for the id begins.
            assert!(outcome.took <= D + 2 * SLACK, "{outcome:?}");
        }
    });
}

#[test]
fn a8_the_host_of_the_store_is_stopped() {
    guarded(|| {
        let place = Place::Tcp(free_address());
        // It does not give up by itself.
        let mut zero = Process::rank(&Rank { then: "id".into(), deadline: 10 * D, ..Rank::of(0, 3) }, &place);
        let one = Process::rank(&Rank { deadline: 2 * D, ..Rank::of(1, 3) }, &place);
        std::thread::sleep(Duration::from_millis(500));
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::kill(zero.id() as libc::pid_t, libc::SIGSTOP) }, 0);
        let begin = Instant::now();
        let (outcome, _one) = one.outcome();
        assert!(outcome.said.starts_with("PeerLost") && outcome.said.contains("does not answer"), "{outcome:?}");
        assert!(outcome.said.ends_with("[0]"), "{outcome:?}");
        assert!(begin.elapsed() <= D + SLACK, "{:?}", begin.elapsed());
        zero.kill();
    });
}

#[test]
fn rank_0_that_has_no_id_to_give_says_so() {
    guarded(|| {
        everywhere(|how, place| {
            for (rank, outcome) in run(how, place, &all_then("fail", 3)).iter().enumerate() {
                assert!(outcome.said.contains("no NCCL here"), "{how:?}, {}, {rank}: {outcome:?}", place.name());
                assert_eq!(rank > 0, outcome.said.starts_with("Rank { rank: 0"), "{outcome:?}");
                assert!(outcome.took < Duration::from_secs(1), "{outcome:?}");
            }
        });
    });
}

#[test]
fn no_error_holds_the_id() {
    guarded(|| {
        for outcome in survivors(&Place::File(folder())) {
            let text = format!("{outcome:?}");
            assert!(!text.contains(std::str::from_utf8(&secret_id()[..8]).unwrap()), "{text}");
        }
    });
}

/// The job is killed at several moments; the next one in the same folder is as if it were alone.
#[test]
fn a8_files_of_a_killed_job_are_ignored() {
    guarded(|| {
        let place = Place::File(folder());
        for (round, milliseconds) in [30, 100, 200, 500].into_iter().enumerate() {
            let old = |rank| Rank { nonce: round as u8, plan: 1, world: 4, ..Rank::of(rank, 4) };
            let mut killed: Vec<_> = (0..3).map(|rank| Process::rank(&old(rank), &place)).collect();
            std::thread::sleep(Duration::from_millis(milliseconds));
            killed.iter_mut().for_each(Process::kill);
            for how in HOWS {
                let new = 100 + 2 * round as u8 + u8::from(how == How::Threads);
                let ranks: Vec<_> = all_then("id", 3).into_iter().map(|rank| Rank { nonce: new, ..rank }).collect();
                for outcome in run(how, &place, &ranks) {
                    assert_eq!(outcome.said, "has the id", "{outcome:?}");
                    assert!(outcome.took < D, "{outcome:?}");
                }
            }
        }
    });
}
