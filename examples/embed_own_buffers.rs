//! How a framework embeds the runtime: the plan is built once per shape, every rank's buffers are
//! the framework's own memory, and a step only binds and runs.
//!
//! Run: `cargo run --example embed_own_buffers`

use bytemuck::{cast_slice, cast_slice_mut};
use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, prepare};
use seqpar::exec::overlap;
use seqpar::plan::{BufferId, Plan, check_world};
use seqpar::shard::Shard;
use seqpar::strategy::{AttentionProblem, Options, Strategy, attention};
use seqpar::{Error, Result};

const RANKS: usize = 2;
const STEPS: usize = 3;

/// What the framework holds for one rank: its rows of q, k, v, and room for its outputs.
struct Device {
    inputs: Vec<(BufferId, Vec<f32>)>,
    outputs: Vec<(BufferId, Vec<f32>)>,
}

fn main() -> Result<()> {
    let problem = AttentionProblem {
        dtype: Dtype::F32,
        batch: 1,
        heads: 4,
        kv_heads: 4,
        head_dim: 32,
        shard: Shard::even(RANKS, 101, 101, 0, false)?,
        key_mask: false,
        key_len: false,
    };
    let mesh = Strategy::Ulysses.mesh(RANKS, None, None, 4, 4)?;
    let plans = check_world(attention(&problem, Strategy::Ulysses, &mesh, &Options::default())?)?;
    for plan in &plans {
        println!(
            "rank {}: {} ops, sends {} bytes, peak {} bytes",
            plan.rank,
            plan.ops.len(),
            plan.bytes_sent(),
            plan.memory().peak_bytes
        );
    }
    let mut devices = plans.iter().map(|plan| device(plan)).collect::<Result<Vec<_>>>()?;
    let mut prepared = prepare(plans, HostOptions::default())?;

    for step in 0..STEPS {
        for (rank, device) in devices.iter_mut().enumerate() {
            for (_, values) in &mut device.inputs {
                values.iter_mut().enumerate().for_each(|(i, x)| *x = ((i + 7 * rank + step) as f32 * 0.37).sin());
            }
        }
        let mut bindings = prepared.bindings();
        for (rank, device) in devices.iter_mut().enumerate() {
            for (buffer, values) in &device.inputs {
                bindings.input(rank, *buffer, cast_slice(values))?;
            }
            for (buffer, values) in &mut device.outputs {
                bindings.output(rank, *buffer, cast_slice_mut(values))?;
            }
        }
        let report = prepared.run(&mut bindings)?;
        drop(bindings);
        let first = &devices[0].outputs[0].1[..4];
        let hidden: Vec<String> = overlap(&report).iter().map(|o| format!("{:.0} %", 100.0 * o.hidden)).collect();
        println!("step {step}: out of rank 0 starts {first:.3?}; communication hidden {}", hidden.join(", "));
    }
    Ok(())
}

/// Memory for every buffer that the plan wants bound.
fn device(plan: &Plan) -> Result<Device> {
    use seqpar::plan::Role;
    let mut device = Device { inputs: Vec::new(), outputs: Vec::new() };
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let values = vec![0.0; buffer.elems()];
        match buffer.role {
            Role::Input => device.inputs.push((BufferId(i as u32), values)),
            Role::Output => device.outputs.push((BufferId(i as u32), values)),
            Role::Temp => {}
        }
    }
    if device.inputs.len() != 3 || device.outputs.is_empty() {
        return Err(Error::Bind("this example expects q, k, v and an output".into()));
    }
    Ok(device)
}
