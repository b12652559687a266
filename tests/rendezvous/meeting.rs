//! A1 to A4: all ranks meet, or all say the same about why not, in time.

use std::time::Duration;

use crate::guard::guarded;
use crate::places::{Place, places};
use crate::ranks::{D, HOWS, How, Rank, SLACK, run};

/// Runs the case in every place, as threads and as processes, all at once.
pub fn everywhere(case: impl Fn(How, &Place) + Sync) {
    std::thread::scope(|scope| {
        for how in HOWS {
            for place in places(how) {
                let case = &case;
                scope.spawn(move || case(how, &place));
            }
        }
    });
}

/// All say `said`, each within `limit`.
fn expect(how: How, place: &Place, ranks: &[Rank], said: &str, limit: Duration) {
    for (rank, outcome) in ranks.iter().zip(run(how, place, ranks)) {
        let at = format!("{how:?}, {}, rank {}: {outcome:?}", place.name(), rank.rank);
        assert_eq!(outcome.said, said, "{at}");
        assert!(outcome.took <= limit, "{at}");
    }
}

fn world(n: usize) -> Vec<Rank> {
    (0..n).map(|rank| Rank::of(rank, n)).collect()
}

#[test]
fn all_ranks_meet_and_share_an_id() {
    guarded(|| {
        for n in [1, 2, 5] {
            everywhere(|how, place| {
                let ranks: Vec<_> = world(n).into_iter().map(|rank| Rank { then: "id".into(), ..rank }).collect();
                expect(how, place, &ranks, "has the id", D);
            });
        }
    });
}

#[test]
fn a1_a_rank_that_never_comes_is_named_by_all() {
    guarded(|| {
        for missing in [vec![3], vec![0], vec![1, 2]] {
            everywhere(|how, place| {
                let mut ranks = world(4);
                ranks.retain(|rank| !missing.contains(&rank.rank));
                expect(how, place, &ranks, &format!("RendezvousTimeout {missing:?}"), D + SLACK);
            });
        }
    });
}

#[test]
fn a2_two_processes_that_claim_a_rank_are_refused_with_all_others() {
    guarded(|| {
        everywhere(|how, place| {
            let mut ranks = world(4);
            ranks.push(Rank::of(1, 4));
            // Both are there before the world is whole.
            ranks[3].delay = Duration::from_millis(300);
            expect(how, place, &ranks, "DuplicateRank [1]", Duration::from_secs(1));
        });
    });
}

#[test]
fn a2_a_second_process_that_comes_too_late_is_refused_alone() {
    guarded(|| {
        everywhere(|how, place| {
            let mut ranks = world(3);
            let late = Rank { delay: Duration::from_millis(700), ..Rank::of(1, 3) };
            ranks.push(late);
            let outcomes = run(how, place, &ranks);
            let said: Vec<_> = outcomes.iter().map(|outcome| outcome.said.as_str()).collect();
            // Rank 0's end of a TCP store goes with its thread, so the late one may find nobody.
            assert_eq!(said[..3], ["joined"; 3], "{how:?}, {}", place.name());
            assert_eq!(said[3], "DuplicateRank [1]", "{how:?}, {}", place.name());
        });
    });
}

#[test]
fn a3_worlds_of_different_sizes() {
    guarded(|| {
        everywhere(|how, place| {
            let mut ranks = world(4);
            ranks[2].world = 5;
            let said = "WorldMismatch { seen: [4, 5] } [2]";
            expect(how, place, &ranks, said, Duration::from_secs(1));
        });
        everywhere(|how, place| {
            let mut ranks: Vec<_> = (0..4).map(|rank| Rank::of(rank, 5)).collect();
            ranks[1].world = 4;
            expect(how, place, &ranks, "WorldMismatch { seen: [4, 5] } [1]", Duration::from_secs(1));
        });
    });
}

#[test]
fn a4_protocol_and_nccl_versions() {
    guarded(|| {
        everywhere(|how, place| {
            let mut ranks = world(4);
            ranks[1].protocol = 2;
            skewed(how, place, &ranks, 1, "protocol 1", "protocol 2");
        });
        everywhere(|how, place| {
            let mut ranks = world(3);
            ranks[0].nccl = 23007;
            let of = |nccl| format!("seqpar {} with NCCL {nccl}", env!("CARGO_PKG_VERSION"));
            skewed(how, place, &ranks, 0, &of("2.28.9"), &of("2.30.7"));
        });
    });
}

fn skewed(how: How, place: &Place, ranks: &[Rank], odd: usize, common: &str, other: &str) {
    for (rank, outcome) in run(how, place, ranks).into_iter().enumerate() {
        let (mine, theirs) = if rank == odd { (other, common) } else { (common, other) };
        let said = format!("VersionSkew {{ mine: {mine:?}, theirs: {theirs:?} }} [{odd}]");
        assert_eq!(outcome.said, said, "{how:?}, {}, rank {rank}: {outcome:?}", place.name());
        assert!(outcome.took <= Duration::from_secs(1), "{outcome:?}");
    }
}

#[test]
fn a4_plans() {
    guarded(|| {
        everywhere(|how, place| {
            let mut ranks = world(4);
            ranks[3].plan = 1;
            for (rank, outcome) in run(how, place, &ranks).into_iter().enumerate() {
                let (common, odd) = ("run plan 000000000000abcd", "run plan 0000000000000001");
                let (mine, theirs) = if rank == 3 { (odd, common) } else { (common, odd) };
                assert_eq!(
                    outcome.said,
                    format!("Mismatch {{ mine: {mine:?}, theirs: {theirs:?} }} [3]"),
                    "{outcome:?}"
                );
                assert!(outcome.took <= Duration::from_secs(1), "{outcome:?}");
                assert!(
                    outcome.words.starts_with(&format!("rank {rank}: rank {rank}, rendezvous, op \"join\"")),
                    "{outcome:?}"
                );
            }
        });
    });
}

#[test]
fn two_ranks_on_one_device_unless_both_allow_it() {
    guarded(|| {
        everywhere(|how, place| {
            let mut ranks = world(4);
            (ranks[1].device, ranks[3].device) = (9, 9);
            ranks[1].shares = true;
            expect(how, place, &ranks, "DeviceConflict [1, 3]", Duration::from_secs(1));
        });
        everywhere(|how, place| {
            let mut ranks = world(4);
            ranks.iter_mut().for_each(|rank| (rank.device, rank.shares) = (9, true));
            expect(how, place, &ranks, "joined", D);
        });
    });
}
