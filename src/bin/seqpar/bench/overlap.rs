//! `seqpar bench overlap`.

use seqpar::bench::{self, Case, Conditions, Overlapped, Part, Speed};
use seqpar::exec::host::Link;
use seqpar::exec::sim::Device;
use seqpar::machine::Machine;
use seqpar::strategy::Options;
use serde_json::{Value, json};

use super::args::{OverlapArgs, PartFlag};
use super::lines::{self, Columns};
use super::shape::Shape;
use super::{DEADLINE, Session, link, link_text, world};
use crate::fault::{Fault, Result};
use crate::record::{self, Kind, Named};
use crate::{engine, run, simulate};

const COLUMNS: Columns = Columns(&[
    ("strategy", "", 9),
    ("part", "", 9),
    ("P", "", 3),
    ("tokens", "", 7),
    ("size", "(B/rank)", 11),
    ("count", "(elems)", 11),
    ("type", "", 5),
    ("msgs", "(/rank)", 7),
    ("T_gemm", "(us)", 9),
    ("T_comm", "(us)", 9),
    ("T_seq", "(us)", 9),
    ("T_ovl", "(us)", 9),
    ("p95", "(us)", 9),
    ("T_lb", "(us)", 9),
    ("T_sim", "(us)", 9),
    ("H", "", 6),
    ("R", "", 6),
    ("algbw", "(GB/s)", 7),
    ("threads", "(/rank)", 8),
    ("comm", "(cores)", 8),
    ("spread", "", 7),
]);

pub(super) fn run(args: &OverlapArgs) -> Result<()> {
    let shape = Shape::new(&args.shape)?;
    let paced = args.paced.as_deref().map(paced).transpose()?;
    let candidates = world::candidates(&args.world, shape.heads())?;
    let layers = shape.layers(args.world.ranks)?;
    let mut session = Session::new(&args.measure)?;
    let speed = speed(args, paced.as_ref());
    let mut notes = vec![
        format!("{}; {}", shape.describe(), clock(paced.as_ref())),
        match speed {
            Speed::Ratio(ratio) => format!("link: chosen for each row so that T_comm is {ratio} times T_gemm"),
            Speed::Link(link) => format!("link: {}", link_text(Some(link))),
            _ => "link: memory speed".into(),
        },
    ];
    notes.push(
        "size: bytes that a rank sends; algbw: size over T_comm; comm: cores that the transfers alone keep busy; T_sim: T_ovl as the simulator has it".into(),
    );
    COLUMNS.begin(&session, "overlap", &notes)?;
    let conditions = Conditions {
        iterations: session.iterations,
        threads: session.threads,
        speed,
        paced: paced.clone(),
        deadline: DEADLINE,
    };
    let mut noisy = 0;
    for (tokens, mut problem) in layers {
        if args.part != PartFlag::Layer {
            problem.mlp = None;
        }
        let part = if args.part == PartFlag::Overlapped { Part::Overlapped } else { Part::Layer };
        let mut measured = 0;
        for &(strategy, mesh) in &candidates {
            let case = Case { problem: problem.clone(), strategy, mesh, options: Options::default(), part };
            let Some(plans) = world::allowed(&args.world, strategy, case.plans())? else { continue };
            // Three worlds: the plan and its halves.
            engine::refuse_beyond_memory(3 * engine::peak_bytes(&plans)?)?;
            // The compute runs alone and under the transfers.
            let flops = bench::cost_of(&plans).flops;
            session.announce(strategy.name(), flops, 2 * session.iterations);
            let found = bench::overlap(&case, &conditions)?;
            let part = if args.part == PartFlag::Attention { "attention" } else { case.part_name() };
            COLUMNS.row(cells(&case, part, tokens, &found))?;
            noisy += usize::from(lines::is_noisy(&found.overlapped));
            measured += 1;
            session.rows.push(row(args, &shape, &case, part, tokens, &found));
            let name = format!("{}, {tokens} tokens", run::describe(strategy, &mesh));
            let named =
                |kind: Kind, report| Named { name: name.clone(), kind, strategy: strategy.name().into(), report };
            session.reports.push(named(Kind::Measured, found.report));
            session.reports.extend(found.predicted.map(|report| named(Kind::Simulated, report)));
        }
        world::refuse_none(measured, tokens, &args.world)?;
    }
    lines::end(noisy)?;
    session.finish()
}

/// The rates of a machine. Of a GPU: its matrix product, its memory, and among ranks what sends
/// reach once they have all their channels.
fn paced(name: &str) -> Result<Machine> {
    let found = simulate::machine(name)?;
    match &found.device {
        Device::Host(host) => Ok(host.machine.clone()),
        Device::Gpu(gpu) => Ok(Machine {
            name: found.name.clone(),
            f32_flops: gpu.f32_flops,
            half_flops: gpu.gemm_flops,
            memory_bytes_per_s: gpu.memory_bytes_per_s,
            link_bytes_per_s: gpu.link.peer_bytes_per_s.last().map_or(gpu.link.ring_bytes_per_s, |(_, rate)| *rate),
            link_latency_s: gpu.link.peer_s,
            launch_s: gpu.gap_s,
        }),
        _ => Err(Fault::Usage(format!(
            "--paced {name}: that machine has no rates to keep to; use a host or GPU machine"
        ))),
    }
}

fn clock(paced: Option<&Machine>) -> String {
    paced.map_or("real clock".into(), |machine| {
        format!(
            "paced as \"{}\": its time is stretched until the kernels of this host fit, times are the machine's",
            machine.name
        )
    })
}

/// Flags first, then the paced machine's link, then the ratio.
fn speed(args: &OverlapArgs, paced: Option<&Machine>) -> Speed {
    match (link(&args.link), args.ratio, paced) {
        (Some(link), ..) => Speed::Link(link),
        (None, Some(ratio), _) => Speed::Ratio(ratio),
        (None, None, Some(machine)) => {
            Speed::Link(Link { bytes_per_s: machine.link_bytes_per_s, latency_s: machine.link_latency_s })
        }
        (None, None, None) => Speed::Ratio(1.0),
    }
}

fn cells(case: &Case, part: &str, tokens: usize, found: &Overlapped) -> Vec<String> {
    let dtype = case.problem.attention.dtype;
    let ratio = |x: f64| if x.is_finite() { format!("{x:.2}") } else { "-".into() };
    let rate = |x: f64| if x.is_finite() { format!("{x:.2}") } else { "-".into() };
    vec![
        case.strategy.name().into(),
        part.into(),
        case.mesh.world().to_string(),
        tokens.to_string(),
        found.bytes.to_string(),
        (found.bytes / dtype.bytes() as u64).to_string(),
        dtype.to_string(),
        found.messages.to_string(),
        lines::us(found.gemm.p50_s),
        lines::us(found.comm.p50_s),
        lines::us(found.sequential.p50_s),
        lines::us(found.overlapped.p50_s),
        lines::us(found.overlapped.p95_s),
        lines::us(found.bound_s),
        found.predicted_s().map_or("-".into(), lines::us),
        if found.bytes == 0 { "-".into() } else { ratio(found.hidden_fraction()) },
        ratio(found.regret()),
        if found.bytes == 0 { "-".into() } else { rate(found.bytes as f64 / found.comm.p50_s / 1e9) },
        found.rank_threads.to_string(),
        found.comm_cores.map_or("-".into(), |cores| format!("{cores:.2}")),
        lines::spread(&found.overlapped),
    ]
}

fn row(args: &OverlapArgs, shape: &Shape, case: &Case, part: &str, tokens: usize, found: &Overlapped) -> Value {
    let finite = |x: f64| x.is_finite().then_some(x);
    json!({
        "bench": "overlap",
        "kind": "measured",
        "executor": "host",
        "model": shape.name,
        "strategy": case.strategy.name(),
        "part": part,
        "ranks": case.mesh.world(),
        "ulysses": case.mesh.ulysses,
        "ring": case.mesh.ring,
        "tokens": tokens,
        "dtype": case.problem.attention.dtype.to_string(),
        "hidden": case.problem.hidden,
        "heads": case.problem.attention.heads,
        "clock": args.paced.as_ref().map_or("real".into(), |machine| format!("paced {machine}")),
        "stretch": found.stretch,
        "link_bytes_per_s": found.link.and_then(|link| finite(link.bytes_per_s)),
        "link_latency_us": found.link.map(|link| link.latency_s * 1e6),
        "bytes_per_rank": found.bytes,
        "messages_per_rank": found.messages,
        "flops_per_rank": found.flops,
        "threads_per_rank": found.rank_threads,
        "comm_cores_per_rank": found.comm_cores,
        "t_gemm_us": record::samples(&found.gemm),
        "t_comm_us": record::samples(&found.comm),
        "t_seq_us": record::samples(&found.sequential),
        "time_us": record::samples(&found.overlapped),
        "t_lb_us": found.bound_s * 1e6,
        "t_sim_us": found.predicted_s().map(|seconds| seconds * 1e6),
        "hidden_fraction": finite(found.hidden_fraction()),
        "regret": finite(found.regret()),
    })
}
