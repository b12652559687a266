//! `auto` and `--explain`: what the strategies are predicted to cost.

use seqpar::auto::{self, Ask, Prediction};
use seqpar::exec::sim::{SimMachine, SimOptions};
use seqpar::machine::Machine;
use seqpar::mesh::Mesh;
use seqpar::plan::Plan;
use seqpar::strategy::{self, AttentionProblem, LayerProblem, Options, Strategy};
use serde_json::{Value, json};

use crate::args::SpreadArgs;
use crate::fault::Result;
use crate::output;
use crate::run;
use crate::table;

/// Chooses for an attention.
pub(crate) fn attention(problem: &AttentionProblem, args: &SpreadArgs, machine: &Machine) -> Result<(Strategy, Mesh)> {
    pick(args, machine, problem, |strategy, mesh, rank| {
        strategy::attention_rank(problem, strategy, mesh, &Options::default(), rank)
    })
}

/// Chooses for a layer.
pub(crate) fn layer(problem: &LayerProblem, args: &SpreadArgs, machine: &Machine) -> Result<(Strategy, Mesh)> {
    pick(args, machine, &problem.attention, |strategy, mesh, rank| {
        strategy::layer_rank(problem, strategy, mesh, &Options::default(), rank)
    })
}

/// The fastest allowed strategy, of what has this attention; says on stderr which and why.
pub(crate) fn pick(
    args: &SpreadArgs,
    machine: &Machine,
    problem: &AttentionProblem,
    build: impl Fn(Strategy, &Mesh, usize) -> seqpar::Result<Plan> + Sync,
) -> Result<(Strategy, Mesh)> {
    let rows = predictions(args, machine, problem, (None, None), build)?;
    let chosen = auto::choose(&rows, args.allow_reorder)?;
    output::note(&format!(
        "auto: {}, predicted {} and {} sent a rank (`seqpar plan --explain` compares all)",
        run::describe(chosen.strategy, &chosen.mesh),
        table::millis(chosen.seconds * 1e3),
        table::bytes(chosen.bytes_sent)
    ));
    Ok((chosen.strategy, chosen.mesh))
}

fn predictions(
    args: &SpreadArgs,
    machine: &Machine,
    problem: &AttentionProblem,
    degrees: (Option<usize>, Option<usize>),
    build: impl Fn(Strategy, &Mesh, usize) -> seqpar::Result<Plan> + Sync,
) -> Result<Vec<Prediction>> {
    let machine = SimMachine::host(machine.clone());
    let heads = (problem.heads, problem.kv_heads);
    let ask = Ask { machine: &machine, options: SimOptions::default(), ranks: args.ranks, heads, degrees };
    Ok(auto::explain(&ask, |strategy, mesh| strategy::alike(problem, strategy, mesh), build)?)
}

/// Prints the comparison of all strategies for a layer.
pub(crate) fn explain(problem: &LayerProblem, args: &SpreadArgs, as_json: bool) -> Result<()> {
    let machine = run::machine(args);
    let degrees = (args.ulysses, args.ring);
    let rows = predictions(args, &machine, &problem.attention, degrees, |strategy, mesh, rank| {
        strategy::layer_rank(problem, strategy, mesh, &Options::default(), rank)
    })?;
    if as_json {
        let strategies: Vec<Value> = rows.iter().map(as_value).collect();
        return output::print(&json!({ "machine": machine.name, "strategies": strategies }).to_string());
    }
    let header = [
        "strategy",
        "mesh",
        "bytes sent",
        "messages",
        "GFLOP",
        "compute",
        "transfer",
        "exposed",
        "total",
        "peak",
        "bits",
    ];
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let mut text = format!(
        "A rank at most, one transformer layer, predicted for \"{}\" ({:.0} GFLOP/s f32, link {:.1} GB/s + {:.0} us):\n",
        machine.name,
        machine.f32_flops / 1e9,
        machine.link_bytes_per_s / 1e9,
        machine.link_latency_s * 1e6
    );
    text += &table::render(&header, &cells);
    text += "bits: same = those of the one-rank run; reordered = a sum in another order, equal to rounding\n";
    output::print(&text)
}

fn cells(row: &Prediction) -> Vec<String> {
    vec![
        row.strategy.name().into(),
        format!("{} x {}", row.mesh.ulysses, row.mesh.ring),
        table::bytes(row.bytes_sent),
        row.messages_sent.to_string(),
        format!("{:.3}", row.flops / 1e9),
        table::millis(row.compute_s * 1e3),
        table::millis(row.comm_s * 1e3),
        table::millis(row.exposed_s * 1e3),
        table::millis(row.seconds * 1e3),
        table::bytes(row.peak_bytes as u64),
        if row.keeps_bits { "same" } else { "reordered" }.into(),
    ]
}

fn as_value(row: &Prediction) -> Value {
    json!({
        "strategy": row.strategy.name(),
        "ulysses": row.mesh.ulysses,
        "ring": row.mesh.ring,
        "bytes_sent": row.bytes_sent,
        "messages_sent": row.messages_sent,
        "flops": row.flops,
        "compute_ms": row.compute_s * 1e3,
        "transfer_ms": row.comm_s * 1e3,
        "exposed_ms": row.exposed_s * 1e3,
        "predicted_ms": row.seconds * 1e3,
        "peak_bytes": row.peak_bytes,
        "keeps_bits": row.keeps_bits,
    })
}
