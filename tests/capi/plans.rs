//! Plans through the ABI on the host executor: the bits of R1, the figures of the plan, a report.

use std::ptr::{null, null_mut};

use seqpar::capi::abi::{HostOptions, Problem, RankReport, Split};
use seqpar::capi::plans::{seqpar_plans_describe, seqpar_plans_destroy, seqpar_plans_json};
use seqpar::capi::prepare::seqpar_prepare_host;
use seqpar::capi::report::{seqpar_report, seqpar_report_json, seqpar_report_trace};
use seqpar::capi::run::{seqpar_bind, seqpar_finish, seqpar_run};
use seqpar::dtype::Dtype;
use seqpar::exec::SpanKind;
use seqpar::strategy::Strategy;

use crate::kernels::sized;
use crate::memory::code;
use crate::support::cases::{Case, layer_inputs};
use crate::support::{Rng, Tensors, assert_same_bits, attention_f64, errors, f64s};
use crate::world::{Ready, World, text};
use crate::{last_error, ok, refused};

fn strategy_code(strategy: Strategy) -> i32 {
    Strategy::ALL.iter().position(|of| *of == strategy).unwrap() as i32
}

/// The problem of a case, as the header has it.
pub(crate) fn problem_of(case: &Case, strategy: Strategy, ranks: usize) -> Problem {
    let [batch, tokens, keys, text] = [case.batch, case.tokens, case.keys, case.text].map(|n| n as i64);
    let [heads, kv_heads, head_dim] = [case.heads, case.kv_heads, case.head_dim].map(|n| n as i64);
    Problem {
        strategy: strategy_code(strategy),
        dtype: code(case.dtype),
        ranks: ranks as i32,
        batch,
        tokens,
        keys: if keys == tokens { 0 } else { keys },
        text,
        heads,
        kv_heads,
        head_dim,
        text_replicated: i32::from(case.replicate),
        key_mask: i32::from(case.mask),
        key_len: i32::from(case.lengths),
        ..sized()
    }
}

/// The same with weights around it.
pub(crate) fn layer_of(case: &Case, strategy: Strategy, ranks: usize) -> (Problem, seqpar::strategy::LayerProblem) {
    let layer = seqpar::strategy::LayerProblem {
        attention: case.problem(case.even(1)),
        hidden: 64,
        qkv_bias: true,
        proj_bias: true,
        text_weights: false,
        qk_norm: Some(1e-6),
        rope: Some(seqpar::kernel::spec::RopePairs::Interleaved),
        mlp: None,
    };
    let problem = Problem {
        kind: 1,
        hidden: 64,
        qkv_bias: 1,
        proj_bias: 1,
        rope: 1,
        qk_norm: 1,
        qk_norm_eps: 1e-6,
        gated: 1,
        ..problem_of(case, strategy, ranks)
    };
    (problem, layer)
}

fn on_host(world: &World) -> Ready {
    let options = HostOptions { threads: 2, ..sized() };
    let mut prepared = null_mut();
    // SAFETY: all are alive.
    ok(unsafe { seqpar_prepare_host(world.0, &options, &mut prepared) });
    Ready(prepared)
}

fn run(problem: &Problem, inputs: &Tensors) -> Tensors {
    let world = World::new(problem);
    let mut outputs = on_host(&world).run_on_host(&world, inputs);
    outputs.remove("lse");
    outputs
}

#[test]
fn attention_has_the_bits_of_one_rank_and_the_values_of_the_oracle() {
    let case = Case { text: 6, kv_heads: 3, lengths: true, mask: true, batch: 2, ..Case::plain(Dtype::F32, 37, 6, 20) };
    let inputs = case.attention_inputs(&mut Rng(3));
    let one = run(&problem_of(&case, Strategy::Single, 1), &inputs);
    let exact = attention_f64(&inputs, |b, j| case.keeps(&inputs, b, j));
    assert!(errors(&f64s(&one["out"]), &exact.out).1 < 1e-5);
    for strategy in [Strategy::Ulysses, Strategy::KvGather, Strategy::Ring] {
        let mut problem = problem_of(&case, strategy, 3);
        let (counts, text) = ([20i64, 1, 16], [0i64, 6, 0]);
        problem.token_split.counts = counts.as_ptr();
        problem.text_split.counts = text.as_ptr();
        let got = run(&problem, &inputs);
        match strategy {
            Strategy::Ring => assert!(errors(&f64s(&got["out"]), &exact.out).1 < 1e-5),
            _ => assert_same_bits(strategy.name(), &got, &one),
        }
    }
    // A cut without runs: token t is on rank t % 3.
    let owners: Vec<i32> = (0..37).map(|t| t % 3).collect();
    let token_split = Split { counts: null(), owners: owners.as_ptr() };
    let problem = Problem { token_split, text_replicated: 1, ..problem_of(&case, Strategy::Ulysses, 3) };
    assert_same_bits("owners", &run(&problem, &inputs), &one);
}

#[test]
fn a_layer_has_the_bits_of_one_rank() {
    let case = Case { text: 5, ..Case::plain(Dtype::Bf16, 23, 4, 16) };
    let (problem, layer) = layer_of(&case, Strategy::Single, 1);
    let inputs = layer_inputs(&case, &layer, &mut Rng(4));
    let one = run(&problem, &inputs);
    assert_eq!(one.keys().collect::<Vec<_>>(), ["out", "text_out"]);
    for strategy in [Strategy::Fastseq, Strategy::Ulysses] {
        assert_same_bits(strategy.name(), &run(&layer_of(&case, strategy, 3).0, &inputs), &one);
    }
}

#[test]
fn figures_and_texts_are_those_of_the_plan_and_the_run() {
    let case = Case::plain(Dtype::F32, 30, 6, 8);
    let world = World::new(&problem_of(&case, Strategy::Ulysses, 3));
    let inputs = case.attention_inputs(&mut Rng(1));
    let ready = on_host(&world);
    let mut report: RankReport = sized();
    // SAFETY: alive.
    refused(unsafe { seqpar_report(ready.0, 0, &mut report) }, "SEQPAR_INVALID_ARGUMENT", "seqpar_run");
    ready.run_on_host(&world, &inputs);
    for rank in 0..3 {
        // SAFETY: alive.
        ok(unsafe { seqpar_report(ready.0, rank, &mut report) });
        let summary = world.summary(rank);
        // V·(P−1)/P² a tensor, 4 tensors, of f32.
        assert_eq!((report.bytes_sent, summary.bytes_sent), (4 * 30 * 6 * 8 * 4 * 2 / 9, report.bytes_sent));
        assert!(report.peak_bytes <= summary.peak_bytes && summary.arena_bytes < summary.peak_bytes);
        assert!(report.wall_ns > 0 && report.compute_ns > 0 && report.exposed_ns <= report.comm_ns);
        // SAFETY: alive.
        let json = text(|t, n, bytes| unsafe { seqpar_plans_json(world.0, rank, t, n, bytes) });
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["hash"], format!("{:016x}", summary.hash));
        assert_eq!(json["ops"].as_array().unwrap().len() as u64, summary.ops);
        assert_eq!((json["peak_bytes"].as_u64(), json["rank"].as_u64()), (Some(summary.peak_bytes), Some(rank as u64)));
    }
    // SAFETY: alive.
    let record = text(|t, n, bytes| unsafe { seqpar_report_json(ready.0, t, n, bytes) });
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let spans = record["reports"][0]["spans"].as_array().unwrap();
    let kinds = record["reports"][0]["kinds"].as_array().unwrap();
    assert!(spans.iter().any(|span| kinds[span[3].as_u64().unwrap() as usize] == SpanKind::Comm.name()));
    assert_eq!((&record["record"], &record["reports"][0]["strategy"]), (&1.into(), &"ulysses".into()));
    // SAFETY: alive.
    let trace = text(|t, n, bytes| unsafe { seqpar_report_trace(ready.0, t, n, bytes) });
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > spans.len());
    // A text that is cut short still ends with a 0.
    let (mut short, mut bytes) = ([0x55u8; 8], 0);
    // SAFETY: 8 bytes of room.
    ok(unsafe { seqpar_report_trace(ready.0, short.as_mut_ptr().cast(), 8, &mut bytes) });
    assert!(bytes > 100 && short[7] == 0 && short[6] != 0);
}

#[test]
fn what_is_not_checked_or_bound_is_refused() {
    let case = Case::plain(Dtype::F32, 8, 2, 8);
    let problem = problem_of(&case, Strategy::Ulysses, 2);
    let (mut plans, mut prepared) = (null_mut(), null_mut());
    // SAFETY: all are alive.
    unsafe {
        ok(seqpar_plans_describe(&problem, &mut plans));
        refused(seqpar_prepare_host(plans, null(), &mut prepared), "SEQPAR_INVALID_ARGUMENT", "seqpar_plans_check");
        seqpar_plans_destroy(plans);
    }
    let world = World::new(&problem);
    let ready = on_host(&world);
    let bound = world.bound();
    let mut memory: Vec<Vec<u64>> = bound.iter().map(|of| vec![0; of.bytes.div_ceil(8)]).collect();
    let addresses: Vec<*mut u64> = memory.iter_mut().map(|words| words.as_mut_ptr()).collect();
    // SAFETY: all are alive.
    unsafe {
        refused(seqpar_run(ready.0, null_mut()), "SEQPAR_UNBOUND", "is not bound");
        refused(seqpar_finish(ready.0), "SEQPAR_INVALID_ARGUMENT", "seqpar_run");
        let first = &bound[0];
        let bind = |data, bytes| seqpar_bind(ready.0, first.rank, first.index, data, bytes);
        refused(bind(addresses[0].cast(), first.bytes - 1), "SEQPAR_UNBOUND", "bytes");
        refused(bind(addresses[0].byte_add(2).cast(), first.bytes), "SEQPAR_UNBOUND", "align");
        refused(bind(null_mut(), first.bytes), "SEQPAR_INVALID_ARGUMENT", "null");
        for (of, address) in bound.iter().zip(&addresses) {
            ready.bind(of, address.cast());
        }
        ready.run(null_mut());
        refused(seqpar_run(ready.0, std::ptr::dangling_mut()), "SEQPAR_INVALID_ARGUMENT", "stream");
        // An output on top of an input.
        let (input, output) = (bound.iter().position(|b| !b.writes).unwrap(), bound.iter().find(|b| b.writes).unwrap());
        ready.bind(output, addresses[input].cast());
        refused(seqpar_run(ready.0, null_mut()), "SEQPAR_UNBOUND", "overlap");
    }
    assert!(last_error().contains("out"));
}
