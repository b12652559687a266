//! A plan written by hand: two ranks swap halves of a vector and each scales what it has.
//!
//! Build with a `Builder`, hold to the law, look at the derived edges, run. No edge, event or wait
//! is written: they follow from what the ops read and write.
//!
//! Run: `cargo run --example plan_by_hand`

use std::collections::BTreeMap;

use seqpar::Result;
use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, HostTensor, prepare, run_tensors};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};
use seqpar::plan::{Builder, CommKind, Direction, Placement, Plan, Role, check_world, dump};
use seqpar::shard::IndexMap;

const WORLD: usize = 2;
const TOKENS: usize = 4;

fn main() -> Result<()> {
    let plans = check_world((0..WORLD).map(rank_plan).collect())?;
    print!("{}", dump::text(&plans[0]));
    for edge in plans[0].edges() {
        println!("derived: \"{}\" waits for \"{}\"", plans[0].label(edge.to), plans[0].label(edge.from));
    }

    let mut prepared = prepare(plans, HostOptions::default())?;
    let x: Vec<f32> = (0..TOKENS).map(|i| i as f32).collect();
    let inputs = BTreeMap::from([
        ("x".to_string(), HostTensor::from_f32(Dtype::F32, [1, TOKENS, 1, 1], &x)?),
        ("factor".to_string(), HostTensor::from_f32(Dtype::F32, [1, 1, 1, 1], &[10.0])?),
    ]);
    let (outputs, report) = run_tensors(&mut prepared, &inputs)?;
    println!("x            {x:?}");
    println!("10·x swapped {:?}", outputs["y"].to_f32());
    println!("bytes sent by each rank: {:?}", report.bytes_sent);
    Ok(())
}

/// Rank r holds half r of x, sends it to the other rank, multiplies what arrives.
fn rank_plan(rank: usize) -> Plan {
    let mut b = Builder::new(rank, WORLD);
    let (compute, comm) = (b.stream("compute"), b.stream("comm"));
    let rows = TOKENS / WORLD;
    let half = |tensor: &str, of: usize| Placement {
        tensor: tensor.into(),
        dims: [1, TOKENS, 1, 1],
        index: [None, Some(IndexMap::contiguous(of * rows..(of + 1) * rows)), None, None],
    };
    let whole = Placement { tensor: "factor".into(), dims: [1; 4], index: [None, None, None, None] };
    let x = b.buffer("x", Role::Input, Dtype::F32, [1, rows, 1, 1], Some(half("x", rank)));
    let factor = b.buffer("factor", Role::Input, Dtype::F32, [1; 4], Some(whole));
    // What was half 1 - r becomes half r of y.
    let y = b.buffer("y", Role::Output, Dtype::F32, [1, rows, 1, 1], Some(half("y", rank)));
    let arrived = b.temp("arrived", Dtype::F32, [1, rows, 1, 1]);

    let other = 1 - rank;
    let tag = b.tag();
    let transfers = [(Direction::Send, other, x), (Direction::Recv, other, arrived)];
    b.comm(comm, "swap", CommKind::SendRecv, tag, &[0, 1], Dtype::F32, &transfers);
    let times = Gemm::linear(Dtype::F32, 1, rows, 1, 1, false, Epilogue::None);
    b.kernel(compute, "times factor", Kernel::Gemm(times), &[vec![factor], vec![arrived], vec![y]]);
    b.finish()
}
