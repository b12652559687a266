//! Whatever one rank does, every rank ends with the same error, and nothing hangs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use seqpar::Error;
use seqpar::dtype::Dtype;
use seqpar::exec::host::{Clock, External, ExternalCall, HostOptions, Link, Prepared, prepare, prepare_unchecked};
use seqpar::kernel::spec::Mode;
use seqpar::machine::Machine;
use seqpar::plan::lower::{Command, Gates, lower};
use seqpar::plan::{Builder, CommKind, Direction, OpKind, Placement, Plan, Role, check_world};
use seqpar::shard::Shard;
use seqpar::strategy::{AttentionProblem, Options, Strategy, attention};

use super::plans::{all_gather, counting, lawful, options, run, two_streams};

/// For what does not end; a rank must come to its op before.
fn soon() -> HostOptions {
    HostOptions { deadline: Duration::from_millis(500), ..options() }
}

fn failing(prepared: &mut Prepared, rows: usize, cols: usize) -> Error {
    let begin = Instant::now();
    let mut bindings = prepared.bindings();
    bindings.set("x", &counting([1, rows, 1, cols], Dtype::F32)).unwrap();
    let error = prepared.run(&mut bindings).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    error
}

#[test]
fn a_missing_peer_is_a_timeout_that_names_op_rank_and_peer() {
    let mut plans = all_gather(&[2, 2, 2], 8, Dtype::F32);
    // Rank 2 never enters the gather.
    let gather = plans[2].ops.iter().position(|op| matches!(op.kind, OpKind::Comm(_))).unwrap();
    plans[2].ops[gather].kind = OpKind::Mark;
    let mut prepared = prepare_unchecked(plans, None, soon()).unwrap();
    for _ in 0..2 {
        match failing(&mut prepared, 6, 8) {
            Error::Timeout { rank, op, waited_for, after_ms } => {
                assert!(rank < 2);
                assert_eq!((op.as_str(), after_ms), ("gather", 500));
                assert!(waited_for.contains("rank 2 to send"), "{waited_for}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_event_that_nobody_records_is_a_timeout_that_names_its_op() {
    let plans = two_streams(1, [1, 4, 1, 4]);
    let mut lowered = lower(&plans[0], Gates::Flags);
    // "fill" runs too late to record: its record stands behind a wait for itself.
    for stream in &mut lowered.streams {
        if let Some(at) = stream.iter().position(|c| matches!(c, Command::Record(_))) {
            let Command::Record(event) = stream[at] else { unreachable!() };
            stream.insert(at, Command::Wait(event));
        }
    }
    let mut prepared = prepare_unchecked(plans, Some(vec![lowered]), soon()).unwrap();
    let error = failing(&mut prepared, 4, 4).to_string();
    assert!(error.contains("event of op \"fill\" on stream \"first\""), "{error}");
}

#[test]
fn lengths_that_differ_name_both_sides() {
    let mut plans = all_gather(&[2, 2], 8, Dtype::F32);
    let send = plans[1].accesses.iter().position(|a| a.mode == Mode::Read).unwrap();
    let access = &mut plans[1].accesses[send];
    access.region.end[1] = 1;
    access.shape = access.region.extents();
    let error = failing(&mut prepare_unchecked(plans, None, options()).unwrap(), 4, 8).to_string();
    assert!(error.contains("rank 1 sends 32 bytes") && error.contains("rank 0 expects 64"), "{error}");
}

/// Every rank calls "step" on its rows between two gathers.
fn with_external(world: usize) -> Vec<Plan> {
    let everyone: Vec<usize> = (0..world).collect();
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, world);
        let (compute, comm) = (b.stream("compute"), b.stream("comm"));
        let whole = |name: &str| Placement { tensor: name.into(), dims: [1, 1, 1, 8], index: [const { None }; 4] };
        let x = b.buffer("x", Role::Input, Dtype::F32, [1, 1, 1, 8], Some(whole("x")));
        let y = b.buffer("y", Role::Output, Dtype::F32, [1, 1, 1, 8], Some(whole("y")));
        let t = b.temp("t", Dtype::F32, [1, 1, 1, 8]);
        b.external(compute, "step", &[(x, Mode::Read), (t, Mode::Write)]);
        let tag = b.tag();
        let (next, previous) = ((rank + 1) % world, (rank + world - 1) % world);
        let transfers = [(Direction::Send, next, t), (Direction::Recv, previous, y)];
        b.comm(comm, "pass on", CommKind::SendRecv, tag, &everyone, Dtype::F32, &transfers);
        b.finish()
    };
    everyone.iter().map(|&rank| plan(rank)).collect()
}

fn external(step: impl Fn(&mut ExternalCall<'_>) -> seqpar::Result<()> + Send + Sync + 'static) -> External {
    Arc::new(move |mut call| step(&mut call))
}

fn doubled(call: &mut ExternalCall<'_>) -> seqpar::Result<()> {
    let bytes: Vec<u8> =
        call.read(0)?.chunks(4).flat_map(|b| (2.0 * f32::from_ne_bytes(b.try_into().unwrap())).to_ne_bytes()).collect();
    call.write(1, &bytes)
}

#[test]
fn a_panic_or_an_early_exit_of_one_rank_reaches_all_and_the_world_runs_again() {
    let mut prepared = lawful(with_external(4), options());
    let error = failing(&mut prepared, 1, 8).to_string();
    assert!(error.contains("register it"), "{error}");
    let x = counting([1, 1, 1, 8], Dtype::F32);
    for _ in 0..20 {
        prepared
            .external("step", external(|call| if call.rank() == 2 { panic!("out of paper") } else { doubled(call) }));
        let error = failing(&mut prepared, 1, 8);
        let expected = Error::Rank { rank: 2, op: "step".into(), why: "panicked: out of paper".into() };
        assert_eq!(error, expected);
        prepared.external(
            "step",
            external(|call| if call.rank() == 3 { Err(Error::Data("no ink".into())) } else { doubled(call) }),
        );
        let error = failing(&mut prepared, 1, 8);
        assert_eq!(error, Error::Rank { rank: 3, op: "step".into(), why: "no ink".into() });
        prepared.external("step", external(doubled));
        let (out, _) = run(&mut prepared, &[("x", x.clone())]);
        assert_eq!(out["y"].to_f32(), x.to_f32().iter().map(|x| 2.0 * x).collect::<Vec<_>>());
    }
    prepared.external("step", external(|call| call.write(0, &[0; 32])));
    assert!(failing(&mut prepared, 1, 8).to_string().contains("read only"));
    prepared.external("step", external(|call| call.write(1, &[0; 3])));
    assert!(failing(&mut prepared, 1, 8).to_string().contains("has 32 bytes, 3 were given"));
}

#[test]
fn a_dropped_wait_is_a_lease_conflict_that_names_both_ops() {
    // The external call holds its lease until the copy has tried to take the same region.
    let mut b = Builder::new(0, 1);
    let (first, second) = (b.stream("first"), b.stream("second"));
    let dims = [1, 1, 1, 8];
    let whole = |name: &str| Some(Placement { tensor: name.into(), dims, index: [const { None }; 4] });
    let x = b.buffer("x", Role::Input, Dtype::F32, dims, whole("x"));
    let y = b.buffer("y", Role::Output, Dtype::F32, dims, whole("y"));
    let t = b.temp("t", Dtype::F32, dims);
    b.external(first, "step", &[(x, Mode::Read), (t, Mode::Write)]);
    b.copy(second, "drain", t, y);
    let plans = vec![b.finish()];
    let mut lowered = lower(&plans[0], Gates::Flags);
    lowered.streams.iter_mut().for_each(|stream| stream.retain(|c| !matches!(c, Command::Wait(_))));
    let mut prepared = prepare_unchecked(plans, Some(vec![lowered]), options()).unwrap();
    prepared.external(
        "step",
        external(|call| {
            std::thread::sleep(Duration::from_millis(30));
            doubled(call)
        }),
    );
    // Whichever comes second finds the other in the way; "drain" may also win and read poison.
    let mut bindings = prepared.bindings();
    bindings.set("x", &counting(dims, Dtype::F32)).unwrap();
    let errors = (0..10).filter_map(|_| prepared.run(&mut bindings).err()).collect::<Vec<_>>();
    assert!(!errors.is_empty());
    for error in errors {
        let error = error.to_string();
        assert!(error.contains("\"drain\"") && error.contains("\"step\"") && error.contains("buffer t"), "{error}");
    }
}

#[test]
fn unwritten_data_shows_as_nan() {
    let mut plans = two_streams(1, [1, 2, 1, 2]);
    let fill = plans[0].ops.iter().position(|op| plans[0].labels[op.label as usize] == "fill").unwrap();
    plans[0].ops[fill].kind = OpKind::Mark;
    let mut prepared = prepare_unchecked(plans, None, options()).unwrap();
    let (out, _) = run(&mut prepared, &[("x", counting([1, 2, 1, 2], Dtype::F32))]);
    assert!(out["y"].to_f32().iter().all(|y| y.is_nan()));
}

#[test]
fn regions_outside_a_buffer_and_writes_to_inputs_are_refused_whatever_the_plan() {
    let mut plans = two_streams(1, [1, 2, 1, 2]);
    plans[0].accesses[0].region.end[1] = 9;
    let error = failing(&mut prepare_unchecked(plans, None, options()).unwrap(), 2, 2).to_string();
    assert!(error.contains("outside of buffer x"), "{error}");
    let mut plans = two_streams(1, [1, 2, 1, 2]);
    plans[0].accesses[1].buffer = plans[0].buffer_named("x").unwrap();
    let error = failing(&mut prepare_unchecked(plans, None, options()).unwrap(), 2, 2).to_string();
    assert!(error.contains("an input"), "{error}");
}

#[test]
fn an_event_behind_a_slow_link_is_explained_by_the_peers() {
    let (ranks, heads) = (3, 3);
    let problem = AttentionProblem {
        dtype: Dtype::F32,
        batch: 1,
        heads,
        kv_heads: heads,
        head_dim: 8,
        shard: Shard::even(ranks, 12, 12, 0, false).unwrap(),
        key_mask: false,
        key_len: false,
    };
    let mesh = Strategy::Ulysses.mesh(ranks, None, None, heads, heads).unwrap();
    let plans = attention(&problem, Strategy::Ulysses, &mesh, &Options::default()).unwrap();
    let link = Some(Link { bytes_per_s: 100.0, latency_s: 0.0 });
    let mut prepared = prepare(check_world(plans).unwrap(), HostOptions { link, ..soon() }).unwrap();
    let mut bindings = prepared.bindings();
    for name in ["q", "k", "v"] {
        bindings.set(name, &counting([1, 12, heads, 8], Dtype::F32)).unwrap();
    }
    let error = prepared.run(&mut bindings).unwrap_err();
    let Error::Timeout { rank, waited_for, .. } = &error else { panic!("{error}") };
    let peer = (0..ranks).find(|other| other != rank && waited_for.contains(&format!("rank {other}")));
    assert!(peer.is_some(), "{error}");
}

#[test]
fn a_message_slower_than_the_deadline_is_a_timeout_that_names_its_peer() {
    let plans = all_gather(&[2, 2], 8, Dtype::F32);
    let link = Some(Link { bytes_per_s: 1.0, latency_s: 0.0 });
    let mut prepared = prepare_unchecked(plans, None, HostOptions { link, ..soon() }).unwrap();
    let error = failing(&mut prepared, 4, 8);
    let Error::Timeout { rank, waited_for, .. } = &error else { panic!("{error}") };
    assert!(waited_for.contains(&format!("rank {}", 1 - rank)), "{error}");
}

#[test]
fn a_machine_without_a_rate_is_an_error_not_an_unpaced_run() {
    let machine = Machine { memory_bytes_per_s: 0.0, ..Machine::cpu() };
    let plans = two_streams(1, [1, 4, 1, 4]);
    let host = HostOptions { clock: Clock::Paced(machine), ..options() };
    let mut prepared = prepare_unchecked(plans, None, host).unwrap();
    let error = failing(&mut prepared, 4, 4).to_string();
    assert!(error.contains("rate must be above 0"), "{error}");
}
