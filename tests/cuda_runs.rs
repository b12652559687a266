//! Runs one behind the other, on the mock driver: on several streams of the caller, of several bindings
//! of one prepared world; runs that do not end, that die, that were never made; the caller's context
//! and stream as they were.
#![cfg(feature = "cuda")]

mod emulation;
mod mock;
mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use seqpar::cuda::{Context, DeviceMemory, Priority, Stream, capture, copy_device_to_device, wait_value, write_value};
use seqpar::dtype::Dtype;
use seqpar::error::Error;
use seqpar::exec::cuda::{
    Bound, CudaOptions, External, ExternalCall, Link, Prepared, prepare, prepare_lowered, with_tensors,
};
use seqpar::kernel::spec::Mode;
use seqpar::plan::lower::{Command, Gates, Lowered};
use seqpar::plan::{Builder, Checked, CommKind, Direction, Plan, Role, check_world};

use mock::layers::{kernels, layer, plans};
use mock::workload::context;
use mock::{MODES, on_mock};
use support::Rng;
use support::cases::{Case, layer_inputs};
use support::stalls::unless_stalled;
use support::worlds::worlds;

const ELEMS: usize = 64;

/// `x -> t` on one stream, "step" from t to u on another, `u -> y` on the first.
fn with_external(ranks: usize) -> Vec<Checked<Plan>> {
    let plan = |rank| {
        let mut b = Builder::new(rank, ranks);
        let (main, side) = (b.stream("main"), b.stream("side"));
        let dims = [1, 1, 1, ELEMS];
        let x = b.buffer("x", Role::Input, Dtype::F32, dims, None);
        let y = b.buffer("y", Role::Output, Dtype::F32, dims, None);
        let (t, u) = (b.temp("t", Dtype::F32, dims), b.temp("u", Dtype::F32, dims));
        b.copy(main, "take", x, t);
        b.external(side, "step", &[(t, Mode::Read), (u, Mode::Write)]);
        b.copy(main, "give", u, y);
        b.finish()
    };
    check_world((0..ranks).map(plan).collect()).unwrap()
}

fn options(deadline_ms: u64) -> CudaOptions {
    let mut options = CudaOptions::default();
    options.deadline = Duration::from_millis(deadline_ms);
    options
}

fn external(step: impl Fn(ExternalCall<'_>) -> seqpar::Result<()> + Send + Sync + 'static) -> External {
    Arc::new(step)
}

/// One rank whose step copies, behind `gate` being raised where there is one.
fn stepping(options: CudaOptions, gate: Option<u64>) -> Prepared {
    let context = Context::current().unwrap().unwrap();
    let kernels = kernels(&context);
    let mut prepared = prepare(context, kernels, with_external(1), options).unwrap();
    prepared.external(
        "step",
        external(move |call| {
            // SAFETY: the flag outlives the run; the parts are those of the plan.
            unsafe {
                gate.map_or(Ok(()), |gate| wait_value(gate, 1, call.stream))?;
                copy_device_to_device(call.parts[1].address, call.parts[0].address, 4 * ELEMS, call.stream)
            }
        }),
    );
    prepared
}

/// x and y of one rank, x full of one byte.
struct Ends {
    x: DeviceMemory,
    y: DeviceMemory,
}

impl Ends {
    fn new(value: u8, stream: &Stream) -> Self {
        let ends = Self { x: DeviceMemory::new(4 * ELEMS).unwrap(), y: DeviceMemory::new(4 * ELEMS).unwrap() };
        ends.x.fill(value, stream).unwrap();
        stream.synchronize().unwrap();
        ends
    }

    fn bind<'a>(&self, prepared: &'a Prepared) -> Bound<'a> {
        let of = |name: &str| match name {
            "x" => Some(self.x.address()),
            "y" => Some(self.y.address()),
            _ => None,
        };
        let addresses = prepared.plans().map(|plan| plan.buffers.iter().map(|buffer| of(&buffer.name)).collect());
        // SAFETY: the memory outlives what is bound; nobody else uses it.
        unsafe { prepared.bind(&addresses.collect::<Vec<_>>()) }.unwrap()
    }

    fn seen(&self, stream: &Stream) -> Vec<u8> {
        let mut bytes = vec![0; 4 * ELEMS];
        self.y.read(0, &mut bytes, stream).unwrap();
        bytes
    }
}

fn streams<const N: usize>() -> [Stream; N] {
    [(); N].map(|()| Stream::new(Priority::Low).unwrap())
}

/// Nothing but the executor orders these streams.
#[test]
fn runs_on_several_streams_follow_each_other() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = Case::plain(Dtype::Bf16, 10, 2, 64);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(9));
        let world = worlds(2).into_iter().find(|world| world.strategy.name() == "fastseq").unwrap();
        for mode in MODES {
            for (seed, graph) in [(1, false), (2, true), (3, false)] {
                mock.reset(mode, seed);
                let context = context();
                let kernels = kernels(&context);
                let mut options = CudaOptions::default();
                options.graph = graph;
                let prepared = prepare(context, kernels, plans(&case, &world, 2), options).unwrap();
                let others = streams::<2>();
                with_tensors(&prepared, &inputs, |bound, stream, outputs| {
                    bound.run(stream)?;
                    bound.finish()?;
                    let first = outputs()?;
                    for stream in others.iter().chain([stream]).cycle().take(5) {
                        bound.run(stream)?;
                    }
                    bound.finish()?;
                    assert!(outputs()? == first, "{mode} {seed}: other bits");
                    Ok(())
                })
                .unwrap();
                mock.assert_clean(&format!("{mode} {seed} graph {graph}"));
            }
        }
    });
}

/// Two bindings share temporaries and events.
#[test]
fn runs_of_several_bindings_follow_each_other() {
    on_mock(|mock| {
        for mode in MODES {
            for (seed, graph) in [(1, false), (2, true)] {
                mock.reset(mode, seed);
                let _context = context();
                let [a, b] = streams();
                let mut options = options(60_000);
                options.graph = graph;
                let prepared = stepping(options, None);
                let (ones, twos) = (Ends::new(1, &a), Ends::new(2, &a));
                let (mut of_ones, mut of_twos) = (ones.bind(&prepared), twos.bind(&prepared));
                for _ in 0..3 {
                    of_ones.run(&a).unwrap();
                    of_twos.run(&b).unwrap();
                }
                of_ones.finish().unwrap();
                of_twos.finish().unwrap();
                assert_eq!((ones.seen(&a), twos.seen(&a)), (vec![1; 4 * ELEMS], vec![2; 4 * ELEMS]), "{mode} {graph}");
                mock.assert_clean(&format!("{mode} graph {graph}"));
            }
        }
    });
}

fn timeout(error: Error) -> (usize, String, String) {
    match error {
        Error::Timeout { rank, op, waited_for, .. } => (rank, op, waited_for),
        other => panic!("{other}"),
    }
}

/// A step that waits for a flag: its run passes the deadline, and the error names it. When it has
/// ended after all, another wait says so.
#[test]
fn a_run_that_does_not_end_names_the_op() {
    unless_stalled(|| {
        on_mock(|mock| {
            for (timed, graph) in [(false, false), (true, false), (false, true)] {
                mock.reset("random", 1);
                let context = context();
                let [a, apart] = streams();
                let gate = DeviceMemory::new(4).unwrap();
                gate.fill(0, &a).unwrap();
                a.synchronize().unwrap();
                let mut options = options(400);
                (options.timed, options.graph) = (timed, graph);
                {
                    let prepared = stepping(options, Some(gate.address()));
                    let ends = Ends::new(7, &a);
                    let mut bound = ends.bind(&prepared);
                    bound.run(&a).unwrap();
                    let begin = Instant::now();
                    let (rank, op, why) = timeout(bound.finish().unwrap_err());
                    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
                    if graph {
                        assert_eq!(op, "run");
                        assert!(why.contains("run without to be told"), "{why}");
                    } else {
                        assert_eq!((rank, op.as_str()), (0, "step"), "{why}");
                        assert!(why.contains("op \"step\" of rank 0 on stream \"side\""), "{why}");
                        assert!(!why.contains("give"), "what waits is not named: {why}");
                    }
                    // SAFETY: the flag is alive.
                    unsafe { write_value(gate.address(), 1, &apart) }.unwrap();
                    apart.synchronize().unwrap();
                    bound.finish().unwrap();
                    assert_eq!(ends.seen(&a), [7; 4 * ELEMS]);
                }
                mock.assert_clean("late");
                drop((gate, a, apart, context));
                assert_eq!(mock.leaks(), Vec::<String>::new(), "timed {timed}, graph {graph}");
            }
        });
    });
}

/// Dropped under way: the drop waits for the run, up to its deadline, and frees nothing that the device
/// may still use.
#[test]
fn what_is_dropped_under_way_is_waited_for_with_a_deadline() {
    unless_stalled(|| {
        on_mock(|mock| {
            mock.reset("late", 1);
            let _context = context();
            let [a, apart] = streams();
            let (gate, ends) = (DeviceMemory::new(4).unwrap(), Ends::new(3, &a));
            gate.fill(1, &a).unwrap();
            a.synchronize().unwrap();
            let prepared = stepping(options(50), Some(gate.address()));
            let mut bound = ends.bind(&prepared);
            bound.run(&a).unwrap();
            drop(bound);
            assert_eq!(ends.seen(&a), [3; 4 * ELEMS]);
            // Now nobody raises it.
            gate.fill(0, &a).unwrap();
            a.synchronize().unwrap();
            let mut bound = ends.bind(&prepared);
            bound.run(&a).unwrap();
            let begin = Instant::now();
            drop(bound);
            drop(prepared);
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
            mock.assert_clean("nothing waits for the device without end");
            // SAFETY: the flag is alive.
            unsafe { write_value(gate.address(), 1, &apart) }.unwrap();
            a.synchronize().unwrap();
            mock.assert_clean("it ends after all, in memory that is still there");
        });
    });
}

/// A driver does not say which op died: no error blames another.
#[test]
fn a_run_that_dies_says_what_is_known() {
    on_mock(|mock| {
        for mode in ["late", "eager"] {
            mock.reset(mode, 1);
            let _context = context();
            let [a] = streams();
            let prepared = stepping(options(60_000), None);
            let ends = Ends::new(1, &a);
            let mut bound = ends.bind(&prepared);
            mock.configure("fail=run.copy_DtoD:1=719");
            let error = bound.run(&a).and_then(|()| bound.finish().map(drop)).unwrap_err();
            let Error::Cuda { code: 719, why, .. } = error else { panic!("{error}") };
            let known = match mode {
                // The copy of "step" has died; what came next was refused.
                "eager" => "work up to op \"",
                _ => "which op it was is not known",
            };
            assert!(why.contains(known) || why.contains("had not ended: op \"step\""), "{mode}: {why}");
            assert!(why.contains("compute-sanitizer"), "{why}");
        }
    });
}

#[test]
fn what_was_not_run_is_not_waited_for() {
    on_mock(|mock| {
        mock.reset("late", 1);
        let _context = context();
        let [a] = streams();
        let prepared = stepping(options(60_000), None);
        let ends = Ends::new(1, &a);
        let mut bound = ends.bind(&prepared);
        assert!(bound.finish().unwrap_err().to_string().contains("call run first"));
        bound.run(&a).unwrap();
        bound.finish().unwrap();
        // A run that failed is not the one before.
        mock.configure("fail=cuMemcpyDtoDAsync_v2:2=1");
        let failed = bound.run(&a).unwrap_err();
        assert!(failed.to_string().contains("step"), "{failed}");
        assert_eq!(bound.finish().unwrap_err(), failed);
        bound.run(&a).unwrap();
        bound.finish().unwrap();
        assert_eq!(ends.seen(&a), [1; 4 * ELEMS]);
        mock.assert_clean("runs after a failure");
    });
}

#[test]
fn the_callers_context_and_stream_are_left_as_they_were() {
    on_mock(|mock| {
        mock.configure("devices=2 reset");
        let own = Context::primary(0).unwrap();
        let [a] = streams();
        let ends = Ends::new(1, &a);
        let prepared = stepping(options(60_000), None);
        let others = Context::primary(1).unwrap();
        let current = || Context::current().unwrap().unwrap();
        let mut bound = ends.bind(&prepared);
        assert!(current().is_same(&others), "binding");
        bound.run(&a).unwrap();
        assert!(current().is_same(&others), "running");
        bound.finish().unwrap();
        assert!(current().is_same(&others), "waiting");
        let nobody = Mutex::new(Some(bound));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let mut bound = nobody.lock().unwrap();
                bound.as_mut().unwrap().run(&a).unwrap();
                bound.as_mut().unwrap().finish().unwrap();
                Context::current().unwrap().is_none()
            });
            assert!(thread.join().unwrap(), "a thread without a context");
        });
        own.bind().unwrap();
        drop(nobody);
        let _prepared = stepping(options(60_000), None);
        mock.assert_clean("contexts");
    });
}

#[test]
fn a_stream_that_is_captured_is_refused_and_its_capture_goes_on() {
    on_mock(|mock| {
        mock.reset("late", 1);
        let _context = context();
        let [a] = streams();
        let prepared = stepping(options(60_000), None);
        let ends = Ends::new(1, &a);
        let mut bound = ends.bind(&prepared);
        let graph = capture(&a, || {
            let refused = bound.run(&a).unwrap_err().to_string();
            assert!(refused.contains("being captured"), "{refused}");
            ends.y.fill(9, &a)
        })
        .unwrap();
        // SAFETY: the memory is alive.
        unsafe { graph.launch(&a) }.unwrap();
        assert_eq!(ends.seen(&a), [9; 4 * ELEMS]);
        bound.run(&a).unwrap();
        bound.finish().unwrap();
        mock.assert_clean("captured");
    });
}

#[test]
fn memory_links_and_deadlines_that_make_no_sense_are_refused() {
    on_mock(|_| {
        let context = context();
        let [a] = streams();
        let ends = Ends::new(1, &a);
        let mut whole = options(1);
        whole.deadline = Duration::MAX;
        let prepared = stepping(whole, None);
        for wrong in [0, 8, ends.y.address() + 4] {
            let of = |name: &str| match name {
                "x" => Some(ends.x.address()),
                "y" => Some(wrong),
                _ => None,
            };
            let plan = prepared.plans().next().unwrap();
            let addresses = vec![plan.buffers.iter().map(|buffer| of(&buffer.name)).collect()];
            // SAFETY: refused.
            let error = unsafe { prepared.bind(&addresses) }.err().unwrap().to_string();
            assert!(error.contains("buffer y of rank 0") && error.contains("aligned to 16 bytes"), "{error}");
        }
        let mut bound = ends.bind(&prepared);
        bound.run(&a).unwrap();
        bound.finish().unwrap();
        drop(bound);
        for (bytes_per_s, latency_s) in [(0.0, 0.0), (-1.0, 0.0), (f64::NAN, 0.0), (1e9, -1.0), (1e9, f64::NAN)] {
            let mut options = options(1);
            options.link = Some(Link { bytes_per_s, latency_s });
            let refused = prepare(context.borrowed(), kernels(&context), with_external(1), options).err().unwrap();
            assert!(refused.to_string().contains("the rate is above 0"), "{refused}");
        }
    });
}

/// A flag that nobody raises: the kernel that waits for it gives up by itself, and says where.
#[test]
fn a_gate_that_does_not_open_is_told_by_its_op_once() {
    on_mock(|mock| {
        mock.configure("sms=4 capability=90 deadlock_s=0.05");
        mock.reset("late", 1);
        let case = Case::plain(Dtype::Bf16, 10, 2, 64);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(9));
        let world = worlds(2).into_iter().find(|world| world.strategy.name() == "fastseq").unwrap();
        let context = context();
        let kernels = kernels(&context);
        let mut options = options(2000);
        options.gates = Gates::Flags;
        let plans = plans(&case, &world, 2);
        let mut lowered: Vec<Lowered> = plans.iter().map(|plan| plan.lowered(Gates::Flags)).collect();
        let (op, flag) = (lowered[1].gates[0].op, lowered[1].gates[0].flag);
        for commands in &mut lowered[1].streams {
            commands.retain(|command| *command != Command::Raise(flag));
        }
        let waiting = plans[1].label(op).to_string();
        let prepared = prepare_lowered(context, kernels, plans, lowered, options).unwrap();
        with_tensors(&prepared, &inputs, |bound, stream, _| {
            bound.run(stream)?;
            let (rank, op, why) = timeout(bound.finish().unwrap_err());
            assert_eq!((rank, &op), (1, &waiting), "{why}");
            // Time passes on the device until the kernel gives up.
            stream.synchronize()?;
            let (rank, op, why) = timeout(bound.finish().unwrap_err());
            assert_eq!((rank, &op), (1, &waiting), "{why}");
            assert!(why.starts_with("chunk ") && why.contains("(flag at 0, 1 wanted)"), "{why}");
            bound.finish().map(drop)
        })
        .unwrap();
    });
}

/// Where both could run, what communicates goes first.
#[test]
fn a_stream_that_communicates_has_the_higher_priority() {
    on_mock(|mock| {
        mock.reset("late", 1);
        let plan = |rank: usize| {
            let mut b = Builder::new(rank, 2);
            let (main, comm) = (b.stream("main"), b.stream("comm"));
            let x = b.buffer("x", Role::Input, Dtype::F32, [1, 1, 1, ELEMS], None);
            let y = b.buffer("y", Role::Output, Dtype::F32, [1, 1, 1, ELEMS], None);
            let tag = b.tag();
            let transfers = [(Direction::Send, 1 - rank, x), (Direction::Recv, 1 - rank, y)];
            b.comm(comm, "swap", CommKind::SendRecv, tag, &[0, 1], Dtype::F32, &transfers);
            b.external(main, "main", &[]);
            b.external(comm, "comm", &[]);
            b.finish()
        };
        let context = context();
        let kernels = kernels(&context);
        let plans = check_world((0..2).map(plan).collect()).unwrap();
        let mut prepared = prepare(context, kernels, plans, options(60_000)).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for name in ["main", "comm"] {
            let seen = seen.clone();
            prepared.external(
                name,
                external(move |call| {
                    let mut priority = 0;
                    // SAFETY: the stream is alive; writes one integer.
                    let result =
                        unsafe { sys::cuStreamGetPriority(call.stream.handle() as sys::CUstream, &mut priority) };
                    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
                    seen.lock().unwrap().push((name, priority));
                    Ok(())
                }),
            );
        }
        let stream = Stream::new(Priority::Low).unwrap();
        let ends: Vec<Ends> = (0..2).map(|_| Ends::new(1, &stream)).collect();
        let addresses =
            ends.iter().map(|ends| vec![Some(ends.x.address()), Some(ends.y.address())]).collect::<Vec<_>>();
        // SAFETY: the memory outlives what is bound.
        let mut bound = unsafe { prepared.bind(&addresses) }.unwrap();
        bound.run(&stream).unwrap();
        bound.finish().unwrap();
        drop(bound);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 4);
        for (name, priority) in seen.iter() {
            assert_eq!(*priority < 0, *name == "comm", "{name} has {priority}");
        }
    });
}

#[test]
fn temporaries_are_poisoned_before_each_run_where_that_is_asked_for() {
    on_mock(|mock| {
        for poison in [true, false] {
            mock.reset("eager", 1);
            let context = context();
            let [a] = streams();
            let probe = DeviceMemory::new(4 * ELEMS).unwrap();
            let at = probe.address();
            let kernels = kernels(&context);
            let mut options = options(60_000);
            options.poison = poison;
            let mut prepared = prepare(context, kernels, with_external(1), options).unwrap();
            prepared.external(
                "step",
                external(move |call| {
                    let [from, to] = [0, 1].map(|i: usize| call.parts[i].address);
                    // SAFETY: all of it outlives the run; what was there is looked at before it is written.
                    unsafe {
                        copy_device_to_device(at, to, 4 * ELEMS, call.stream)?;
                        copy_device_to_device(to, from, 4 * ELEMS, call.stream)
                    }
                }),
            );
            let ends = Ends::new(5, &a);
            let mut bound = ends.bind(&prepared);
            let mut before = vec![0; 4 * ELEMS];
            for _ in 0..2 {
                bound.run(&a).unwrap();
                bound.finish().unwrap();
            }
            probe.read(0, &mut before, &a).unwrap();
            assert_eq!(before, vec![if poison { 0xff } else { 5 }; 4 * ELEMS]);
        }
    });
}
