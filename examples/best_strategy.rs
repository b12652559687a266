//! Prints the table of `docs/simulator.md`: the fastest strategy by model, GPU count and link.
//!
//! `cargo run --release --example best_strategy`

use seqpar::Result;
use seqpar::auto::predict;
use seqpar::dit::models::{Model, Sizes};
use seqpar::exec::sim::{SimMachine, SimOptions, kernel_s};
use seqpar::strategy::{Options, Strategy, alike, layer_rank};

const MODELS: [&str; 7] = ["dit-xl/2", "flux", "stdit3", "cogvideox-5b", "wan2.1-1.3b", "wan2.1-14b", "hunyuanvideo"];
const MACHINES: [&str; 3] = ["h100x8", "a100x8", "l40x8"];
const RANKS: [usize; 3] = [2, 4, 8];

fn main() -> Result<()> {
    println!("| model | GPUs | {} |", MACHINES.join(" | "));
    println!("|---|---|{}", "---|".repeat(MACHINES.len()));
    for model in MODELS {
        for ranks in RANKS {
            let cells = MACHINES.map(|machine| best(Model::named(model)?, ranks, &SimMachine::named(machine)?));
            let cells = cells.into_iter().collect::<Result<Vec<String>>>()?;
            println!("| {model} | {ranks} | {} |", cells.join(" | "));
        }
    }
    Ok(())
}

/// The fastest of all and, where it reorders sums, the fastest that does not.
fn best(model: &Model, ranks: usize, machine: &SimMachine) -> Result<String> {
    let mut rows = Vec::new();
    for strategy in Strategy::ALL.into_iter().filter(|strategy| *strategy != Strategy::Single) {
        // usp without a second dimension is ulysses or ring.
        let (ulysses, ring) = if strategy == Strategy::Usp { (Some(ranks / 2), Some(2)) } else { (None, None) };
        if strategy == Strategy::Usp && ranks < 4 {
            continue;
        }
        let Ok(mesh) = strategy.mesh(ranks, ulysses, ring, model.heads, model.kv_heads) else { continue };
        let groups: &[usize] = if mesh.ulysses > 1 { &[1, 2, 4] } else { &[1] };
        for &head_groups in groups {
            let options = Options { head_groups, ..Options::default() };
            rows.push((
                step_s(model, &model.sizes(), machine, strategy, &mesh, &options)?,
                strategy,
                strategy.keeps_bits(&mesh),
            ));
        }
    }
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let alone = Strategy::Single.mesh(1, None, None, model.heads, model.kv_heads)?;
    let alone = step_s(model, &model.sizes(), machine, Strategy::Single, &alone, &Options::default())?;
    let name = |row: &(f64, Strategy, bool)| format!("{} {:.1}×", row.1.name(), alone / row.0);
    Ok(match rows.iter().find(|row| row.2) {
        Some(kept) if !rows[0].2 => format!("{} ({})", name(&rows[0]), name(kept)),
        _ => name(&rows[0]),
    })
}

fn step_s(
    model: &Model,
    sizes: &Sizes,
    machine: &SimMachine,
    strategy: Strategy,
    mesh: &seqpar::mesh::Mesh,
    options: &Options,
) -> Result<f64> {
    let ranks = mesh.world();
    let mut step = 0.0;
    for kind in model.kinds {
        let problem = model.layer(kind, sizes, ranks)?;
        let (strategy, mesh) = match model.split(kind, ranks) {
            1 => (Strategy::Single, Strategy::Single.mesh(1, None, None, model.heads, model.kv_heads)?),
            _ => (strategy, *mesh),
        };
        let alike = alike(&problem.attention, strategy, &mesh);
        let build = |rank| layer_rank(&problem, strategy, &mesh, options, rank);
        let layer = predict(machine, SimOptions::default(), strategy, mesh, &alike, build)?.seconds;
        let beside: f64 = model.beside(kind, sizes, ranks).iter().map(|kernel| kernel_s(machine, kernel)).sum();
        step += kind.count as f64 * (layer + beside);
    }
    Ok(step)
}
