//! `seqpar report`: records as one HTML page, an SVG of the timelines, a Chrome trace.
//!
//! The page is one file: style, scripts and data stand in it, it names no other file and no
//! network, and a content security policy forbids both. Everything that a record says is data to
//! it, never markup. Proof: `tests/report.rs`, `tests/report_browser.rs`.

pub(crate) mod args;
mod page;
mod svg;

use std::path::Path;

use seqpar::exec::trace;

use self::args::ReportArgs;
use crate::fault::{Fault, Result};
use crate::output::{self, Output};
use crate::record::{self, Named, Read};

pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let claim = |flag: &'static str, path: &Option<std::path::PathBuf>| {
        path.as_deref().map(|path| Output::claim(flag, path)).transpose()
    };
    let (page, svg, trace) =
        (claim("--output", &args.output)?, claim("--svg", &args.svg)?, claim("--trace", &args.trace)?);
    let outputs: Vec<&Output> = [page.as_ref(), svg.as_ref(), trace.as_ref()].into_iter().flatten().collect();
    let inputs: Vec<(&str, &Path)> = args.files.iter().map(|path| ("the record", path.as_path())).collect();
    output::keep_apart(&outputs, &inputs)?;
    let written: Vec<String> = outputs.iter().map(|output| output.path().display().to_string()).collect();
    let mut all = Read::default();
    for path in &args.files {
        add(&mut all, path)?;
    }
    pick(&mut all.reports, args.pick.as_deref())?;
    let mut files = Vec::new();
    if let Some(page) = page {
        files.push((page, page::render(&args.title, &all).into_bytes()));
    }
    if let Some(svg) = svg {
        if all.reports.is_empty() {
            return Err(Fault::Data(
                "--svg draws reports, but the records hold only rows: add one with reports".into(),
            ));
        }
        files.push((svg, svg::render(&all.reports).into_bytes()));
    }
    if let Some(trace) = trace {
        files.push((trace, trace::to_json(&only(&all.reports)?.report).into_bytes()));
    }
    output::commit(files)?;
    output::print(&written.join("\n"))
}

/// Adds what a file holds; where reports of several files share a name, the file's name tells
/// them apart.
fn add(all: &mut Read, path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, format!("cannot read it: {error}")))?;
    let mut read = record::read(path, &text)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for report in &mut read.reports {
        if all.reports.iter().any(|other| other.name == report.name && other.kind == report.kind) {
            report.name = format!("{} ({stem})", report.name);
        }
    }
    all.reports.append(&mut read.reports);
    all.rows.append(&mut read.rows);
    if all.host.is_null() {
        all.host = read.host;
    }
    // A roof is what can be reached: of two measurements the higher.
    let rate = |roof: &serde_json::Value, key: &str| roof.get(key).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    if all.roof.is_null() || rate(&read.roof, "threads") > rate(&all.roof, "threads") {
        all.roof = read.roof;
    } else if rate(&read.roof, "threads") == rate(&all.roof, "threads") {
        for key in ["flops_per_s", "bytes_per_s", "cached_bytes_per_s"] {
            all.roof[key] = rate(&all.roof, key).max(rate(&read.roof, key)).into();
        }
    }
    Ok(())
}

fn pick(reports: &mut Vec<Named>, wanted: Option<&str>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    if !reports.iter().any(|report| report.name.contains(wanted)) {
        return Err(Fault::Usage(format!("--pick \"{wanted}\": the reports are {}", names(reports))));
    }
    reports.retain(|report| report.name.contains(wanted));
    Ok(())
}

fn only(reports: &[Named]) -> Result<&Named> {
    match reports {
        [] => Err(Fault::Data("--trace writes a report, but the records hold only rows: add one with a report".into())),
        [report] => Ok(report),
        _ => Err(Fault::Usage(format!("--trace writes one report: choose with --pick among {}", names(reports)))),
    }
}

fn names(reports: &[Named]) -> String {
    let names: Vec<String> = reports.iter().map(|report| format!("\"{}\"", report.name)).collect();
    names.join(", ")
}
