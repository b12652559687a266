//! A gated kernel runs piece by piece, each as soon as its chunk is there.

use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, HostTensor, Link};
use seqpar::exec::{Report, Span, SpanKind};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};
use seqpar::plan::lower::Gates;
use seqpar::plan::{Builder, CommKind, Direction, Placement, Plan, Role, View};

use super::plans::{lawful, options, rows, run};

const K: usize = 64;
const COLS: usize = 16;

/// Every rank projects all rows of x, whose chunks come from the other ranks one by one.
fn gated(world: usize, chunk: usize) -> Vec<Plan> {
    let total = world * chunk;
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, world);
        let (compute, comm) = (b.stream("compute"), b.stream("comm"));
        let x =
            b.buffer("x", Role::Input, Dtype::F32, [1, chunk, 1, K], Some(rows("x", total, K, rank * chunk, chunk)));
        let dims = [1, COLS, 1, K];
        let whole = Placement { tensor: "w".into(), dims, index: [const { None }; 4] };
        let w = b.buffer("w", Role::Input, Dtype::F32, dims, Some(whole));
        let y = b.buffer("y", Role::Output, Dtype::F32, [1, total, 1, COLS], Some(rows("y", total, COLS, 0, total)));
        let slots = b.temp("slots", Dtype::F32, [1, world.max(2) - 1, chunk, K]);
        let mut chunks: Vec<(usize, View)> = vec![(rank, x)];
        for step in 1..world {
            let tag = b.tag();
            let (to, from) = ((rank + world - step) % world, (rank + step) % world);
            let slot = slots.rows(step - 1..step);
            let transfers = [(Direction::Send, to, x), (Direction::Recv, from, slot)];
            let everyone: Vec<usize> = (0..world).collect();
            let op = b.comm(comm, format!("chunk {step}"), CommKind::SendRecv, tag, &everyone, Dtype::F32, &transfers);
            chunks.push((from, slot.reshape([1, chunk, 1, K]).gated(op)));
        }
        let gemm = Gemm {
            dtype: Dtype::F32,
            out_dtype: Dtype::F32,
            batch: 1,
            chunks: vec![chunk; world],
            k: K,
            parts: vec![COLS],
            bias: false,
            epilogue: Epilogue::None,
        };
        let mut operands = vec![vec![w]];
        for (owner, a) in chunks {
            operands.push(vec![a]);
            operands.push(vec![y.rows(owner * chunk..(owner + 1) * chunk)]);
        }
        b.kernel(compute, "project", Kernel::Gemm(gemm), &operands);
        b.finish()
    };
    (0..world).map(plan).collect()
}

fn inputs(total: usize) -> [(&'static str, HostTensor); 2] {
    let values = |n: usize, f: f32| (0..n).map(|i| (i as f32 * f).sin()).collect::<Vec<f32>>();
    [
        ("x", HostTensor::from_f32(Dtype::F32, [1, total, 1, K], &values(total * K, 0.37)).unwrap()),
        ("w", HostTensor::from_f32(Dtype::F32, [1, COLS, 1, K], &values(COLS * K, 0.73)).unwrap()),
    ]
}

fn pieces(report: &Report, rank: usize) -> Vec<&Span> {
    report.spans.iter().filter(|s| s.rank == rank && s.kind == SpanKind::Compute).collect()
}

#[test]
fn gates_as_flags_and_as_events_give_the_same_bits() {
    for world in [1, 2, 3, 4, 8] {
        let chunk = 5;
        let inputs = inputs(world * chunk);
        let with = |gates| run(&mut lawful(gated(world, chunk), HostOptions { gates, ..options() }), &inputs);
        let (flags, report) = with(Gates::Flags);
        let (events, whole) = with(Gates::Events);
        assert_eq!(flags, events);
        let (x, w, y) = (inputs[0].1.to_f32(), inputs[1].1.to_f32(), flags["y"].to_f32());
        for (i, y) in y.iter().enumerate() {
            let (row, col) = (i / COLS, i % COLS);
            let sum: f64 = (0..K).map(|k| x[row * K + k] as f64 * w[col * K + k] as f64).sum();
            assert!((sum - *y as f64).abs() < 1e-4);
        }
        for rank in 0..world {
            let names: Vec<String> = pieces(&report, rank).iter().map(|span| span.name()).collect();
            let expected: Vec<String> = (0..world).map(|piece| format!("project[{piece}]")).collect();
            assert_eq!(names, if world == 1 { vec!["project".to_string()] } else { expected });
            assert_eq!(pieces(&whole, rank).len(), 1);
        }
    }
}

#[test]
fn a_piece_begins_before_the_next_chunk_arrives() {
    let (world, chunk) = (3, 50);
    let bytes = (chunk * K * 4) as f64;
    let link = Some(Link { bytes_per_s: bytes / 0.02, latency_s: 0.0 });
    let mut prepared = lawful(gated(world, chunk), HostOptions { link, ..options() });
    let (_, report) = run(&mut prepared, &inputs(world * chunk));
    for rank in 0..world {
        let arrived = |step: usize| {
            let label = format!("chunk {step}");
            report.spans.iter().find(|s| s.rank == rank && *s.op == *label).unwrap().end_ns
        };
        let pieces = pieces(&report, rank);
        assert!(pieces[0].begin_ns < arrived(1));
        assert!(arrived(1) <= pieces[1].begin_ns && pieces[1].begin_ns < arrived(2));
        assert!(arrived(2) <= pieces[2].begin_ns);
    }
}
