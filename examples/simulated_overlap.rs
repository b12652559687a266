//! Measures T_ovl of four strategies over link speed on the host executor, paced on 4 ranks,
//! simulates the same, and draws both.
//!
//! `cargo run --release --example simulated_overlap -- docs/simulated-overlap.svg`

use std::collections::BTreeMap;
use std::fmt::Write as _;

use seqpar::dtype::Dtype;
use seqpar::exec::Report;
use seqpar::exec::host::{Clock, HostOptions, HostTensor, Link, prepare, run_tensors};
use seqpar::exec::sim::{SimMachine, SimOptions, simulate};
use seqpar::machine::Machine;
use seqpar::mesh::Mesh;
use seqpar::plan::{Checked, Plan, Role, check_world};
use seqpar::shard::Shard;
use seqpar::strategy::{AttentionProblem, LayerProblem, Options, Strategy, layer};
use seqpar::{Error, Result};

const RANKS: usize = 4;
/// Kernels of one rank, seconds.
const COMPUTE_S: f64 = 0.1;
/// T_comm over T_gemm.
const RATIOS: [f64; 8] = [0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.2, 3.0];
const RUNS: usize = 5;

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "simulated-overlap.svg".into());
    let panels = [
        (Strategy::Fastseq, Mesh::new(RANKS, 1)?),
        (Strategy::Ulysses, Mesh::new(RANKS, 1)?),
        (Strategy::Ring, Mesh::new(1, RANKS)?),
        (Strategy::Usp, Mesh::new(2, 2)?),
    ];
    let mut drawn = Vec::new();
    println!("strategy  T_comm/T_gemm  measured ms  simulated ms  error");
    for (strategy, mesh) in panels {
        let plans = check_world(layer(&problem()?, strategy, &mesh, &Options::default())?)?;
        let mut points = Vec::new();
        for ratio in RATIOS {
            let machine = machine(&plans[0], ratio);
            let simulated = ms(&simulate(&plans, &SimMachine::host(machine.clone()), &SimOptions::default())?);
            let measured = measure(&plans, machine)?;
            let error = (simulated / measured - 1.0) * 1e2;
            println!("{:<9} {ratio:>13} {measured:>12.1} {simulated:>13.1} {error:>+6.1} %", strategy.name());
            points.push((ratio, measured, simulated));
        }
        drawn.push((strategy.name(), points));
    }
    std::fs::write(&path, draw(&drawn)).map_err(|error| Error::Data(format!("{path}: {error}")))
}

fn problem() -> Result<LayerProblem> {
    let (tokens, heads, head_dim) = (16 * RANKS, 16, 8);
    Ok(LayerProblem {
        attention: AttentionProblem {
            dtype: Dtype::F32,
            batch: 1,
            heads,
            kv_heads: heads,
            head_dim,
            shard: Shard::even(RANKS, tokens, tokens, 0, false)?,
            key_mask: false,
            key_len: false,
        },
        hidden: heads * head_dim,
        qkv_bias: false,
        proj_bias: false,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    })
}

/// So slow that the real kernels are nothing.
fn machine(plan: &Plan, ratio: f64) -> Machine {
    Machine {
        name: "slow".into(),
        f32_flops: plan.flops() / COMPUTE_S,
        half_flops: plan.flops() / COMPUTE_S,
        memory_bytes_per_s: 1e12,
        link_bytes_per_s: plan.bytes_sent() as f64 / (COMPUTE_S * ratio),
        link_latency_s: 3e-4,
        launch_s: 1e-4,
    }
}

/// Best of a few runs, after one to warm up: a busy neighbour can only add time.
fn measure(plans: &[Checked<Plan>], machine: Machine) -> Result<f64> {
    let link = Some(Link { bytes_per_s: machine.link_bytes_per_s, latency_s: machine.link_latency_s });
    let mut options =
        HostOptions { threads: RANKS, link, check_leases: false, poison: false, ..HostOptions::default() };
    options.clock = Clock::Paced(machine);
    let mut inputs = BTreeMap::new();
    for buffer in plans.iter().flat_map(|plan| &plan.buffers).filter(|buffer| buffer.role == Role::Input) {
        if let Some(placement) = &buffer.placement {
            let values = vec![0.01; placement.dims.iter().product()];
            inputs.insert(placement.tensor.clone(), HostTensor::from_f32(buffer.dtype, placement.dims, &values)?);
        }
    }
    let mut prepared = prepare(plans.to_vec(), options)?;
    run_tensors(&mut prepared, &inputs)?;
    let runs = (0..RUNS).map(|_| Ok(ms(&run_tensors(&mut prepared, &inputs)?.1)));
    Ok(runs.collect::<Result<Vec<f64>>>()?.into_iter().fold(f64::INFINITY, f64::min))
}

/// From the first issue to the last end.
fn ms(report: &Report) -> f64 {
    let end = report.spans.iter().map(|span| span.end_ns).max().unwrap_or(0);
    let begin = report.spans.iter().map(|span| span.begin_ns).min().unwrap_or(0);
    (end - begin) as f64 / 1e6
}

type Panel = (&'static str, Vec<(f64, f64, f64)>);

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.small{font-size:11px;fill:#59636e}.axis{stroke:#d1d9e0}\
.line{fill:none;stroke:#0969da;stroke-width:2}.dot{fill:#bc4c00}.bound{fill:none;stroke:#818b98;stroke-dasharray:4 4}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.axis{stroke:#3d444d}.line{stroke:#4493f8}\
.dot{fill:#f0883e}.bound{stroke:#656c76}}";

/// One panel a strategy: the simulated curve, the measured dots, and the larger of T_gemm and T_comm.
fn draw(panels: &[Panel]) -> String {
    let (width, height, left, top) = (190.0, 150.0, 46.0, 74.0);
    let step = width + 18.0;
    let most = panels.iter().flat_map(|(_, points)| points).map(|p| p.1.max(p.2)).fold(0.0, f64::max) * 1.05;
    let (first, last) = (RATIOS[0].ln(), RATIOS[RATIOS.len() - 1].ln());
    let x = |ratio: f64| (ratio.ln() - first) / (last - first) * width;
    let y = |ms: f64| height * (1.0 - ms / most);
    let mut out = String::new();
    let full = (left + step * panels.len() as f64, top + height + 46.0);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"T_ovl measured \
         and simulated over link speed\"><style>{STYLE}</style><text x=\"{left}\" y=\"20\">T_ovl of one attention layer in \
         ms, {RANKS} paced ranks of the host executor</text><line class=\"line\" x1=\"{left}\" \
         x2=\"{:.0}\" y1=\"37\" y2=\"37\"/><text class=\"small\" x=\"{:.0}\" y=\"41\">simulated</text><circle class=\"dot\" \
         cx=\"{:.0}\" cy=\"37\" r=\"4\"/><text class=\"small\" x=\"{:.0}\" y=\"41\">measured, best of {RUNS}</text><line \
         class=\"bound\" x1=\"{:.0}\" x2=\"{:.0}\" y1=\"37\" y2=\"37\"/><text class=\"small\" x=\"{:.0}\" y=\"41\">larger of \
         T_gemm and T_comm</text>",
        full.0,
        full.1,
        left + 24.0,
        left + 30.0,
        left + 110.0,
        left + 119.0,
        left + 260.0,
        left + 284.0,
        left + 290.0
    );
    for (panel, (name, points)) in panels.iter().enumerate() {
        let _ = write!(out, "<g transform=\"translate({:.0} {top})\">", left + step * panel as f64);
        let _ = write!(out, "<text x=\"0\" y=\"-8\">{name}</text>");
        for ms in [0.0, 100.0, 200.0, 300.0].into_iter().filter(|ms| *ms <= most) {
            let _ = write!(out, "<line class=\"axis\" x1=\"0\" x2=\"{width}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>", y(ms));
            if panel == 0 {
                let _ = write!(
                    out,
                    "<text class=\"small\" x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{ms}</text>",
                    y(ms) + 4.0
                );
            }
        }
        for ratio in [0.1, 0.35, 1.0, 3.0] {
            let _ = write!(
                out,
                "<text class=\"small\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{ratio}</text>",
                x(ratio),
                height + 16.0
            );
        }
        if panel == 0 {
            let _ = write!(out, "<text class=\"small\" x=\"0\" y=\"{:.0}\">T_comm / T_gemm</text>", height + 34.0);
        }
        let path = |of: &dyn Fn(&(f64, f64, f64)) -> f64| {
            points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(of(p)))).collect::<Vec<_>>().join(" ")
        };
        let bound = path(&|p| COMPUTE_S * 1e3 * p.0.max(1.0));
        let _ = write!(out, "<polyline class=\"bound\" points=\"{bound}\"/>");
        let _ = write!(out, "<polyline class=\"line\" points=\"{}\"/>", path(&|p| p.2));
        for (ratio, measured, simulated) in points {
            let _ = write!(
                out,
                "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{name}, T_comm {ratio} T_gemm: {measured:.1} ms \
                 measured, {simulated:.1} ms simulated</title></circle>",
                x(*ratio),
                y(*measured)
            );
        }
        out += "</g>";
    }
    out + "</svg>\n"
}
