//! The CUDA executor with a rank a thread, over NCCL: the unmodified executor and NCCL layer on the
//! mock driver and the mock NCCL. Every strategy at 1 to 4 ranks, eager and as a graph, gates as
//! events and as flags, in every scheduling mode with 20 seeds (`SEQPAR_SEEDS`): no race is reported,
//! the bits are those of loopback, bytes are the plan's, and a rank that goes away is an error that
//! names the op.
#![cfg(feature = "nccl")]

mod emulation;
mod mock;
mod support;

use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config, Library};
use seqpar::cuda::{Context, Priority, Stream};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Failure, FailureKind};
use seqpar::exec::cuda::{CudaOptions, Kernels, Nccl, RankThreads, prepare, prepare_rank, run_tensors};
use seqpar::exec::host::{self, HostOptions};
use seqpar::exec::{HostTensor, Report, SpanKind};
use seqpar::plan::lower::{Command, Gates, Lowered};
use seqpar::plan::{Builder, Checked, CommKind, Direction, Placement, Plan, Role, View, check_world};

use mock::layers::{kernels, layer, plans, schedules};
use mock::{MODES, Mock, on_mock};
use support::cases::{Case, layer_inputs};
use support::stalls::unless_stalled;
use support::worlds::{World, worlds};
use support::{Rng, Tensors, assert_same_bits};

/// Gates, graph.
const WAYS: [(Gates, bool); 4] =
    [(Gates::Events, false), (Gates::Events, true), (Gates::Flags, false), (Gates::Flags, true)];
const DEVICES: [i32; 4] = [0, 1, 2, 3];
/// Of what must not be late: longer than a busy machine can starve a thread.
const DEADLINE: Duration = Duration::from_secs(120);

fn world_named(ranks: usize, name: &str) -> World {
    worlds(ranks).into_iter().find(|world| world.strategy.name() == name).unwrap()
}

fn loopback(plans: Vec<Checked<Plan>>, inputs: &Tensors) -> Tensors {
    let context = Context::primary(0).unwrap();
    let kernels = kernels(&context);
    let prepared = prepare(context, kernels, plans, CudaOptions::default()).unwrap();
    run_tensors(&prepared, inputs, 1).unwrap().0
}

struct Setting {
    library: Library,
    options: CudaOptions,
    config: Config,
    native_sums: bool,
}

impl Setting {
    fn new((gates, graph): (Gates, bool)) -> Self {
        let mut options = CudaOptions::default();
        (options.gates, options.graph, options.deadline) = (gates, graph, DEADLINE);
        options.sms = (gates == Gates::Flags).then_some(2);
        let config = Config { op_deadline: DEADLINE, ..Config::default() };
        Self { library: Library::load(None).unwrap(), options, config, native_sums: false }
    }

    fn threads(&self, ranks: usize) -> RankThreads<'_> {
        RankThreads {
            library: &self.library,
            devices: &DEVICES[..ranks],
            kernels: &|context| Ok(kernels(context)),
            options: &self.options,
            config: &self.config,
            native_sums: self.native_sums,
            deadline: DEADLINE,
        }
    }

    fn run(&self, plans: &[Checked<Plan>], inputs: &Tensors, times: usize) -> seqpar::Result<(Tensors, Report)> {
        self.threads(plans.len()).run_tensors(plans, inputs, times)
    }
}

/// Runs it, and holds the mock to have nothing to say.
fn clean(
    mock: &Mock,
    setting: &Setting,
    plans: &[Checked<Plan>],
    inputs: &Tensors,
    times: usize,
    what: &str,
) -> (Tensors, Report) {
    let result = setting.run(plans, inputs, times);
    mock.assert_clean(what);
    let result = result.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
    result
}

/// Every strategy of so many ranks, in every schedule.
fn every_strategy_has_the_bits_of_loopback(mock: &Mock, ranks: usize) {
    mock.configure("sms=4 devices=4 host=thread");
    let case = Case { text: 3, ..Case::plain(Dtype::Bf16, 13, 4, 32) };
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
    let of_one_rank = loopback(plans(&case, &worlds(1)[0], 1), &inputs);
    let mut runs = 0;
    for world in worlds(ranks) {
        let plans = plans(&case, &world, ranks);
        let mut on_host = host::prepare(plans.clone(), HostOptions::default()).unwrap();
        let on_host = host::run_tensors(&mut on_host, &inputs).unwrap().0;
        mock.reset("late", 1);
        let by_loopback = loopback(plans.clone(), &inputs);
        for (mode, seed, gates, graph) in schedules() {
            let what = format!("{} of {ranks} ranks, {mode}, seed {seed}, {gates:?}, graph {graph}", world.name());
            mock.reset(mode, seed);
            // Races within kernels are looked for in one seed of a mode, and by their own tests.
            mock.configure(&format!("check={}", u8::from(seed == 0 && mode == "random")));
            runs += 1;
            let (outputs, report) = clean(mock, &Setting::new((gates, graph)), &plans, &inputs, 2, &what);
            assert_same_bits(&what, &outputs, &by_loopback);
            let bytes: Vec<u64> = plans.iter().map(|plan| plan.bytes_sent()).collect();
            assert_eq!(report.bytes_sent, bytes, "{what}");
        }
        if world.keeps_bits() {
            assert_same_bits(&world.name(), &by_loopback, &of_one_rank);
        }
        assert_near(&world.name(), &by_loopback, &on_host);
    }
    println!("{runs} worlds of {ranks} ranks, each run twice");
}

mod worlds_of {
    crate::mock::on_one_to_four_ranks!(super::every_strategy_has_the_bits_of_loopback);
}

#[test]
fn twenty_replays_have_the_bits_of_one_run() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case::plain(Dtype::Bf16, 7, 3, 32);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(8));
        for (name, mode) in [("fastseq", "random"), ("megatron", "threads")] {
            mock.reset(mode, 5);
            let plans = plans(&case, &world_named(3, name), 3);
            let eager = clean(mock, &Setting::new(WAYS[0]), &plans, &inputs, 1, name).0;
            for times in [1, 20] {
                let replayed = clean(mock, &Setting::new(WAYS[1]), &plans, &inputs, times, name).0;
                assert_same_bits(name, &replayed, &eager);
            }
        }
    });
}

/// Each wait of one rank's lowered form dropped in turn: each is around a communication, and the
/// mock reports it.
#[test]
fn a_dropped_wait_is_reported() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case::plain(Dtype::Bf16, 7, 2, 32);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(9));
        let (mut dropped, mut silent) = (0, Vec::new());
        for name in ["fastseq", "ulysses", "ring", "megatron", "kv-gather"] {
            let plans = plans(&case, &world_named(2, name), 2);
            let whole: Vec<Lowered> = plans.iter().map(|plan| plan.lowered(Gates::Events)).collect();
            for (stream, commands) in whole[0].streams.iter().enumerate() {
                for (position, _) in commands.iter().enumerate().filter(|(_, c)| matches!(c, Command::Wait(_))) {
                    let mut lowered = whole.clone();
                    lowered[0].streams[stream].remove(position);
                    let reported = MODES.iter().any(|mode| {
                        mock.reset(mode, 3);
                        let _ = Setting::new(WAYS[0]).threads(2).run_lowered(&plans, &lowered, &inputs, 2);
                        !mock.reports().is_empty()
                    });
                    dropped += 1;
                    if !reported {
                        silent.push(format!("{name} stream {stream} command {position}"));
                    }
                }
            }
        }
        println!("{dropped} waits dropped");
        assert!(dropped > 10, "{dropped} waits");
        assert_eq!(silent, Vec::<String>::new());
    });
}

/// A rank that dies as one on the same node does, of which NCCL says nothing.
#[test]
fn a_rank_that_dies_silently_is_a_timeout_that_names_the_op() {
    unless_stalled(|| {
        on_mock(|mock| {
            mock.configure("sms=4 devices=4 host=thread");
            let case = Case::plain(Dtype::Bf16, 7, 3, 32);
            let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(10));
            for (nth, name) in ["fastseq", "megatron", "ring"].into_iter().enumerate() {
                let plans = plans(&case, &world_named(3, name), 3);
                for graph in [false, true] {
                    let what = format!("{name}, graph {graph}");
                    mock.reset(MODES[nth], 2);
                    mock.configure("die=1:2");
                    let mut setting = Setting::new((Gates::Events, graph));
                    setting.options.deadline = Duration::from_secs(3);
                    let begin = Instant::now();
                    let failure = between(setting.run(&plans, &inputs, 1).unwrap_err());
                    assert!(begin.elapsed() < Duration::from_secs(12), "{what}: {:?}", begin.elapsed());
                    assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{what}: {failure}");
                    // Ops are counted by the rank; the second one is the first that nobody sees.
                    let plan = &plans[failure.rank];
                    let ops: Vec<&str> =
                        plan.op_ids().filter(|op| plan.comm(*op).is_some()).map(|op| plan.label(op)).collect();
                    assert_eq!(failure.op, ops[1], "{what}: {failure}");
                    assert_eq!((failure.comm.as_str(), failure.seq), ("world", Some(1)), "{what}: {failure}");
                    mock.configure("reset die=-1:0");
                    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
                }
            }
        });
    });
}

/// What ended in the run before counts for nothing.
#[test]
fn a_rank_that_dies_in_a_second_run_is_missed_at_its_first_op() {
    unless_stalled(|| {
        on_mock(|mock| {
            mock.configure("sms=4 devices=4 host=thread");
            let case = Case::plain(Dtype::Bf16, 7, 3, 32);
            let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(10));
            let plans = plans(&case, &world_named(3, "fastseq"), 3);
            let ops =
                |rank: usize| plans[rank].op_ids().filter(|op| plans[rank].comm(*op).is_some()).collect::<Vec<_>>();
            mock.reset("late", 2);
            mock.configure(&format!("die=1:{}", ops(1).len() + 1));
            let mut setting = Setting::new(WAYS[0]);
            // The first run must end before it on a busy machine too.
            setting.options.deadline = Duration::from_secs(5);
            let failure = between(setting.run(&plans, &inputs, 2).unwrap_err());
            assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}");
            let own = ops(failure.rank);
            assert_eq!(failure.op, plans[failure.rank].label(own[0]), "{failure}");
            assert_eq!(failure.seq, Some(own.len() as u64), "{failure}");
            mock.configure("reset die=-1:0");
        });
    });
}

/// In the first run a rank may learn of it before its first op; in the second all have called some.
#[test]
fn a_rank_whose_death_is_told_is_lost_at_the_op() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case::plain(Dtype::Bf16, 7, 2, 32);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(11));
        let plans = plans(&case, &world_named(3, "fastseq"), 3);
        let ops = plans[1].op_ids().filter(|op| plans[1].comm(*op).is_some()).count();
        for at in [2, ops + 2] {
            mock.reset("late", 2);
            mock.configure(&format!("die=1:{at} death=remote"));
            let begin = Instant::now();
            let failure = between(Setting::new(WAYS[0]).run(&plans, &inputs, 2).unwrap_err());
            assert!(begin.elapsed() < DEADLINE / 2, "no deadline is needed: {:?}", begin.elapsed());
            assert!(matches!(failure.kind, FailureKind::PeerLost { .. }), "{failure}");
            let may_lack = at == 2 && failure.seq.is_none();
            assert!((may_lack || !failure.op.is_empty()) && failure.rank != 1, "{at}: {failure}");
            mock.configure("reset die=-1:0 death=silent");
        }
    });
}

/// The device never lets go of what was aborted: that is an error too, and nothing waits for it.
#[test]
fn an_abort_that_does_not_return_is_left_behind() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case::plain(Dtype::Bf16, 7, 2, 32);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(14));
        let plans = plans(&case, &world_named(2, "ulysses"), 2);
        mock.reset("late", 2);
        mock.configure("die=1:1 hang=ncclCommAbort:1");
        let mut setting = Setting::new(WAYS[0]);
        setting.options.deadline = Duration::from_millis(500);
        setting.config.reaper_deadline = Duration::from_millis(300);
        let begin = Instant::now();
        between(setting.run(&plans, &inputs, 1).unwrap_err());
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
        mock.assert_clean("nothing waits for the device");
        mock.configure("hang= die=-1:0");
    });
}

/// NCCL may end an abort only when all ranks of the host and all communicators of the device are aborted.
#[test]
fn aborts_do_not_wait_for_those_that_come_after() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case::plain(Dtype::Bf16, 8, 4, 32);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(13));
        let square = worlds(4).into_iter().find(|world| (world.mesh.ulysses, world.mesh.ring) == (2, 2)).unwrap();
        let plans = plans(&case, &square, 4);
        let mut setting = Setting::new(WAYS[0]);
        setting.options.deadline = Duration::from_secs(3);
        // A rank of which nothing is heard any more, and one that fails alone.
        for fault in ["die=1:2", "fail=cuLaunchKernelEx:9=1"] {
            mock.reset("late", 2);
            mock.configure(&format!("abort=waits {fault}"));
            let begin = Instant::now();
            let error = setting.run(&plans, &inputs, 1).unwrap_err();
            assert!(begin.elapsed() < setting.config.reaper_deadline, "{fault}: {error}");
            match error {
                Error::Between(failure) => assert!(matches!(failure.kind, FailureKind::Timeout { .. }), "{failure}"),
                Error::Cuda { .. } | Error::Rank { .. } => assert!(fault.starts_with("fail"), "{error}"),
                other => panic!("{fault}: {other}"),
            }
            mock.assert_clean(fault);
            mock.configure("reset abort=returns die=-1:0");
            assert_eq!(mock.leaks(), Vec::<String>::new(), "{fault}");
        }
    });
}

/// Each rank has one of its communicators aborted from elsewhere, another one each; the ends of all of
/// them hang together.
#[test]
fn a_finalize_ends_all_communicators_at_once() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let square = worlds(4).into_iter().find(|world| (world.mesh.ulysses, world.mesh.ring) == (2, 2)).unwrap();
        let plans = plans(&Case::plain(Dtype::Bf16, 8, 4, 32), &square, 4);
        let library = Library::load(None).unwrap();
        let id = library.unique_id().unwrap();
        mock.configure("abort=waits");
        let ended = mock.ranks(4, |rank| {
            let _held = Context::primary(rank as i32).unwrap();
            let config = Config::default();
            let nccl = Nccl::new(Communicator::new(&library, &id, rank, 4, &config, DEADLINE).unwrap());
            nccl.transport(&plans, false, &config, DEADLINE).unwrap();
            let handles = nccl.abort_handles();
            assert_eq!(handles.len(), 3, "the world, a ulysses group, a ring");
            let begin = Instant::now();
            let failure = std::thread::scope(|scope| {
                let handle = &handles[rank % 3];
                let aborter = scope.spawn(|| handle.abort("a test"));
                while !handle.has_ended() {
                    std::thread::yield_now();
                }
                let failure = between(nccl.finalize(DEADLINE).unwrap_err());
                aborter.join().unwrap().unwrap();
                failure
            });
            assert!(begin.elapsed() < config.reaper_deadline, "{:?}", begin.elapsed());
            failure.kind
        });
        for kind in ended {
            assert!(matches!(kind, FailureKind::Aborted { .. } | FailureKind::Poisoned { .. }), "{kind}");
        }
        mock.assert_clean("ends");
        mock.configure("reset abort=returns");
        assert_eq!(mock.leaks(), Vec::<String>::new());
    });
}

/// One of three ranks never runs; the others fail by their deadline, and from then on at once.
#[test]
fn after_a_failure_every_run_says_so_at_once() {
    unless_stalled(|| {
        on_mock(|mock| {
            mock.configure("sms=4 devices=4 host=thread");
            let case = Case::plain(Dtype::Bf16, 7, 2, 32);
            let plans = plans(&case, &world_named(3, "ulysses"), 3);
            let library = Library::load(None).unwrap();
            let id = library.unique_id().unwrap();
            let errors = mock.ranks(3, |rank| {
                let (held, context) = (Context::primary(rank as i32).unwrap(), Context::primary(rank as i32).unwrap());
                let kernels = kernels(&context);
                let config = Config::default();
                let nccl = Nccl::new(Communicator::new(&library, &id, rank, 3, &config, DEADLINE).unwrap());
                let transport = nccl.transport(&plans, false, &config, DEADLINE).unwrap();
                let mut options = CudaOptions::default();
                options.deadline = Duration::from_millis(500);
                let prepared = prepare_rank(context, kernels, plans[rank].clone(), transport, options).unwrap();
                let memory: Vec<_> = plans[rank]
                    .buffers
                    .iter()
                    .map(|buffer| {
                        (buffer.role != Role::Temp).then(|| seqpar::cuda::DeviceMemory::new(buffer.bytes()).unwrap())
                    })
                    .collect();
                let stream = Stream::new(Priority::Low).unwrap();
                memory.iter().flatten().for_each(|memory| memory.fill(0, &stream).unwrap());
                let addresses: Vec<_> = memory.iter().map(|memory| memory.as_ref().map(|m| m.address())).collect();
                // SAFETY: the memory lives longer than the result, and nobody else uses it.
                let mut bound = unsafe { prepared.bind(&[addresses]) }.unwrap();
                if rank == 1 {
                    // Comes back when the others have given up.
                    std::thread::sleep(Duration::from_secs(2));
                    return Vec::new();
                }
                let first = bound.run(&stream).and_then(|()| bound.finish().map(drop)).unwrap_err();
                let begin = Instant::now();
                let later = bound.run(&stream).unwrap_err();
                assert!(begin.elapsed() < Duration::from_millis(50), "{:?}", begin.elapsed());
                drop(bound);
                drop((prepared, nccl, memory, held));
                vec![between(first), between(later)]
            });
            for rank in [0, 2] {
                assert!(matches!(errors[rank][0].kind, FailureKind::Timeout { .. }), "{}", errors[rank][0]);
                assert_eq!(errors[rank][0].rank, rank);
                assert!(matches!(errors[rank][1].kind, FailureKind::Poisoned { .. }), "{}", errors[rank][1]);
            }
        });
    });
}

#[test]
fn groups_get_communicators_of_their_own() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case::plain(Dtype::Bf16, 8, 4, 32);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(12));
        for (ulysses, ring) in [(2, 2), (4, 1)] {
            let square = |world: &World| (world.mesh.ulysses, world.mesh.ring) == (ulysses, ring);
            let world = worlds(4).into_iter().find(square).unwrap();
            mock.reset("random", 3);
            clean(mock, &Setting::new(WAYS[0]), &plans(&case, &world, 4), &inputs, 1, &world.name());
            let splits = mock.calls().into_iter().find(|(name, _)| name == "ncclCommSplit").map_or(0, |(_, n)| n);
            // Rows and columns of the mesh: two rounds on four ranks; the world's needs none.
            assert_eq!(splits, if ring == 2 { 8 } else { 0 }, "{}", world.name());
        }
    });
}

/// One communication of whole slots; `x` is `[ranks]` slots of 4 on each rank, `out` what it makes.
fn collective(kind: CommKind, rank: usize, ranks: usize) -> Plan {
    const SLOT: usize = 4;
    let mut b = Builder::new(rank, ranks);
    let (compute, comm) = (b.stream("compute"), b.stream("comm"));
    let placed = |tensor: &str, elems| {
        let dims = [1, 1, 1, elems];
        Some(Placement { tensor: format!("{tensor} of {rank}"), dims, index: [None, None, None, None] })
    };
    let all = SLOT * ranks;
    let made = if kind == CommKind::ReduceScatter { SLOT } else { all };
    let x = b.buffer("x", Role::Input, Dtype::F32, [1, 1, 1, all], placed("x", all));
    let out = b.buffer("out", Role::Output, Dtype::F32, [1, 1, 1, made], placed("out", made));
    let y = b.temp("y", Dtype::F32, [1, 1, 1, made]);
    let slot = |of: usize| SLOT * of..SLOT * (of + 1);
    let others = (0..ranks).filter(|&other| other != rank);
    let (send, recv) = (Direction::Send, Direction::Recv);
    let root = 1;
    let transfers: Vec<(Direction, usize, View)> = match kind {
        CommKind::AllGather => {
            b.copy(compute, "own", x.cols(slot(rank)), y.cols(slot(rank)));
            others.flat_map(|o| [(send, o, y.cols(slot(rank))), (recv, o, y.cols(slot(o)))]).collect()
        }
        CommKind::Broadcast if rank == root => others.map(|o| (send, o, x)).collect(),
        CommKind::Broadcast => vec![(recv, root, y)],
        CommKind::ReduceScatter => (0..ranks).map(|o| (send, o, x.cols(slot(o)))).chain([(recv, rank, y)]).collect(),
        _ => (0..ranks).map(|o| (send, o, x)).chain([(recv, rank, y)]).collect(),
    };
    let (tag, group) = (b.tag(), (0..ranks).collect::<Vec<_>>());
    b.comm(comm, kind.name(), kind, tag, &group, Dtype::F32, &transfers);
    let made = if kind == CommKind::Broadcast && rank == root { x } else { y };
    b.copy(compute, "out", made, out);
    b.finish()
}

#[test]
fn the_librarys_collectives_are_right() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let ranks = 3;
        let values = |rank: usize| (0..4 * ranks).map(|i| (10 * rank + i) as f32).collect::<Vec<f32>>();
        let tensor = |rank| HostTensor::from_f32(Dtype::F32, [1, 1, 1, 4 * ranks], &values(rank)).unwrap();
        let inputs: Tensors = (0..ranks).map(|rank| (format!("x of {rank}"), tensor(rank))).collect();
        let sum: Vec<f32> = (0..4 * ranks).map(|i| (0..ranks).map(|rank| values(rank)[i]).sum()).collect();
        for (kind, name) in [
            (CommKind::AllGather, "ncclAllGather"),
            (CommKind::Broadcast, "ncclBroadcast"),
            (CommKind::ReduceScatter, "ncclReduceScatter"),
            (CommKind::AllReduce, "ncclAllReduce"),
        ] {
            let plans = check_world((0..ranks).map(|rank| collective(kind, rank, ranks)).collect()).unwrap();
            for (native_sums, way) in [(false, WAYS[0]), (true, WAYS[0]), (true, WAYS[1])] {
                let what = format!("{name}, {native_sums}");
                mock.reset("random", 4);
                let setting = Setting { native_sums, ..Setting::new(way) };
                let (outputs, report) = clean(mock, &setting, &plans, &inputs, 2, &what);
                for rank in 0..ranks {
                    let want = match kind {
                        CommKind::AllGather => (0..ranks).flat_map(|of| values(of)[4 * of..][..4].to_vec()).collect(),
                        CommKind::Broadcast => values(1),
                        CommKind::ReduceScatter => sum[4 * rank..][..4].to_vec(),
                        _ => sum.clone(),
                    };
                    assert_eq!(outputs[&format!("out of {rank}")].to_f32(), want, "{what}, rank {rank}");
                }
                let used = mock.calls().iter().any(|(call, _)| call == name);
                assert_eq!(used, native_sums || !kind.reduces(), "{what}");
                assert_eq!(report.bytes_sent, plans.iter().map(|plan| plan.bytes_sent()).collect::<Vec<_>>(), "{what}");
            }
        }
    });
}

/// Sums whose order is seen in their bits: that of the group, by every transport.
#[test]
fn a_sum_is_made_in_group_order() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        // In this order 1, in any other that ends with a large one 0.
        let values = [1e8f32, -1e8, 1.0];
        let inputs: Tensors = (values.iter().enumerate())
            .map(|(rank, value)| {
                (format!("x of {rank}"), HostTensor::from_f32(Dtype::F32, [1, 1, 1, 12], &[*value; 12]).unwrap())
            })
            .collect();
        for kind in [CommKind::ReduceScatter, CommKind::AllReduce] {
            let plans = check_world((0..3).map(|rank| collective(kind, rank, 3)).collect()).unwrap();
            mock.reset("random", 4);
            let by_nccl = clean(mock, &Setting::new(WAYS[0]), &plans, &inputs, 1, kind.name()).0;
            for (transport, outputs) in [("nccl", by_nccl), ("loopback", loopback(plans, &inputs))] {
                for (name, tensor) in &outputs {
                    assert!(tensor.to_f32().iter().all(|&sum| sum == 1.0), "{transport} {name}: {:?}", tensor.to_f32());
                }
            }
        }
    });
}

#[test]
fn a_report_has_every_op_of_every_rank_eager_and_as_a_graph() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=4 host=thread");
        let case = Case::plain(Dtype::Bf16, 7, 2, 32);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(13));
        let plans = plans(&case, &world_named(3, "fastseq"), 3);
        for way in &WAYS[..2] {
            mock.reset("late", 1);
            let mut setting = Setting::new(*way);
            setting.options.timed = true;
            let (_, report) = clean(mock, &setting, &plans, &inputs, 3, "timed");
            for (rank, plan) in plans.iter().enumerate() {
                let spans: Vec<_> = report.spans.iter().filter(|span| span.rank == rank).collect();
                let mut labels: Vec<&str> = spans.iter().map(|span| &*span.op).collect();
                let mut ops: Vec<&str> = plan.op_ids().map(|op| plan.label(op)).collect();
                labels.sort_unstable();
                ops.sort_unstable();
                assert_eq!(labels, ops, "{way:?}");
                assert_eq!(report.streams[rank], plan.streams);
                let sent: u64 = spans.iter().filter(|span| span.kind == SpanKind::Comm).map(|span| span.bytes).sum();
                assert_eq!(sent, plan.bytes_sent());
                assert!(spans.iter().all(|span| span.end_ns <= report.wall_ns && span.begin_ns <= span.end_ns));
                assert!(spans.iter().any(|span| span.ns() > 0));
            }
        }
    });
}

#[test]
fn a_build_without_kernels_says_what_to_do() {
    on_mock(|_| {
        let context = Context::primary(0).unwrap();
        let kernels = Kernels::embedded(&context);
        match cfg!(feature = "kernels") {
            true => drop(kernels.unwrap()),
            false => assert!(kernels.unwrap_err().to_string().contains("the feature kernels")),
        }
    });
}

fn between(error: Error) -> Failure {
    let Error::Between(failure) = error else { panic!("{error:?}") };
    *failure
}

fn assert_near(what: &str, outputs: &Tensors, want: &Tensors) {
    for (name, tensor) in outputs {
        for (i, (got, want)) in tensor.to_f32().iter().zip(&want[name].to_f32()).enumerate() {
            // Outputs are near 1: a few roundings of bf16 lie between two executors.
            assert!((got - want).abs() <= 0.06, "{what} {name}[{i}]: {got}, not {want}");
        }
    }
}
