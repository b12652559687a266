//! Joint attention over text and image on 4 ranks, the text replicated: it enters and leaves whole
//! on every rank, its keys count once, and the bits are those of one rank.
//!
//! Run: `cargo run --example joint_attention`

use std::collections::BTreeMap;

use seqpar::Result;
use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, HostTensor, prepare, run_tensors};
use seqpar::mesh::Mesh;
use seqpar::plan::check_world;
use seqpar::shard::Shard;
use seqpar::strategy::{AttentionProblem, Options, Strategy, attention};

const IMAGE: usize = 37;
const TEXT: usize = 7;
const HEADS: usize = 6;
const HEAD_DIM: usize = 16;

fn main() -> Result<()> {
    let inputs = inputs()?;
    let (one, _) = run(Strategy::Single, 1, &inputs)?;
    println!("{IMAGE} image and {TEXT} text tokens, {HEADS} heads of {HEAD_DIM}, text replicated");
    println!("{:<10} {:>5} {:>14} {:>15}  bits of one rank", "strategy", "ranks", "bytes a rank", "largest |diff|");
    for strategy in [Strategy::Ulysses, Strategy::KvGather, Strategy::Ring, Strategy::Usp] {
        let (got, bytes) = run(strategy, 4, &inputs)?;
        let same = ["out", "text_out"].iter().all(|name| got[*name].bytes == one[*name].bytes);
        let far = ["out", "text_out"].iter().map(|name| distance(&got[*name], &one[*name])).fold(0.0, f32::max);
        println!("{:<10} {:>5} {bytes:>14} {far:>15.1e}  {}", strategy.name(), 4, if same { "yes" } else { "no" });
    }
    println!("ring and usp reorder the sum over the keys; the others do not.");
    Ok(())
}

/// Outputs and the most bytes that a rank sent.
fn run(
    strategy: Strategy,
    ranks: usize,
    inputs: &BTreeMap<String, HostTensor>,
) -> Result<(BTreeMap<String, HostTensor>, u64)> {
    let problem = AttentionProblem {
        dtype: Dtype::F32,
        batch: 1,
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        shard: Shard::even(ranks, IMAGE, IMAGE, TEXT, true)?,
        key_mask: false,
        key_len: false,
    };
    let mesh: Mesh = strategy.mesh(ranks, None, None, HEADS, HEADS)?;
    let plans = check_world(attention(&problem, strategy, &mesh, &Options::default())?)?;
    let (outputs, report) = run_tensors(&mut prepare(plans, HostOptions::default())?, inputs)?;
    Ok((outputs, report.bytes_sent.into_iter().max().unwrap_or(0)))
}

fn inputs() -> Result<BTreeMap<String, HostTensor>> {
    let tensor = |rows: usize, phase: f32| {
        let values: Vec<f32> = (0..rows * HEADS * HEAD_DIM).map(|i| (i as f32 * 0.7 + phase).sin()).collect();
        HostTensor::from_f32(Dtype::F32, [1, rows, HEADS, HEAD_DIM], &values)
    };
    let mut inputs = BTreeMap::new();
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        inputs.insert(name.to_string(), tensor(IMAGE, i as f32)?);
        inputs.insert(format!("text_{name}"), tensor(TEXT, 10.0 + i as f32)?);
    }
    Ok(inputs)
}

fn distance(a: &HostTensor, b: &HostTensor) -> f32 {
    a.to_f32().iter().zip(b.to_f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
