//! What a run says at its end: files and tensors on stdout, one line of figures on stderr, or
//! all of it as JSON.

use std::path::Path;

use serde_json::{Value, json};

use crate::engine::Facts;
use crate::fault::Result;
use crate::output;
use crate::record::{self, Kind, Named};
use crate::run::Launch;
use crate::table;

/// Prints the end of a run that wrote `tensors` (name and shape) to `file`.
pub(crate) fn finish(
    json: bool,
    launch: &Launch,
    facts: &Facts,
    file: &Path,
    tensors: &[(&str, Vec<usize>)],
    trace: Option<&Path>,
) -> Result<()> {
    if json {
        let mut value = figures(launch, facts);
        value["output"] = json!(file.display().to_string());
        value["tensors"] = tensors.iter().map(|(name, shape)| (name.to_string(), json!(shape))).collect();
        value["trace"] = json!(trace.map(|path| path.display().to_string()));
        value["reports"] = json!([report(launch, facts)]);
        return output::print(&value.to_string());
    }
    output::note(&line(launch, facts));
    let listed: Vec<String> = tensors.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
    output::print(&format!("{}: {}", file.display(), listed.join(", ")))?;
    trace.map_or(Ok(()), |path| output::print(&format!("{}: open it at https://ui.perfetto.dev", path.display())))
}

/// Strategy, mesh, time, bytes and memory.
pub(crate) fn figures(launch: &Launch, facts: &Facts) -> Value {
    json!({
        "strategy": launch.strategy.name(),
        "ranks": launch.mesh.sequence(),
        "ulysses": launch.mesh.ulysses,
        "ring": launch.mesh.ring,
        "cfg_ranks": launch.mesh.cfg,
        "wall_ms": facts.wall_ms,
        "bytes_sent": facts.bytes_sent,
        "peak_bytes": facts.peak_bytes,
        "overlap": facts.overlap(),
    })
}

/// The last run, for `seqpar report`.
pub(crate) fn report(launch: &Launch, facts: &Facts) -> Value {
    record::report(&Named {
        name: launch.describe(),
        kind: Kind::Measured,
        strategy: launch.strategy.name().into(),
        report: facts.report.clone(),
    })
}

fn line(launch: &Launch, facts: &Facts) -> String {
    let overlap = match facts.overlap() {
        Some(part) => format!(" ({:.0} % of the transfer time under kernels)", part * 100.0),
        None => String::new(),
    };
    format!(
        "{}: {}, {} moved{overlap}, peak {} a rank",
        launch.describe(),
        table::millis(facts.wall_ms),
        table::bytes(facts.bytes_sent.iter().sum()),
        table::bytes(facts.peak_bytes.iter().copied().max().unwrap_or(0)),
    )
}
