//! A11 to A13 on the host executor's links: cut, late, slow, spoiled.

use std::time::{Duration, Instant};

use seqpar::Error;
use seqpar::dtype::Dtype;
use seqpar::error::FailureKind;
use seqpar::exec::host::{Cut, Faults, HostOptions, HostTensor, Link, Prepared, Spoil};

use super::exec_plans::{all_gather, counting, lawful, options};
use super::stalls::unless_stalled;

const DEADLINE: Duration = Duration::from_millis(400);
const COLS: usize = 8;
const WORLD: usize = 4;

fn with(faults: Faults) -> HostOptions {
    HostOptions { deadline: DEADLINE, faults, ..options() }
}

fn x() -> HostTensor {
    counting([1, WORLD, 1, COLS], Dtype::F32)
}

/// Gathers one row a rank; what arrived, or why not, and after how long.
fn gather(options: HostOptions) -> (Result<HostTensor, Error>, Duration) {
    again(&mut lawful(all_gather(&[1; WORLD], COLS, Dtype::F32), options))
}

fn again(prepared: &mut Prepared) -> (Result<HostTensor, Error>, Duration) {
    let x = x();
    let mut bindings = prepared.bindings();
    bindings.set("x", &x).unwrap();
    let begin = Instant::now();
    let said = prepared.run(&mut bindings);
    let took = begin.elapsed();
    // What ranks disagree on cannot be gathered; the error says so.
    (said.and_then(|_| Ok(bindings.gather()?["y"].clone())), took)
}

fn cut(from: usize, to: usize, heal: Option<Duration>) -> Cut {
    Cut { from, to, begin: Duration::ZERO, heal }
}

#[test]
fn a_cut_link_is_a_timeout_that_names_one_of_its_ends() {
    unless_stalled(|| {
        let one_way = vec![cut(0, 1, None)];
        let both_ways = vec![cut(0, 1, None), cut(1, 0, None)];
        let island = (0..3).flat_map(|r| [cut(r, 3, None), cut(3, r, None)]).collect();
        for (cuts, ends) in [(one_way, vec![0, 1]), (both_ways, vec![0, 1]), (island, vec![3])] {
            let mut prepared =
                lawful(all_gather(&[1; WORLD], COLS, Dtype::F32), with(Faults { cuts, ..Faults::default() }));
            for _ in 0..2 {
                let (said, took) = again(&mut prepared);
                let error = said.unwrap_err();
                let Error::Timeout { rank, op, waited_for, .. } = &error else { panic!("{error}") };
                assert_eq!(op, "gather");
                let named = |end: &usize| rank == end || waited_for.contains(&format!("rank {end}"));
                assert!(ends.iter().any(named), "{error}");
                assert!(took >= DEADLINE && took < DEADLINE + Duration::from_millis(500), "{took:?}");
            }
        }
    });
}

#[test]
fn a_cut_that_heals_before_the_deadline_harms_nobody() {
    unless_stalled(|| {
        let heal = Some(DEADLINE / 2);
        for cuts in
            [vec![cut(0, 1, heal)], vec![cut(0, 1, heal), cut(1, 0, heal)], vec![cut(2, 1, heal), cut(2, 0, heal)]]
        {
            for link in [None, Some(Link { bytes_per_s: 1e9, latency_s: 1e-5 })] {
                let faults = Faults { cuts: cuts.clone(), ..Faults::default() };
                let (said, took) = gather(HostOptions { link, ..with(faults) });
                assert_eq!(said.unwrap(), x());
                assert!(took >= DEADLINE / 2 && took < DEADLINE, "{took:?}");
            }
        }
    });
}

#[test]
fn a_link_too_slow_to_count_is_a_timeout() {
    unless_stalled(|| {
        for link in [Link { bytes_per_s: 1e-300, latency_s: 0.0 }, Link { bytes_per_s: 1e9, latency_s: 9e5 }] {
            let (said, took) = gather(HostOptions { link: Some(link), ..with(Faults::default()) });
            assert!(matches!(said, Err(Error::Timeout { .. })), "{said:?}");
            assert!(took < DEADLINE + Duration::from_millis(500), "{took:?}");
        }
        let forever = Cut { heal: Some(Duration::MAX), ..cut(0, 1, None) };
        let faults = Faults { cuts: vec![forever], jitter_s: f64::INFINITY, ..Faults::default() };
        assert!(matches!(gather(with(faults)).0, Err(Error::Timeout { .. })));
    });
}

#[test]
fn a_slow_link_and_jitter_change_no_bit() {
    let slow = Some(Link { bytes_per_s: 1e9 / 100.0, latency_s: 100.0 * 20e-6 });
    let patient = HostOptions { deadline: Duration::from_secs(8), ..options() };
    assert_eq!(gather(HostOptions { link: slow, ..patient.clone() }).0.unwrap(), x());
    for seed in 0..4 {
        let faults = Faults { jitter_s: 0.05, seed, ..Faults::default() };
        let (said, took) = gather(HostOptions { faults, ..patient.clone() });
        assert_eq!(said.unwrap(), x());
        assert!(took > Duration::from_millis(20) && took < Duration::from_secs(8), "{took:?}: no jitter");
    }
}

#[test]
fn a_spoiled_byte_is_noticed_with_checksums_and_only_then() {
    unless_stalled(|| {
        for byte in [0, 5, COLS * 4 - 1] {
            let spoil = Some(Spoil { from: 2, to: 0, tag: 0, byte });
            let faults = Faults { spoil, ..Faults::default() };
            let begin = Instant::now();
            let (said, _) = gather(HostOptions { checksums: true, ..with(faults.clone()) });
            let Err(Error::Between(failure)) = said else { panic!("unnoticed") };
            assert_eq!(failure.kind, FailureKind::Corrupt { bytes: COLS * 4 });
            assert_eq!((failure.rank, failure.seq, failure.culprits.as_slice()), (0, Some(0), [2].as_slice()));
            assert_eq!(failure.op, "gather");
            assert!(begin.elapsed() < Duration::from_secs(1));
            // Documented: without checksums ranks hold different data, and only a comparison tells.
            let error = gather(with(faults)).0.unwrap_err().to_string();
            assert!(!error.contains("arrived otherwise"), "{error}");
        }
    });
}

#[test]
fn checksums_change_no_bit_of_sums_and_find_a_spoiled_slot() {
    use seqpar::plan::{Builder, CommKind, Direction, Placement, Role};
    let everyone: Vec<usize> = (0..WORLD).collect();
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, WORLD);
        let stream = b.stream("comm");
        let dims = [1, 1, 1, COLS];
        let place = |tensor: &str| Placement { tensor: tensor.into(), dims, index: [const { None }; 4] };
        let x = b.buffer("x", Role::Input, Dtype::Bf16, dims, Some(place("x")));
        let y = b.buffer("y", Role::Output, Dtype::Bf16, dims, Some(place("y")));
        let tag = b.tag();
        let mut transfers: Vec<_> = everyone.iter().map(|&to| (Direction::Send, to, x)).collect();
        transfers.push((Direction::Recv, rank, y));
        b.comm(stream, "sum", CommKind::AllReduce, tag, &everyone, Dtype::Bf16, &transfers);
        b.finish()
    };
    let run = |options: HostOptions| {
        let mut prepared = lawful(everyone.iter().map(|&rank| plan(rank)).collect(), options);
        let mut bindings = prepared.bindings();
        let x = counting([1, 1, 1, COLS], Dtype::Bf16);
        bindings.set("x", &x).unwrap();
        prepared.run(&mut bindings).map(|_| bindings.gather().unwrap()["y"].clone())
    };
    let plain = run(options()).unwrap();
    assert_eq!(run(HostOptions { checksums: true, ..options() }).unwrap(), plain);
    let faults = Faults { spoil: Some(Spoil { from: 1, to: 3, tag: 0, byte: 1 }), ..Faults::default() };
    let Err(Error::Between(failure)) = run(HostOptions { checksums: true, ..with(faults) }) else {
        panic!("unnoticed")
    };
    assert_eq!((failure.rank, failure.culprits.as_slice()), (3, [1].as_slice()), "{failure}");
}
