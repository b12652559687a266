//! `seqpar bench layer`.

use seqpar::bench;
use seqpar::exec::host::HostOptions;
use seqpar::exec::{self, Report};
use seqpar::strategy::{self, Options};
use serde_json::json;

use super::args::LayerArgs;
use super::lines::{self, Columns};
use super::shape::Shape;
use super::{DEADLINE, Session, link, link_text, world};
use crate::fault::Result;
use crate::record::{self, Kind, Named};
use crate::{engine, run};

const COLUMNS: Columns = Columns(&[
    ("strategy", "", 9),
    ("P", "", 3),
    ("tokens", "", 7),
    ("size", "(B/rank)", 11),
    ("count", "(elems)", 11),
    ("type", "", 5),
    ("time", "(us)", 9),
    ("p95", "(us)", 9),
    ("GFLOP", "", 9),
    ("GFLOP/s", "", 9),
    ("under", "(kernels)", 9),
    ("roof", "(us)", 9),
    ("of roof", "", 8),
    ("spread", "", 7),
]);

pub(super) fn run(args: &LayerArgs) -> Result<()> {
    let shape = Shape::new(&args.shape)?;
    let candidates = world::candidates(&args.world, shape.heads())?;
    let layers = shape.layers(args.world.ranks)?;
    let mut session = Session::new(&args.measure)?;
    let link = link(&args.link);
    let notes = [
        format!("{}; link: {}", shape.describe(), link_text(link)),
        "size: bytes that a rank sends; under: part of the transfer time that lay under kernels".into(),
        "roof: all kernels of all ranks one after the other at the roof; of roof: roof over time".into(),
    ];
    COLUMNS.begin(&session, "layer", &notes)?;
    let mut noisy = 0;
    for (tokens, problem) in layers {
        let attention = &problem.attention;
        let mut measured = 0;
        for &(strategy, mesh) in &candidates {
            let plans = strategy::layer(&problem, strategy, &mesh, &Options::default());
            let Some(plans) = world::allowed(&args.world, strategy, plans)? else { continue };
            engine::refuse_beyond_memory(engine::peak_bytes(&plans)?)?;
            let bytes = plans.iter().map(seqpar::plan::Plan::bytes_sent).max().unwrap_or(0);
            let options = HostOptions {
                threads: session.threads,
                link,
                deadline: DEADLINE,
                check_leases: false,
                poison: false,
                ..HostOptions::default()
            };
            let (cost, roof_s) = (bench::cost_of(&plans), session.roof.plans_s(&plans));
            session.announce(strategy.name(), cost.flops, session.iterations);
            let found = bench::timed(plans, options, session.iterations)?;
            let hidden = hidden(&found.report);
            COLUMNS.row(vec![
                strategy.name().into(),
                mesh.world().to_string(),
                tokens.to_string(),
                bytes.to_string(),
                (bytes / attention.dtype.bytes() as u64).to_string(),
                attention.dtype.to_string(),
                lines::us(found.time.p50_s),
                lines::us(found.time.p95_s),
                format!("{:.2}", cost.flops / 1e9),
                format!("{:.1}", cost.flops / found.time.p50_s / 1e9),
                hidden.map_or("-".into(), |part| format!("{part:.2}")),
                lines::us(roof_s),
                format!("{:.2}", roof_s / found.time.p50_s),
                lines::spread(&found.time),
            ])?;
            noisy += usize::from(lines::is_noisy(&found.time));
            measured += 1;
            session.rows.push(json!({
                "bench": "layer",
                "kind": "measured",
                "executor": "host",
                "model": shape.name,
                "strategy": strategy.name(),
                "part": "layer",
                "ranks": mesh.world(),
                "ulysses": mesh.ulysses,
                "ring": mesh.ring,
                "tokens": tokens,
                "dtype": attention.dtype.to_string(),
                "bytes_per_rank": bytes,
                "flops": cost.flops,
                "bytes": cost.bytes,
                "time_us": record::samples(&found.time),
                "hidden": hidden,
                "roof_us": roof_s * 1e6,
                "roof_fraction": roof_s / found.time.p50_s,
            }));
            session.reports.push(Named {
                name: format!("{}, {tokens} tokens", run::describe(strategy, &mesh)),
                kind: Kind::Measured,
                strategy: strategy.name().into(),
                report: found.report,
            });
        }
        world::refuse_none(measured, tokens, &args.world)?;
    }
    lines::end(noisy)?;
    session.finish()
}

/// Part of the transfer time of all ranks that lay under kernels.
fn hidden(report: &Report) -> Option<f64> {
    let ranks = exec::overlap(report);
    let comm: u64 = ranks.iter().map(|rank| rank.comm_ns).sum();
    let exposed: u64 = ranks.iter().map(|rank| rank.exposed_ns).sum();
    (comm > 0).then(|| 1.0 - exposed as f64 / comm as f64)
}
