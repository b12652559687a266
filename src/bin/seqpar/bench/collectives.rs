//! `seqpar bench collectives`.

use seqpar::bench;
use seqpar::exec::collective::Collective;
use seqpar::exec::host::HostOptions;
use seqpar::plan::Plan;
use serde_json::json;

use super::args::CollectivesArgs;
use super::lines::{self, Columns};
use super::{DEADLINE, Session, link, link_text};
use crate::fault::{Fault, Result};
use crate::{engine, record, run};

/// Bytes of an element: collectives are measured in f32, in which sums travel.
const WIDTH: usize = 4;

const COLUMNS: Columns = Columns(&[
    ("collective", "", 15),
    ("P", "", 3),
    ("size", "(B)", 12),
    ("count", "(elems)", 12),
    ("type", "", 5),
    ("time", "(us)", 10),
    ("p95", "(us)", 10),
    ("algbw", "(GB/s)", 8),
    ("busbw", "(GB/s)", 8),
    ("roof", "(us)", 10),
    ("of roof", "", 8),
    ("spread", "", 7),
]);

pub(super) fn run(args: &CollectivesArgs) -> Result<()> {
    let ranks = args.ranks;
    if !(2..=run::MOST_RUNNING).contains(&ranks) {
        return Err(Fault::Usage(format!("--ranks {ranks}: use 2 to {}", run::MOST_RUNNING)));
    }
    if let Some(size) = args.bytes.0.iter().find(|size| **size < ranks * WIDTH) {
        let least = ranks * WIDTH;
        let why = format!("--bytes {size} is less than one element for each of {ranks} ranks: use {least} or more");
        return Err(Fault::Usage(why));
    }
    let mut session = Session::new(&args.measure)?;
    let link = link(&args.link);
    let notes = [
        format!("link: {}", link_text(link)),
        "roof: the longer of all bytes at the copy rate (each read and written once) and a port's bytes on the link"
            .into(),
    ];
    COLUMNS.begin(&session, "collectives", &notes)?;
    let options = HostOptions {
        threads: session.threads,
        link,
        deadline: DEADLINE,
        check_leases: false,
        poison: false,
        ..HostOptions::default()
    };
    let wanted = if args.collective.is_empty() { Collective::ALL.to_vec() } else { args.collective.clone() };
    let mut noisy = 0;
    for which in wanted {
        for &size in &args.bytes.0 {
            // Whole slots, as nccl-tests rounds.
            let elems = size / WIDTH / ranks * ranks;
            let size = elems * WIDTH;
            let plans = which.plans(size as u64, ranks)?;
            engine::refuse_beyond_memory(engine::peak_bytes(&plans)?)?;
            let moved: u64 = plans.iter().map(Plan::bytes_sent).sum();
            let most = plans.iter().map(Plan::bytes_sent).max().unwrap_or(0);
            let on_link = link.map_or(0.0, |link| link.latency_s + most as f64 / link.bytes_per_s);
            let roof_s =
                (2.0 * moved as f64 / bench::copy_bytes_per_s(session.roof.threads, moved as usize)).max(on_link);
            let time = bench::timed(plans, options.clone(), session.iterations)?.time;
            let algbw = size as f64 / time.p50_s / 1e9;
            let busbw = algbw * which.bus_factor(ranks);
            COLUMNS.row(vec![
                which.name().into(),
                ranks.to_string(),
                size.to_string(),
                elems.to_string(),
                "f32".into(),
                lines::us(time.p50_s),
                lines::us(time.p95_s),
                format!("{algbw:.2}"),
                format!("{busbw:.2}"),
                lines::us(roof_s),
                format!("{:.2}", roof_s / time.p50_s),
                lines::spread(&time),
            ])?;
            noisy += usize::from(lines::is_noisy(&time));
            session.rows.push(json!({
                "bench": "collectives",
                "kind": "measured",
                "executor": "host",
                "collective": which.name(),
                "ranks": ranks,
                "size_bytes": size,
                "count": elems,
                "dtype": "f32",
                "time_us": record::samples(&time),
                "algbw_gbps": algbw,
                "busbw_gbps": busbw,
                "roof_us": roof_s * 1e6,
                "roof_fraction": roof_s / time.p50_s,
            }));
        }
    }
    lines::end(noisy)?;
    session.finish()
}
