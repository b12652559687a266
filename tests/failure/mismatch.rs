//! A9: every field of every op, different on one rank, separately; checked before anything runs
//! and found afterwards in the flight records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seqpar::comm::flight::{self, Dump};
use seqpar::comm::signature::{Category, Signature, agree, signatures};
use seqpar::comm::watchdog::{Options, Probe, Watchdog};
use seqpar::error::{Error, Failure, FailureKind};
use seqpar::plan::{CommKind, Plan};
use seqpar::rendezvous::{MemoryStore, Store, VALUE_BYTES_MAX};

use super::dogs::{await_abort, failure};
use super::plans::{FIELDS, Step, differing, plan, steps};
use super::stalls::unless_stalled;

const WORLD: usize = 4;

/// Every (op, field, rank) of interest, with the steps of the rank that differs.
fn cases() -> Vec<(usize, &'static str, usize, Vec<Step>)> {
    let steps = steps();
    let mut cases = Vec::new();
    for at in 0..steps.len() - 1 {
        for field in FIELDS {
            let odd = (at + field.len()) % WORLD;
            // Roots differ where the odd rank is neither the old nor the new one.
            let odd = if field == "root" { 3 } else { odd };
            if let Some(other) = differing(&steps, at, field) {
                cases.push((at, field, odd, other));
            }
        }
    }
    cases
}

/// `agree` on every rank, each a thread.
fn agree_all(plans: &[Plan], within: Duration) -> Vec<seqpar::Result<()>> {
    let store = MemoryStore::default();
    std::thread::scope(|scope| {
        let store = &store;
        let deadline = Instant::now() + within;
        let ranks: Vec<_> = plans.iter().map(|p| scope.spawn(move || agree(store, "test", p, deadline))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn equal_plans_agree() {
    let plans: Vec<Plan> = (0..WORLD).map(|rank| plan(rank, WORLD, &steps())).collect();
    for said in agree_all(&plans, Duration::from_secs(5)) {
        said.unwrap();
    }
}

#[test]
fn every_field_of_every_op_is_a_mismatch_before_anything_moves() {
    unless_stalled(|| {
        let mut seen = 0;
        for (at, field, odd, other) in cases() {
            let steps = steps();
            let plans: Vec<Plan> =
                (0..WORLD).map(|rank| plan(rank, WORLD, if rank == odd { &other } else { &steps })).collect();
            let begin = Instant::now();
            for (rank, said) in agree_all(&plans, Duration::from_secs(5)).into_iter().enumerate() {
                let failure = failure(said.unwrap_err());
                let what = format!("op {at}, {field} on rank {odd}, told to rank {rank}: {failure}");
                assert!(matches!(failure.kind, FailureKind::Mismatch { .. }), "{what}");
                assert_eq!((failure.rank, failure.seq), (rank, Some(at as u64)), "{what}");
                assert!(failure.culprits.contains(&odd), "{what}");
                // One message between two ranks does not say who is wrong.
                let is_pair = steps[at].kind == CommKind::SendRecv;
                assert!(is_pair || failure.culprits == [odd], "{what}");
                assert!(!failure.op.is_empty(), "{what}");
                let category = match field {
                    "kind" => "[kind differs]",
                    "count" => "[size differs]",
                    "dtype" => "[dtype differs]",
                    "order" => "[order differs]",
                    _ => "[peer differs]",
                };
                assert!(failure.to_string().contains(category), "{what}");
            }
            assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
            seen += 1;
        }
        assert_eq!(seen, 6 * 4 + 2);
    });
}

#[test]
fn one_message_that_differs_names_both_ends_and_their_counts() {
    let mut plans: Vec<Plan> = (0..WORLD).map(|rank| plan(rank, WORLD, &steps())).collect();
    // Rank 2 expects fewer rows of rank 0 in the all-to-all, and nothing else differs.
    let op = plans[2].op_ids().nth(1).unwrap();
    let transfers = plans[2].comm(op).unwrap().transfers.clone();
    let wrong = transfers.iter().rposition(|transfer| transfer.peer == 0).unwrap();
    let access = plans[2].op(op).first_access as usize + wrong;
    plans[2].accesses[access].region.end[1] -= 2;
    for (rank, said) in agree_all(&plans, Duration::from_secs(5)).into_iter().enumerate() {
        let failure = failure(said.unwrap_err());
        let text = failure.to_string();
        assert_eq!(failure.seq, Some(1), "{text}");
        assert!(text.contains("send 5 f32 to rank 2") && text.contains("receive 3 f32 from rank 0"), "{text}");
        let expected: &[usize] = match rank {
            0 => &[2],
            2 => &[0],
            _ => &[0, 2],
        };
        assert_eq!(failure.culprits, expected, "{text}");
    }
}

#[test]
fn communicators_in_another_order_are_a_mismatch() {
    use seqpar::dtype::Dtype;
    use seqpar::plan::{Builder, Direction, Role};
    let build = |rank: usize, swapped: bool| {
        let mut b = Builder::new(rank, 3);
        let stream = b.stream("comm");
        let x = b.buffer("x", Role::Input, Dtype::F32, [1, 2, 1, 1], None);
        let y = b.buffer("y", Role::Output, Dtype::F32, [3, 2, 1, 1], None);
        let (small, all) = (b.tag(), b.tag());
        let mut ops: Vec<(&str, _, Vec<usize>)> = vec![("small", small, vec![0, 1]), ("all", all, vec![0, 1, 2])];
        if swapped {
            ops.reverse();
        }
        for (label, tag, group) in ops.into_iter().filter(|(.., group)| group.contains(&rank)) {
            let others = || group.iter().filter(|&&r| r != rank);
            let sends = others().map(|&r| (Direction::Send, r, x));
            let receives = others().map(|&r| (Direction::Recv, r, y.samples(r..r + 1)));
            b.comm(
                stream,
                label,
                CommKind::AllGather,
                tag,
                &group,
                Dtype::F32,
                &sends.chain(receives).collect::<Vec<_>>(),
            );
        }
        b.finish()
    };
    for said in agree_all(&[build(0, false), build(1, false), build(2, false)], Duration::from_secs(5)) {
        said.unwrap();
    }
    for said in agree_all(&[build(0, false), build(1, true), build(2, false)], Duration::from_secs(5)) {
        let failure = failure(said.unwrap_err());
        assert!(failure.to_string().contains("[order differs]"), "{failure}");
        assert!(failure.culprits.contains(&1) || failure.rank == 1, "{failure}");
    }
}

#[test]
fn a_rank_that_does_not_compare_is_named_at_the_deadline() {
    unless_stalled(|| {
        let plans: Vec<Plan> = (0..WORLD - 1).map(|rank| plan(rank, WORLD, &steps())).collect();
        let begin = Instant::now();
        for said in agree_all(&plans, Duration::from_millis(200)) {
            let failure = failure(said.unwrap_err());
            assert!(matches!(&failure.kind, FailureKind::Timeout { .. }), "{failure}");
            assert_eq!(failure.culprits, [WORLD - 1], "{failure}");
        }
        assert!(begin.elapsed() < Duration::from_millis(700), "{:?}", begin.elapsed());
    });
}

/// A store of which only what is written arrives.
struct Broken(MemoryStore);

fn broken() -> Error {
    let kind = FailureKind::PeerLost { how: "the host of the store is gone".into() };
    let (comm, op) = ("store".into(), String::new());
    Error::Between(Box::new(Failure { kind, rank: 0, comm, seq: None, op, culprits: vec![0], elapsed_ms: 0 }))
}

impl Store for Broken {
    fn set(&self, key: &str, value: &[u8]) -> seqpar::Result<()> {
        self.0.set(key, value)
    }

    fn read(&self, _: &str) -> seqpar::Result<Option<Vec<u8>>> {
        Err(broken())
    }

    fn wait(&self, _: &str, _: Instant) -> seqpar::Result<Vec<u8>> {
        Err(broken())
    }

    fn claim(&self, _: &str, _: &[u8]) -> seqpar::Result<Vec<u8>> {
        Err(broken())
    }
}

#[test]
fn a_store_that_breaks_is_not_the_fault_of_the_ranks() {
    let deadline = Instant::now() + Duration::from_secs(5);
    let store = Broken(MemoryStore::default());
    let failure = failure(agree(&store, "test", &plan(2, WORLD, &steps()), deadline).unwrap_err());
    assert!(matches!(failure.kind, FailureKind::PeerLost { .. }), "{failure}");
    assert_eq!((failure.rank, failure.comm.as_str(), failure.culprits.as_slice()), (2, "plan test", [0].as_slice()));
}

#[test]
fn plans_longer_than_a_value_of_the_store_are_compared_whole() {
    // An all-gather is itself and six messages.
    let ops = VALUE_BYTES_MAX / (7 * Signature::BYTES) + 500;
    let at = ops - 100;
    let long = |rows: usize| -> Vec<Step> {
        let step = |i: usize| Step { tag: i as u32, rows: if i == at { rows } else { 1 }, ..steps()[0] };
        (0..ops).map(step).collect()
    };
    let plans = |odd: usize| -> Vec<Plan> {
        (0..WORLD).map(|rank| plan(rank, WORLD, &long(if rank == odd { 2 } else { 1 }))).collect()
    };
    assert!(signatures(&plans(9)[0]).len() * Signature::BYTES > VALUE_BYTES_MAX);
    for said in agree_all(&plans(9), Duration::from_secs(20)) {
        said.unwrap();
    }
    for said in agree_all(&plans(1), Duration::from_secs(20)) {
        let failure = failure(said.unwrap_err());
        assert_eq!((failure.seq, failure.culprits.as_slice()), (Some(at as u64), [1].as_slice()), "{failure}");
    }
}

#[test]
fn signatures_are_read_back_from_their_bytes() {
    for call in signatures(&plan(1, WORLD, &steps())) {
        assert_eq!(Signature::from_bytes(&call.to_bytes()), Some(call));
    }
    assert_eq!(Signature::from_bytes(&[0xff; 32]), None);
}

/// Ops that end once all ranks have called the same; one that differs never ends.
#[derive(Default)]
struct Meeting {
    called: Mutex<Vec<Vec<Step>>>,
}

impl Meeting {
    fn call(&self, seq: usize, step: Step) {
        let mut called = self.called.lock().unwrap();
        if called.len() <= seq {
            called.resize(seq + 1, Vec::new());
        }
        called[seq].push(step);
    }

    fn has_ended(&self, seq: usize) -> bool {
        let called = self.called.lock().unwrap();
        called[seq].len() == WORLD && called[seq].iter().all(|step| *step == called[seq][0])
    }
}

const DEADLINE: Duration = Duration::from_millis(500);

/// Runs the steps of one rank without comparing plans first.
fn run_unchecked(
    rank: usize,
    steps: &[Step],
    store: Arc<dyn Store>,
    meeting: &Meeting,
    aborted: &Arc<AtomicBool>,
) -> (Failure, Dump, Duration) {
    let options = Options { deadline: DEADLINE, period: Duration::from_millis(25), ..Options::default() };
    let watchdog = Watchdog::start(store, rank, WORLD, options, None).unwrap();
    let flag = aborted.clone();
    let probe = Probe { abort: Some(Box::new(move |_| flag.store(true, Ordering::Release))), ..Probe::default() };
    let watch = watchdog.watch("world", &[0, 1, 2, 3], probe);
    let calls = signatures(&plan(rank, WORLD, steps));
    for (seq, step) in steps.iter().enumerate() {
        let begin = Instant::now();
        let own: Vec<Signature> =
            calls.iter().filter(|call| call.seq == seq as u64).map(|c| Signature { tag: 0, ..*c }).collect();
        watch.begin(seq as u64, &format!("op {seq}"), None, &own).unwrap();
        meeting.call(seq, *step);
        while !meeting.has_ended(seq) {
            if let Err(error) = watch.check() {
                let dump = watch.flight().dump(Some(error.to_string()));
                // Every rank has its last word before any of them leaves.
                std::thread::sleep(Duration::from_millis(100));
                return (failure(error), dump, begin.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        watch.ended(seq as u64);
    }
    panic!("nothing differed");
}

#[test]
fn unchecked_it_is_a_timeout_and_the_flight_records_name_it() {
    unless_stalled(|| {
        let cases = cases();
        for batch in cases.chunks(13) {
            std::thread::scope(|scope| {
                for (at, field, odd, other) in batch {
                    scope.spawn(move || unchecked(*at, field, *odd, other));
                }
            });
        }
    });
}

fn unchecked(at: usize, field: &str, odd: usize, other: &[Step]) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let meeting = Meeting::default();
    let aborts: Vec<Arc<AtomicBool>> = (0..WORLD).map(|_| Arc::default()).collect();
    let steps = steps();
    let ends: Vec<(Failure, Dump, Duration)> = std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..WORLD)
            .map(|rank| {
                let own = if rank == odd { other } else { &steps };
                let (store, meeting, aborted) = (store.clone(), &meeting, &aborts[rank]);
                scope.spawn(move || run_unchecked(rank, own, store, meeting, aborted))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for (rank, (failure, _, elapsed)) in ends.iter().enumerate() {
        let what = format!("op {at}, {field} on rank {odd}, told to rank {rank}: {failure}");
        // The one at fault learns that the others gave up because of it.
        let told = match failure.kind {
            FailureKind::Timeout { .. } => true,
            FailureKind::Aborted { .. } => rank == odd,
            _ => false,
        };
        assert!(told, "{what}");
        assert_eq!(failure.seq, Some(at as u64), "{what}");
        assert!(failure.culprits.is_empty() || failure.culprits.contains(&odd), "{what}");
        assert!(*elapsed < DEADLINE + Duration::from_millis(600), "{what}: {elapsed:?}");
    }
    aborts.iter().for_each(|aborted| await_abort(aborted));
    let dumps: Vec<Dump> = ends.into_iter().map(|(_, dump, _)| dump).collect();
    let found = flight::compare(&dumps);
    let what = format!("op {at}, {field} on rank {odd}: {}", found.iter().map(|f| f.to_string()).collect::<String>());
    let first = &found[0].findings[0];
    assert_eq!((found.len(), first.seq), (1, at as u64), "{what}");
    assert!(first.culprits.contains(&(odd as u32)), "{what}");
    let expected: &[Category] = match field {
        "kind" => &[Category::Kind],
        "count" => &[Category::Size],
        "dtype" => &[Category::Dtype],
        // Nobody came to the next op, so that the order cannot be told from the kind.
        "order" => &[Category::Kind],
        _ => &[Category::Peer],
    };
    assert!(expected.contains(&first.category), "{what}");
}
