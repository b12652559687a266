//! A world of rank threads in the executor when something of NCCL fails.

use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Config, Library};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Failure, FailureKind, Result};
use seqpar::exec::cuda::{CudaOptions, RankThreads};
use seqpar::plan::{Checked, Plan, check_world};
use seqpar::shard::{Shard, Split, TextShard};
use seqpar::strategy::{self, Options};

use crate::mock::layers::kernels;
use crate::mock::{MODES, Mock, on_mock};
use crate::support::cases::Case;
use crate::support::stalls::unless_stalled;
use crate::support::worlds::worlds;
use crate::support::{Rng, Tensors, assert_same_bits};
use crate::world::{LONG, assert_no_leaks, failure};

const RANKS: usize = 2;
/// Of a run that goes well: never reached.
const NEVER: Duration = Duration::from_secs(60);
/// Of a run that cannot end.
const SOON: Duration = Duration::from_millis(1500);
const STRATEGIES: [&str; 3] = ["ulysses", "ring", "kv-gather"];

fn case() -> Case {
    Case::plain(Dtype::Bf16, 13, 2, 32)
}

/// The attention of two ranks with so many tokens each.
fn plans(name: &str, shares: [usize; RANKS]) -> Vec<Checked<Plan>> {
    let world = worlds(RANKS).into_iter().find(|world| world.strategy.name() == name).unwrap();
    let shard = Shard::new(Split::counts(&shares), TextShard::None).unwrap();
    let plans = strategy::attention(&case().problem(shard), world.strategy, &world.mesh, &Options::default());
    check_world(plans.unwrap()).unwrap()
}

/// Runs twice.
fn run(plans: &[Checked<Plan>], inputs: &Tensors, graph: bool, deadline: Duration) -> Result<Tensors> {
    let mut options = CudaOptions::default();
    (options.graph, options.deadline) = (graph, deadline);
    let ranks = RankThreads {
        library: &Library::load(None)?,
        devices: &[0, 1],
        kernels: &|context| Ok(kernels(context)),
        options: &options,
        config: &Config { op_deadline: LONG, ..Config::default() },
        native_sums: false,
        deadline: LONG,
    };
    ranks.run_tensors(plans, inputs, 2).map(|(outputs, _)| outputs)
}

fn inputs() -> Tensors {
    case().attention_inputs(&mut Rng(3))
}

fn reset(mock: &Mock, mode: &str, faults: &str) {
    mock.reset(mode, 1);
    mock.configure(&format!("sms=2 devices={RANKS} deadlock_s=10 {faults}"));
}

/// How often each rank called `name` of NCCL, or ran it: "run.ncclSend@1".
fn count(mock: &Mock, name: &str) -> usize {
    mock.calls().into_iter().filter(|(called, _)| called == name).map(|(_, count)| count).sum()
}

/// Operations of rank 0 in both runs.
fn operations(mock: &Mock) -> usize {
    let kinds = ["ncclAllGather", "ncclSendRecv", "ncclSend", "ncclRecv"];
    kinds.iter().map(|kind| count(mock, &format!("run.{kind}@0"))).sum()
}

/// A failure, in time, after which nothing is left and the mock has only said what it must.
fn fails(mock: &Mock, plans: &[Checked<Plan>], inputs: &Tensors, graph: bool, limit: Duration, at: &str) -> Failure {
    let begin = Instant::now();
    let failed = failure(run(plans, inputs, graph, limit).expect_err(at));
    assert!(begin.elapsed() < limit + Duration::from_secs(10), "{at}: {:?}", begin.elapsed());
    assert_no_leaks(mock, at);
    failed
}

#[test]
fn a_silent_death_is_a_timeout_that_names_the_op() {
    unless_stalled(|| {
        on_mock(|mock| {
            let inputs = inputs();
            for (nth, name) in STRATEGIES.iter().enumerate() {
                let plans = plans(name, [7, 6]);
                for graph in [false, true] {
                    reset(mock, "late", "");
                    run(&plans, &inputs, graph, NEVER).unwrap();
                    let operations = operations(mock);
                    assert!(operations >= 2, "{name}: two runs");
                    // The first and the last, of the first run and of the second.
                    for dead_from in [1, operations / 2, operations / 2 + 1, operations] {
                        let mode = MODES[(nth + dead_from) % 4];
                        reset(mock, mode, &format!("die=1:{dead_from}"));
                        let at = format!("{name}, graph {graph}, operation {dead_from}, {mode}");
                        let failed = fails(mock, &plans, &inputs, graph, SOON, &at);
                        mock.assert_clean(&at);
                        assert!(matches!(failed.kind, FailureKind::Timeout { .. }), "{at}: {failed}");
                        assert!(!failed.op.is_empty(), "{at}: {failed}");
                        // A graph is captured once; its operations keep their numbers.
                        let seq = if graph { (dead_from - 1) % (operations / 2) } else { dead_from - 1 };
                        assert_eq!(failed.seq, Some(seq as u64), "{at}: {failed}");
                    }
                }
            }
        });
    });
}

#[test]
fn a_death_that_nccl_notices_ends_all_ranks_at_once() {
    on_mock(|mock| {
        let inputs = inputs();
        for (name, mode) in STRATEGIES.into_iter().zip(MODES) {
            let plans = plans(name, [7, 6]);
            reset(mock, mode, "");
            run(&plans, &inputs, false, NEVER).unwrap();
            // In the second run: every rank has issued something, so there is an op to name.
            let at = operations(mock) / 2 + 1;
            for fault in ["die=1:AT death=remote", "die=0:AT death=neighbours", "comm_error=1:AT=2"] {
                let faults = &fault.replace("AT", &at.to_string());
                reset(mock, mode, faults);
                let at = format!("{name}, {faults}, {mode}");
                let begin = Instant::now();
                let failed = fails(mock, &plans, &inputs, false, NEVER, &at);
                assert!(begin.elapsed() < Duration::from_secs(20), "{at}: long before the deadline");
                mock.assert_clean(&at);
                assert!(matches!(failed.kind, FailureKind::PeerLost { .. }), "{at}: {failed}");
                assert!(!failed.op.is_empty() && failed.seq.is_some(), "{at}: {failed}");
            }
        }
    });
}

/// Rank 1 has the plan of another cut of the same tensors, which no check of one world has seen.
#[test]
fn ranks_with_other_plans_time_out_and_the_op_is_named() {
    unless_stalled(|| {
        on_mock(|mock| {
            let inputs = inputs();
            for (name, mode) in STRATEGIES.into_iter().zip(MODES) {
                reset(mock, mode, "");
                let [mine, theirs] = [[7, 6], [6, 7]].map(|shares| plans(name, shares));
                let mixed = [mine[0].clone(), theirs[1].clone()];
                let failed = fails(mock, &mixed, &inputs, false, SOON, name);
                assert!(matches!(failed.kind, FailureKind::Timeout { .. }), "{name}: {failed}");
                assert!(!failed.op.is_empty() && failed.seq.is_some(), "{name}: {failed}");
                let reports = mock.reports();
                assert!(reports.iter().all(|report| report.starts_with("MISMATCH")), "{name}: {reports:?}");
                assert!(!reports.is_empty(), "{name}: the mock has seen it");
            }
        });
    });
}

/// Codes of NCCL's own and one of nobody's.
const CODES: [i32; 3] = [1, 3, 99];
const DEEPEST: usize = 3;

/// A call of NCCL fails on one rank: an error that names it and, within a run, the op.
fn fail_once(mock: &Mock, plans: &[Checked<Plan>], inputs: &Tensors, call: &str, nth: usize, code: i32) {
    let at = format!("{call}, call {nth}, code {code}");
    reset(mock, MODES[nth % 4], &format!("fail={call}:{nth}={code}"));
    let begin = Instant::now();
    let result = run(plans, inputs, false, NEVER);
    assert!(begin.elapsed() < Duration::from_secs(30), "{at}: {:?}", begin.elapsed());
    mock.assert_clean(&at);
    assert_no_leaks(mock, &at);
    let name = call.split('@').next().unwrap();
    match result {
        Ok(_) => panic!("{at}: nothing was said"),
        Err(Error::Between(failed)) => {
            let text = failed.to_string();
            assert!(text.contains(name) && text.contains(&code.to_string()), "{at}: {text}");
            let in_a_run = ["ncclSend", "ncclRecv", "ncclAllGather", "ncclGroupStart", "ncclGroupEnd"].contains(&name);
            assert!(!in_a_run || (!failed.op.is_empty() && failed.seq.is_some()), "{at}: {text}");
        }
        Err(error) => panic!("{at}: {error}"),
    }
}

#[test]
fn every_call_of_nccl_fails_once() {
    on_mock(|mock| {
        let inputs = inputs();
        let mut failed = std::collections::BTreeSet::new();
        for name in ["ring", "kv-gather"] {
            let plans = plans(name, if name == "ring" { [7, 6] } else { [6, 7] });
            reset(mock, "late", "in_progress=0");
            run(&plans, &inputs, false, NEVER).unwrap();
            let calls = mock.calls();
            let of_a_rank = |(call, _): &&(String, usize)| call.starts_with("nccl") && call.contains('@');
            for (call, count) in calls.iter().filter(of_a_rank) {
                // What a failed run calls to clean up is not there in a good one.
                for nth in 1..=(*count).min(DEEPEST) {
                    fail_once(mock, &plans, &inputs, call, nth, CODES[nth % 3]);
                    failed.insert(call.clone());
                }
            }
        }
        assert!(failed.len() >= 12, "only {failed:?}");
    });
}

/// The clean-up after a failure fails as well. NCCL does not say what the device still does then, so
/// its memory is left behind rather than given back; the op is named all the same.
#[test]
fn an_abort_that_fails_is_still_an_error_that_names_the_op() {
    on_mock(|mock| {
        let (inputs, plans) = (inputs(), plans("ring", [7, 6]));
        reset(mock, "late", "");
        run(&plans, &inputs, false, NEVER).unwrap();
        // In the second run every rank has issued something, so there is an op to name.
        let second = operations(mock) / 2 + 1;
        for (at, rank) in [2, second].into_iter().flat_map(|at| (0..RANKS).map(move |rank| (at, rank))) {
            reset(mock, "late", &format!("die=1:{at} death=remote fail=ncclCommAbort@{rank}:1=3"));
            let begin = Instant::now();
            let failed = failure(run(&plans, &inputs, false, NEVER).unwrap_err());
            assert!(begin.elapsed() < Duration::from_secs(30), "{failed}");
            assert!(
                matches!(failed.kind, FailureKind::PeerLost { .. } | FailureKind::Unrecoverable { .. }),
                "{failed}"
            );
            assert!(!failed.op.is_empty() || (at < second && failed.seq.is_none()), "{at}: {failed}");
        }
    });
}

/// A world that failed leaves the devices usable for the next one.
#[test]
fn the_next_world_has_the_bits_of_the_first() {
    on_mock(|mock| {
        let (inputs, plans) = (inputs(), plans("ulysses", [7, 6]));
        reset(mock, "random", "");
        let before = run(&plans, &inputs, false, NEVER).unwrap();
        reset(mock, "random", "die=0:2");
        fails(mock, &plans, &inputs, false, SOON, "the world between");
        mock.reset("random", 2);
        let after = run(&plans, &inputs, false, NEVER).unwrap();
        mock.assert_clean("the next world");
        assert_same_bits("the next world", &after, &before);
    });
}
