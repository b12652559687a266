//! Communicators of the CUDA executor under a watchdog, on the mock driver and the mock NCCL: runs
//! end as they do without one, a rank that leaves is lost at once and by name where NCCL would say
//! nothing, and the flight records hold what was called.
#![cfg(feature = "nccl")]

mod emulation;
mod mock;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use seqpar::comm::flight::{self, Dump};
use seqpar::comm::nccl::{Communicator, Config, Library, UniqueId};
use seqpar::comm::signature::agree;
use seqpar::comm::watchdog::{Options, Watchdog};
use seqpar::cuda::{Context, DeviceMemory, Priority, Stream};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Failure, FailureKind};
use seqpar::exec::cuda::{Bound, CudaOptions, Nccl, prepare_rank};
use seqpar::plan::{Checked, Plan, Role};
use seqpar::rendezvous::{MemoryStore, Store};

use mock::layers::{kernels, plans};
use mock::{Mock, on_mock};
use support::cases::Case;
use support::worlds::worlds;

const RANKS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(20);

/// The plans of a world, the store that its ranks share, and its identity.
fn world(mock: &Mock) -> (Vec<Checked<Plan>>, Arc<dyn Store>, UniqueId) {
    mock.configure("sms=4 devices=4 host=thread");
    let world = worlds(RANKS).into_iter().find(|world| world.strategy.name() == "ulysses").unwrap();
    let plans = plans(&Case::plain(Dtype::Bf16, 7, 2, 32), &world, RANKS);
    (plans, Arc::new(MemoryStore::default()), Library::load(None).unwrap().unique_id().unwrap())
}

/// Prepares a rank under a watchdog, and has `body` run it.
fn watched<T>(
    rank: usize,
    plans: &[Checked<Plan>],
    store: &Arc<dyn Store>,
    id: &UniqueId,
    body: impl FnOnce(&mut Bound<'_>, &Stream, Watchdog, &Nccl) -> T,
) -> T {
    let library = Library::load(None).unwrap();
    let (_held, context) = (Context::primary(rank as i32).unwrap(), Context::primary(rank as i32).unwrap());
    let kernels = kernels(&context);
    agree(&**store, "layer", &plans[rank], Instant::now() + DEADLINE).unwrap();
    let config = Config::default();
    let nccl = Nccl::new(Communicator::new(&library, id, rank, RANKS, &config, DEADLINE).unwrap());
    let watchdog = Watchdog::start(store.clone(), rank, RANKS, Options::default(), None).unwrap();
    let transport = nccl.transport(plans, false, &config, DEADLINE).unwrap();
    nccl.watch(&watchdog).unwrap();
    let mut options = CudaOptions::default();
    options.deadline = DEADLINE;
    let prepared = prepare_rank(context, kernels, plans[rank].clone(), transport, options).unwrap();
    let memory: Vec<Option<DeviceMemory>> = plans[rank]
        .buffers
        .iter()
        .map(|buffer| (buffer.role != Role::Temp).then(|| DeviceMemory::new(buffer.bytes()).unwrap()))
        .collect();
    let stream = Stream::new(Priority::Low).unwrap();
    memory.iter().flatten().for_each(|memory| memory.fill(0, &stream).unwrap());
    let addresses: Vec<_> = memory.iter().map(|memory| memory.as_ref().map(DeviceMemory::address)).collect();
    // SAFETY: the memory lives longer than the result, and nobody else uses it.
    let mut bound = unsafe { prepared.bind(&[addresses]) }.unwrap();
    body(&mut bound, &stream, watchdog, &nccl)
}

fn between(error: Error) -> Failure {
    match error {
        Error::Between(failure) => *failure,
        other => panic!("{other}"),
    }
}

#[test]
fn watched_runs_end_well_and_are_on_record() {
    on_mock(|mock| {
        let (plans, store, id) = world(mock);
        let dumps: Vec<Vec<Dump>> = mock.ranks(RANKS, |rank| {
            watched(rank, &plans, &store, &id, |bound, stream, watchdog, _| {
                for _ in 0..3 {
                    bound.run(stream).unwrap();
                    bound.finish().unwrap();
                }
                // The ends are noticed by the watchdog, a period later.
                let is_known = |dump: &Dump| dump.calls.iter().all(|call| call.completed_ns.is_some());
                wait_for("the watchdog", || watchdog.dumps().iter().all(is_known));
                watchdog.check().unwrap();
                let dumps = watchdog.dumps();
                watchdog.goodbye();
                dumps
            })
        });
        let calls = plans[0].comms.len();
        for dumps in &dumps {
            assert_eq!(dumps.len(), 1, "one communicator");
            let ops: std::collections::BTreeSet<u64> = dumps[0].calls.iter().map(|call| call.signature.seq).collect();
            assert_eq!(ops.len(), 3 * calls);
            assert!(dumps[0].calls.iter().all(|call| call.completed_ns.is_some()));
        }
        let all: Vec<Dump> = dumps.into_iter().flatten().collect();
        assert_eq!(flight::compare(&all), []);
    });
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < DEADLINE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all ranks have come.
fn meet(come: &AtomicUsize) {
    come.fetch_add(1, Ordering::AcqRel);
    wait_for("all ranks", || come.load(Ordering::Acquire) >= RANKS);
}

/// Label of the first communication of a rank's plan.
fn first_communication(plan: &Plan) -> &str {
    plan.label(plan.op_ids().find(|op| plan.comm(*op).is_some()).unwrap())
}

#[test]
fn an_op_ends_when_its_stream_has_passed_it() {
    on_mock(|mock| {
        let (plans, store, id) = world(mock);
        const RUNS: usize = 3;
        mock.ranks(RANKS, |rank| {
            watched(rank, &plans, &store, &id, |bound, stream, watchdog, _| {
                for _ in 0..RUNS {
                    bound.run(stream).unwrap();
                }
                // Nobody finishes them: the caller has other means to wait.
                wait_for("the streams", || stream.is_done().unwrap());
                wait_for("the watchdog", || {
                    let calls = watchdog.dumps().remove(0).calls;
                    calls.len() > RUNS && calls.iter().all(|call| call.completed_ns.is_some())
                });
                bound.finish().unwrap();
                watchdog.goodbye();
            })
        });
    });
}

#[test]
fn a_rank_that_leaves_is_lost_by_name_where_nccl_says_nothing() {
    on_mock(|mock| {
        let (plans, store, id) = world(mock);
        let enqueued = AtomicUsize::new(0);
        let ends: Vec<Option<(Failure, Duration)>> = mock.ranks(RANKS, |rank| {
            watched(rank, &plans, &store, &id, |bound, stream, watchdog, _| {
                bound.run(stream).unwrap();
                bound.finish().unwrap();
                if rank == 1 {
                    // Not before the others are under way, however busy the machine is.
                    wait_for("the others", || enqueued.load(Ordering::Acquire) == RANKS - 1);
                    drop(watchdog);
                    // Its communicators stay, as those of a process that is stuck in its end do.
                    std::thread::sleep(Duration::from_secs(2));
                    return None;
                }
                bound.run(stream).unwrap();
                enqueued.fetch_add(1, Ordering::Release);
                if rank == 2 {
                    // Asks late: the watchdog has aborted, and the streams have gone on.
                    wait_for("the watchdog", || watchdog.failure().is_some());
                    std::thread::sleep(Duration::from_millis(200));
                }
                let begin = Instant::now();
                let error = bound.finish().map(drop).unwrap_err();
                let took = begin.elapsed();
                let later = between(bound.run(stream).unwrap_err());
                assert!(matches!(later.kind, FailureKind::Poisoned { .. }), "{later}");
                Some((between(error), took))
            })
        });
        for (rank, end) in ends.into_iter().enumerate().filter(|(rank, _)| *rank != 1) {
            let (failure, took) = end.unwrap();
            assert!(matches!(failure.kind, FailureKind::PeerLost { .. }), "rank {rank}: {failure}");
            assert_eq!((failure.rank, failure.culprits.as_slice()), (rank, [1].as_slice()), "{failure}");
            // The first of the second run.
            assert_eq!(failure.op, first_communication(&plans[rank]), "{failure}");
            assert_eq!(failure.seq, Some(plans[rank].comms.len() as u64), "{failure}");
            assert!(took < DEADLINE / 2, "rank {rank}: {took:?}");
        }
    });
}

#[test]
fn an_abort_from_elsewhere_names_the_op_at_which_the_streams_stood() {
    on_mock(|mock| {
        let (plans, store, id) = world(mock);
        let (all_have_run, is_over) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ends: Vec<Option<Failure>> = mock.ranks(RANKS, |rank| {
            watched(rank, &plans, &store, &id, |bound, stream, watchdog, nccl| {
                bound.run(stream).and_then(|()| bound.finish()).unwrap();
                meet(&all_have_run);
                let end = (rank == 0).then(|| {
                    // Two, which both wait for the other ranks.
                    bound.run(stream).and_then(|()| bound.run(stream)).unwrap();
                    let aborts = nccl.abort_handles();
                    let abort = move || aborts.iter().try_for_each(|abort| abort.abort("a test"));
                    std::thread::spawn(abort).join().unwrap().unwrap();
                    // The streams go on, over work that was never done.
                    wait_for("the streams", || stream.is_done().unwrap());
                    between(bound.finish().map(drop).unwrap_err())
                });
                meet(&is_over);
                watchdog.goodbye();
                end
            })
        });
        let failure = ends.into_iter().flatten().next().unwrap();
        assert_eq!((failure.rank, failure.op.as_str()), (0, first_communication(&plans[0])), "{failure}");
        assert_eq!(failure.seq, Some(plans[0].comms.len() as u64), "{failure}");
        assert!(failure.to_string().contains("a test"), "{failure}");
    });
}
