//! The measuring half: halves of a plan, the bound of a schedule, the definitions of nccl-tests.

use std::time::Duration;

use seqpar::bench::{
    Case, Conditions, Part, Roof, Speed, arrival_bound_s, compute_alone, kernel, overlap, timed, transfers_alone,
};
use seqpar::dtype::Dtype;
use seqpar::exec::SpanKind;
use seqpar::exec::collective::Collective;
use seqpar::exec::host::{HostOptions, Link};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};
use seqpar::machine::Machine;
use seqpar::plan::{OpKind, Plan, check_world};
use seqpar::shard::Shard;
use seqpar::strategy::{AttentionProblem, LayerProblem, Options, Strategy};

#[path = "support/stalls.rs"]
mod stalls;

use stalls::unless_stalled;

fn problem(ranks: usize, tokens: usize) -> LayerProblem {
    LayerProblem {
        attention: AttentionProblem {
            dtype: Dtype::F32,
            batch: 1,
            heads: 8,
            kv_heads: 8,
            head_dim: 8,
            shard: Shard::even(ranks, tokens, tokens, 0, false).unwrap(),
            key_mask: false,
            key_len: false,
        },
        hidden: 64,
        qkv_bias: false,
        proj_bias: false,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    }
}

fn case(strategy: Strategy, ranks: usize, tokens: usize, part: Part) -> Case {
    let mesh = strategy.mesh(ranks, None, None, 8, 8).unwrap();
    Case { problem: problem(ranks, tokens), strategy, mesh, options: Options::default(), part }
}

fn kinds(plan: &Plan) -> [usize; 3] {
    let count = |wanted: fn(&OpKind) -> bool| plan.ops.iter().filter(|op| wanted(&op.kind)).count();
    [
        count(|kind| matches!(kind, OpKind::Kernel(_) | OpKind::Copy)),
        count(|kind| matches!(kind, OpKind::Comm(_))),
        count(|kind| matches!(kind, OpKind::External(_))),
    ]
}

#[test]
fn the_halves_of_a_plan_are_lawful_and_whole() {
    for strategy in
        [Strategy::Fastseq, Strategy::Ulysses, Strategy::Ring, Strategy::Usp, Strategy::Megatron, Strategy::KvGather]
    {
        for part in [Part::Layer, Part::Overlapped] {
            let plans = case(strategy, 4, 37, part).plans().unwrap();
            let [computes, comms, _] = kinds(&plans[1]);
            assert!(computes > 0 && comms > 0, "{strategy:?}");
            let halves: Vec<Plan> = plans.iter().map(compute_alone).collect();
            assert_eq!(kinds(&halves[1]), [computes, 0, comms], "{strategy:?}");
            assert_eq!(halves[1].bytes_sent(), 0);
            check_world(halves).unwrap();
            let halves: Vec<Plan> = plans.iter().map(transfers_alone).collect();
            assert_eq!(kinds(&halves[1]), [0, comms, computes], "{strategy:?}");
            assert_eq!(halves[1].bytes_sent(), plans[1].bytes_sent());
            assert_eq!(halves[1].flops(), 0.0);
            check_world(halves).unwrap();
        }
    }
}

/// Chunks that arrive every `arrival` seconds and take `work` each: the formula of the arrival
/// bound, and the replay of fastseq's plan.
#[test]
fn the_bound_of_a_chunked_schedule_is_the_arrival_bound() {
    let ranks = 4;
    let plans = case(Strategy::Fastseq, ranks, 64, Part::Overlapped).plans().unwrap();
    for (work, arrival) in [(1.0, 0.25), (1.0, 1.0), (1.0, 3.0)] {
        let seconds: Vec<f64> = plans[0]
            .op_ids()
            .map(|id| match plans[0].op(id).kind {
                OpKind::Comm(_) => arrival,
                OpKind::Kernel(_) if plans[0].label(id).starts_with("project ") => work,
                _ => 0.0,
            })
            .collect();
        let formula = |i: usize| i as f64 * arrival + (ranks - i) as f64 * work;
        let expected = (0..ranks).map(formula).fold(0.0, f64::max);
        assert_eq!(arrival_bound_s(&plans[0], &seconds), expected, "work {work}, arrival {arrival}");
    }
}

#[test]
fn a_paced_run_keeps_the_time_of_its_machine() {
    unless_stalled(|| {
        let machine = Machine { f32_flops: 1e9, memory_bytes_per_s: 1e12, launch_s: 0.0, ..Machine::cpu() };
        let conditions = Conditions {
            iterations: 3,
            threads: 2,
            speed: Speed::Ratio(1.0),
            paced: Some(machine),
            deadline: Duration::from_secs(60),
        };
        let found = overlap(&case(Strategy::Fastseq, 2, 64, Part::Overlapped), &conditions).unwrap();
        let predicted = found.flops / 1e9;
        // A busy machine can only add time: what is held is that none is lost, and the order of size.
        assert!(found.gemm.min_s >= predicted, "{} < {predicted}", found.gemm.min_s);
        assert!(found.gemm.min_s < 5.0 * predicted, "{} for {predicted}", found.gemm.min_s);
        assert!(found.stretch >= 1.0);
        assert!(found.overlapped.min_s >= predicted && found.overlapped.min_s < 3.0 * found.sequential.p95_s);
        let ratio = found.predicted_s().unwrap() / found.overlapped.p50_s;
        assert!((0.2..5.0).contains(&ratio), "{ratio}");
        let comms = found.report.spans.iter().filter(|span| span.kind == SpanKind::Comm).count();
        assert!(comms > 0 && found.bytes > 0 && found.messages > 0 && found.link.is_some());
    });
}

#[test]
fn no_iterations_are_refused() {
    let case = case(Strategy::Ulysses, 2, 16, Part::Layer);
    let conditions =
        Conditions { iterations: 0, threads: 2, speed: Speed::Memory, paced: None, deadline: Duration::from_secs(10) };
    assert!(overlap(&case, &conditions).unwrap_err().to_string().contains("at least 1"));
}

#[test]
fn a_collective_takes_what_its_bytes_take_on_the_link() {
    unless_stalled(|| {
        let link = Some(Link { bytes_per_s: 100e6, latency_s: 0.0 });
        for which in Collective::ALL {
            let plans = which.plans(256 << 10, 4).unwrap();
            let sent = plans.iter().map(Plan::bytes_sent).max().unwrap() as f64;
            let options = HostOptions { threads: 1, link, ..HostOptions::default() };
            let time = timed(plans, options, 3).unwrap().time;
            let least = sent / 100e6;
            // A busy machine can only add time.
            assert!(time.min_s >= 0.99 * least && time.min_s < 10.0 * least + 0.5, "{}: {time:?}", which.name());
        }
    });
}

#[test]
fn a_kernel_stays_under_the_roof() {
    unless_stalled(|| {
        let gemm = Kernel::Gemm(Gemm::linear(Dtype::F32, 1, 256, 256, 256, true, Epilogue::None));
        let measured = kernel(&gemm, 1, 5).unwrap();
        let roof = Roof::measure(1);
        assert_eq!(measured.cost.flops, gemm.cost().flops);
        // A shared machine may slow the roof down while it is measured.
        assert!(roof.seconds(measured.cost) < 2.0 * measured.time.min_s, "{measured:?}, {roof:?}");
    });
}
