//! The watchdog with ranks as threads: who learns of what, when, and what it says afterwards.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seqpar::comm::signature::{Part, Signature};
use seqpar::comm::watchdog::{Options, Presence, Probe, Watch, Watchdog};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Failure, FailureKind, Result};
use seqpar::plan::CommKind;
use seqpar::rendezvous::{MemoryStore, Store};

const PERIOD: Duration = Duration::from_millis(50);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn options() -> Options {
    Options { period: PERIOD, ..Options::default() }
}

fn start(store: &Arc<dyn Store>, rank: usize, world: usize, options: Options) -> (Watchdog, Watch) {
    with_probe(store, rank, world, options, Probe::default())
}

fn with_probe(store: &Arc<dyn Store>, rank: usize, world: usize, options: Options, probe: Probe) -> (Watchdog, Watch) {
    let watchdog = Watchdog::start(store.clone(), rank, world, options, None).unwrap();
    let watch = watchdog.watch("world", &(0..world).collect::<Vec<_>>(), probe);
    (watchdog, watch)
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

fn call(seq: u64) -> Signature {
    Signature {
        comm: 0,
        seq,
        tag: 0,
        kind: CommKind::AllGather,
        part: Part::Whole,
        dtype: Dtype::F32,
        peer: None,
        elems: 4,
    }
}

fn begin(watch: &Watch, seq: u64, deadline: Option<Duration>) {
    watch.begin(seq, &format!("op {seq}"), deadline, &[call(seq)]).unwrap();
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Between(failure) => *failure,
        other => panic!("{other}"),
    }
}

/// The first failure that a rank learns of, and after how long.
fn learn(watch: &Watch, within: Duration) -> (Failure, Duration) {
    let begin = Instant::now();
    loop {
        if let Err(error) = watch.check() {
            return (failure(error), begin.elapsed());
        }
        assert!(begin.elapsed() < within, "nothing was said within {within:?}");
        std::thread::sleep(ms(1));
    }
}

/// A failure that a transport could report.
fn torn() -> Failure {
    Failure {
        kind: FailureKind::Library { call: "ncclAllGather", code: 6, why: "remote error".into() },
        rank: 0,
        comm: "world".into(),
        seq: Some(0),
        op: String::new(),
        culprits: Vec::new(),
        elapsed_ms: 0,
    }
}

#[test]
fn after_a_failure_every_call_is_poisoned_at_once_with_one_cause() {
    let store = memory();
    // Long enough for signs of life that say who has begun.
    let options = Options { deadline: ms(400), ..options() };
    let ranks: Vec<_> = (0..3).map(|rank| start(&store, rank, 3, options.clone())).collect();
    ranks.iter().take(2).for_each(|(_, watch)| begin(watch, 0, None));
    let mut causes = Vec::new();
    for (_, watch) in &ranks {
        let (first, _) = learn(watch, ms(1500));
        assert!(!matches!(first.kind, FailureKind::Poisoned { .. }), "{first}");
        for i in 0..1000 {
            let begin = Instant::now();
            let error = if i % 2 == 0 { watch.check() } else { watch.begin(1, "more", None, &[call(1)]) };
            assert!(begin.elapsed() < ms(20), "{:?}", begin.elapsed());
            let FailureKind::Poisoned { first_cause } = failure(error.unwrap_err()).kind else {
                panic!("not poisoned")
            };
            assert_eq!(first_cause, first.to_string());
        }
        let begin = Instant::now();
        (0..1000).for_each(|_| assert!(watch.check().is_err()));
        assert!(begin.elapsed() < ms(1000), "more than a millisecond a call: {:?}", begin.elapsed());
        causes.push((first.seq, first.culprits.clone()));
    }
    // Rank 2 never called the op.
    assert!(causes.iter().all(|cause| *cause == (Some(0), vec![2])), "{causes:?}");
}

#[test]
fn ranks_that_are_not_neighbours_learn_within_two_periods() {
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
}

#[test]
fn an_op_has_its_own_deadline_which_runs_from_the_end_of_the_op_before() {
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
}

#[test]
fn ops_end_by_what_a_probe_counts() {
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
}

#[test]
fn an_abort_that_does_not_return_is_unrecoverable_and_holds_nobody() {
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
}

/// A store of which one rank's end can be cut.
struct Cut {
    inner: Arc<dyn Store>,
    how: Mutex<How>,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Whole,
    /// Calls fail.
    Fails,
    /// Calls do not return.
    Hangs,
    /// What this rank says is lost; what others say arrives.
    Mute,
    /// What others say is lost; what this rank says arrives.
    Deaf,
}

impl Cut {
    fn new(inner: &Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), how: Mutex::new(How::Whole) })
    }

    fn be(&self, how: How) {
        *self.how.lock().unwrap() = how;
    }

    /// True if the call is to go on.
    fn pass(&self, writes: bool) -> Result<bool> {
        loop {
            let how = *self.how.lock().unwrap();
            return match how {
                How::Whole => Ok(true),
                How::Fails => Err(Error::Data("connection refused".into())),
                How::Mute => Ok(!writes),
                How::Deaf => Ok(writes),
                How::Hangs => {
                    std::thread::sleep(ms(5));
                    continue;
                }
            };
        }
    }
}

impl Store for Cut {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        if self.pass(true)? { self.inner.set(key, value) } else { Ok(()) }
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        if self.pass(false)? { self.inner.read(key) } else { Ok(None) }
    }

    fn wait(&self, key: &str, deadline: Instant) -> Result<Vec<u8>> {
        self.inner.wait(key, deadline)
    }

    fn claim(&self, key: &str, value: &[u8]) -> Result<Vec<u8>> {
        if self.pass(true)? { self.inner.claim(key, value) } else { Ok(value.to_vec()) }
    }
}

#[test]
fn a_rank_that_has_started_has_given_a_sign_of_life() {
    // Whoever ends at once is noticed only if it was seen to live before.
    for _ in 0..20 {
        let store = memory();
        let (dog, _) = start(&store, 0, 2, options());
        assert!(store.read("watch/beat/0").unwrap().is_some());
        dog.goodbye();
    }
    // A store that hangs does not hold the start.
    let cut = Cut::new(&memory());
    cut.be(How::Hangs);
    let store: Arc<dyn Store> = cut.clone();
    let begin = Instant::now();
    let (dog, _) = start(&store, 0, 2, options());
    assert!(begin.elapsed() < ms(800), "{:?}", begin.elapsed());
    cut.be(How::Whole);
    drop(dog);
}

#[test]
fn a_store_that_hangs_keeps_no_deadline_from_passing() {
    let cut = Cut::new(&memory());
    let store: Arc<dyn Store> = cut.clone();
    let (dog, watch) = start(&store, 0, 2, Options { deadline: ms(300), ..options() });
    begin(&watch, 0, None);
    cut.be(How::Hangs);
    let (failure, after) = learn(&watch, ms(1500));
    assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}");
    assert!(after < ms(800), "{after:?}");
    let begin = Instant::now();
    drop(dog);
    assert!(begin.elapsed() < ms(700), "{:?}", begin.elapsed());
    cut.be(How::Whole);
}

#[test]
fn a_store_that_is_gone_is_an_error_after_the_time_for_lost_ranks() {
    let cut = Cut::new(&memory());
    let store: Arc<dyn Store> = cut.clone();
    let (_dog, watch) = start(&store, 0, 2, Options { lost_after: ms(400), ..options() });
    cut.be(How::Fails);
    let (failure, after) = learn(&watch, ms(1500));
    let text = failure.to_string();
    assert!(text.contains("the store cannot be reached: connection refused"), "{text}");
    assert!(after > ms(390) && after < ms(900), "{after:?}");
}

/// A11 for the ranks' link to the store: three ranks, that of rank 2 is cut.
fn cut_off(how: How, heals: bool) -> Vec<Option<(Failure, Duration)>> {
    let store = memory();
    let cut = Cut::new(&store);
    let own: Arc<dyn Store> = cut.clone();
    let lost_after = ms(600);
    let options = Options { lost_after, deadline: ms(1200), ..options() };
    let ranks: Vec<_> =
        (0..3).map(|rank| start(if rank == 2 { &own } else { &store }, rank, 3, options.clone())).collect();
    std::thread::sleep(ms(150));
    cut.be(how);
    let begin = Instant::now();
    let mut told = vec![None; 3];
    while begin.elapsed() < ms(1300) && told.iter().any(Option::is_none) {
        if heals && begin.elapsed() > lost_after / 2 {
            cut.be(How::Whole);
        }
        for ((_, watch), told) in ranks.iter().zip(&mut told).filter(|(_, told)| told.is_none()) {
            *told = watch.check().err().map(|error| (failure(error), begin.elapsed()));
        }
        std::thread::sleep(ms(2));
    }
    cut.be(How::Whole);
    ranks.into_iter().for_each(|(dog, _)| dog.goodbye());
    told
}

#[test]
fn a_rank_that_is_cut_off_is_lost_to_the_others_and_they_to_it() {
    for how in [How::Fails, How::Mute, How::Hangs] {
        let told = cut_off(how, false);
        for (rank, told) in told.iter().enumerate().take(2) {
            let (failure, after) = told.as_ref().unwrap();
            assert!(matches!(failure.kind, FailureKind::PeerLost { .. }), "rank {rank}: {failure}");
            assert_eq!(failure.culprits, [2], "rank {rank}: {failure}");
            assert!(*after < ms(1100), "rank {rank}: {after:?}");
        }
    }
    // It hears nobody: they are lost to it, and it can still say so.
    let told = cut_off(How::Deaf, false);
    for told in told {
        let (failure, after) = told.unwrap();
        assert!(
            failure.rank == 2
                || failure.to_string().contains("says rank 2")
                || matches!(failure.kind, FailureKind::Aborted { .. }),
            "{failure}"
        );
        assert!(after < ms(1100), "{after:?}");
    }
}

#[test]
fn a_link_that_heals_in_time_harms_nobody() {
    for how in [How::Fails, How::Mute, How::Deaf, How::Hangs] {
        let told = cut_off(how, true);
        assert!(told.iter().all(Option::is_none), "{told:?}");
    }
}

#[test]
fn cancelled_from_another_thread_every_rank_is_aborted() {
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
}

#[test]
fn a_rank_that_drops_or_panics_with_an_op_in_flight_is_lost_at_once() {
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
}

#[test]
fn a_goodbye_is_no_failure_unless_an_op_waits_for_the_one_who_left() {
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
}

#[test]
fn a_lost_rank_explains_an_error_of_the_transport() {
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
}

#[test]
fn a_lock_is_one_ranks_and_is_free_again_when_it_ends() {
    let folder = scratch("lock");
    let first = Presence::hold(&folder, 3).unwrap();
    let begin = Instant::now();
    let error = Presence::hold(&folder, 3).unwrap_err().to_string();
    assert!(error.contains("another process has it"), "{error}");
    assert!(begin.elapsed() < ms(2000));
    drop(first);
    Presence::hold(&folder, 3).unwrap();
    assert!(Presence::hold(Path::new("/proc/no/such/folder"), 0).is_err());
}

#[test]
fn a_failure_leaves_a_flight_record_of_every_communicator() {
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
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let start = |rank, options| Watchdog::start(memory(), rank, 2, options, None).map(|_| ()).unwrap_err().to_string();
    assert!(start(2, options()).contains("rank 2 of 2"));
    assert!(start(0, Options { prefix: "a b".into(), ..options() }).contains("prefix"));
    assert!(start(0, Options { prefix: "a".repeat(60), ..options() }).contains("at most 50"));
    assert!(start(0, Options { period: Duration::ZERO, ..options() }).contains("longer than 0"));
}

/// An empty folder of this test's.
pub(crate) fn scratch(name: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failure").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
