//! Watchdogs of ranks that are threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seqpar::comm::signature::{Part, Signature};
use seqpar::comm::watchdog::{Options, Probe, Watch, Watchdog};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Failure, FailureKind};
use seqpar::plan::CommKind;
use seqpar::rendezvous::{MemoryStore, Store};

pub(crate) const PERIOD: Duration = Duration::from_millis(50);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn options() -> Options {
    Options { period: PERIOD, ..Options::default() }
}

pub(crate) fn start(store: &Arc<dyn Store>, rank: usize, world: usize, options: Options) -> (Watchdog, Watch) {
    with_probe(store, rank, world, options, Probe::default())
}

pub(crate) fn with_probe(
    store: &Arc<dyn Store>,
    rank: usize,
    world: usize,
    options: Options,
    probe: Probe,
) -> (Watchdog, Watch) {
    let watchdog = Watchdog::start(store.clone(), rank, world, options, None).unwrap();
    let watch = watchdog.watch("world", &(0..world).collect::<Vec<_>>(), probe);
    (watchdog, watch)
}

pub(crate) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

pub(crate) fn call(seq: u64) -> Signature {
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

pub(crate) fn begin(watch: &Watch, seq: u64, deadline: Option<Duration>) {
    watch.begin(seq, &format!("op {seq}"), deadline, &[call(seq)]).unwrap();
}

pub(crate) fn failure(error: Error) -> Failure {
    match error {
        Error::Between(failure) => *failure,
        other => panic!("{other}"),
    }
}

/// The first failure that a rank learns of, and after how long.
pub(crate) fn learn(watch: &Watch, within: Duration) -> (Failure, Duration) {
    let begin = Instant::now();
    loop {
        if let Err(error) = watch.check() {
            return (failure(error), begin.elapsed());
        }
        assert!(begin.elapsed() < within, "nothing was said within {within:?}");
        std::thread::sleep(ms(1));
    }
}

/// Aborts run on threads of their own, which may come to it after the rank has learnt why.
pub(crate) fn await_abort(aborted: &AtomicBool) {
    let begin = Instant::now();
    while !aborted.load(Ordering::Acquire) {
        assert!(begin.elapsed() < ms(10_000), "not aborted");
        std::thread::sleep(ms(1));
    }
}

/// A failure that a transport could report.
pub(crate) fn torn() -> Failure {
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

/// An empty folder of this test's.
pub(crate) fn scratch(name: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failure").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
