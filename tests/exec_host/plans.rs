//! Plans and bindings that several tests use.

use std::collections::BTreeMap;
use std::time::Duration;

use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, HostTensor, Prepared, prepare, run_tensors};
use seqpar::exec::{Report, Span, SpanKind};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};
use seqpar::plan::{Builder, CommKind, Direction, Placement, Plan, Role, View, check_world};
use seqpar::shard::IndexMap;

pub(crate) fn options() -> HostOptions {
    HostOptions { deadline: Duration::from_secs(5), check_leases: true, poison: true, ..HostOptions::default() }
}

pub(crate) fn lawful(plans: Vec<Plan>, options: HostOptions) -> Prepared {
    prepare(check_world(plans).unwrap(), options).unwrap()
}

/// Rows `start..start + len` of a `[1, total, 1, cols]` tensor.
pub(crate) fn rows(tensor: &str, total: usize, cols: usize, start: usize, len: usize) -> Placement {
    let index = [None, Some(IndexMap::contiguous(start..start + len)), None, None];
    Placement { tensor: tensor.into(), dims: [1, total, 1, cols], index }
}

pub(crate) fn counting(dims: [usize; 4], dtype: Dtype) -> HostTensor {
    let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| (i % 251) as f32).collect();
    HostTensor::from_f32(dtype, dims, &values).unwrap()
}

pub(crate) fn run(prepared: &mut Prepared, inputs: &[(&str, HostTensor)]) -> (BTreeMap<String, HostTensor>, Report) {
    let inputs = inputs.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
    run_tensors(prepared, &inputs).unwrap()
}

/// Every rank holds its rows of `x` and gathers all of them in `y`, by the direct route.
pub(crate) fn all_gather(counts: &[usize], cols: usize, dtype: Dtype) -> Vec<Plan> {
    let world = counts.len();
    let total: usize = counts.iter().sum();
    let start = |rank: usize| counts[..rank].iter().sum::<usize>();
    let everyone: Vec<usize> = (0..world).collect();
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, world);
        let (copy, comm) = (b.stream("compute"), b.stream("comm"));
        let own = rows("x", total, cols, start(rank), counts[rank]);
        let x = b.buffer("x", Role::Input, dtype, [1, counts[rank], 1, cols], Some(own));
        let whole = rows("y", total, cols, 0, total);
        let y = b.buffer("y", Role::Output, dtype, [1, total, 1, cols], Some(whole));
        let slot = |r: usize| y.rows(start(r)..start(r) + counts[r]);
        let tag = b.tag();
        let sends = everyone.iter().filter(|&&r| r != rank).map(|&r| (Direction::Send, r, x));
        let receives = everyone.iter().filter(|&&r| r != rank).map(|&r| (Direction::Recv, r, slot(r)));
        let transfers: Vec<(Direction, usize, View)> = sends.chain(receives).collect();
        b.comm(comm, "gather", CommKind::AllGather, tag, &everyone, dtype, &transfers);
        b.copy(copy, "own rows", x, slot(rank));
        b.finish()
    };
    everyone.iter().map(|&rank| plan(rank)).collect()
}

/// A chain on every rank: x is copied to a temporary on one stream, that one to y on another.
pub(crate) fn two_streams(world: usize, dims: [usize; 4]) -> Vec<Plan> {
    let plan = |rank| {
        let mut b = Builder::new(rank, world);
        let (first, second) = (b.stream("first"), b.stream("second"));
        let whole = |name: &str| Some(Placement { tensor: name.into(), dims, index: [const { None }; 4] });
        let x = b.buffer("x", Role::Input, Dtype::F32, dims, whole("x"));
        let y = b.buffer("y", Role::Output, Dtype::F32, dims, whole("y"));
        let t = b.temp("t", Dtype::F32, dims);
        b.copy(first, "fill", x, t);
        b.copy(second, "drain", t, y);
        b.finish()
    };
    (0..world).map(plan).collect()
}

/// Summands of the projection of [`gated`].
pub(crate) const K: usize = 64;
/// Its columns.
pub(crate) const COLS: usize = 16;

/// Every rank projects all rows of x, whose chunks come from the other ranks one by one.
pub(crate) fn gated(world: usize, chunk: usize) -> Vec<Plan> {
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

/// x and w of [`gated`].
pub(crate) fn projection_inputs(total: usize) -> [(&'static str, HostTensor); 2] {
    let values = |n: usize, f: f32| (0..n).map(|i| (i as f32 * f).sin()).collect::<Vec<f32>>();
    [
        ("x", HostTensor::from_f32(Dtype::F32, [1, total, 1, K], &values(total * K, 0.37)).unwrap()),
        ("w", HostTensor::from_f32(Dtype::F32, [1, COLS, 1, K], &values(COLS * K, 0.73)).unwrap()),
    ]
}

/// The kernel spans of a rank.
pub(crate) fn pieces(report: &Report, rank: usize) -> Vec<&Span> {
    report.spans.iter().filter(|s| s.rank == rank && s.kind == SpanKind::Compute).collect()
}
