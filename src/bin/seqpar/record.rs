//! Records: rows of measurements and reports of runs as JSON, the one form that commands write
//! and `seqpar report` reads.
//!
//! ```text
//! { "record": 1,
//!   "host":    { "cpu", "instruction_set", "cores" },
//!   "roof":    { "threads", "flops_per_s", "bytes_per_s", "cached_bytes_per_s" },
//!   "rows":    [ { "bench", ..., "time_us": { "count", "min", "p50", "p95", "spread" } } ],
//!   "reports": [ as in `seqpar::exec::record` ] }
//! ```
//!
//! Every key but `record` may be missing. A reader ignores keys that it does not know. Proof:
//! `tests/report.rs`.

use std::path::Path;
use std::sync::Arc;

use seqpar::bench::{Roof, Samples};
use seqpar::exec::record::{self, SPAN_KINDS, VERSION};
use seqpar::exec::{Report, Span, SpanKind};
use serde_json::{Map, Value, json};

use crate::fault::{Fault, Result};

/// A report and what it is of.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Title in pictures.
    pub(crate) name: String,
    /// `measured` or `simulated`.
    pub(crate) kind: Kind,
    /// Name of the strategy.
    pub(crate) strategy: String,
    pub(crate) report: Report,
}

/// Where a report comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Measured,
    Simulated,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Measured => record::MEASURED,
            Self::Simulated => record::SIMULATED,
        }
    }
}

/// A whole record.
pub(crate) fn record(roof: Option<&Roof>, rows: Vec<Value>, reports: &[Named]) -> Value {
    json!({
        "record": VERSION,
        "host": host(),
        "roof": roof.map(|roof| json!({
            "threads": roof.threads, "flops_per_s": roof.flops_per_s, "bytes_per_s": roof.bytes_per_s,
            "cached_bytes_per_s": roof.cached_bytes_per_s,
        })),
        "rows": rows,
        "reports": reports.iter().map(report).collect::<Vec<_>>(),
    })
}

/// This machine, as far as a record needs it.
pub(crate) fn host() -> Value {
    json!({
        "cpu": cpu(),
        "instruction_set": seqpar::kernel::host::instruction_set(),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// Name of the processor.
pub(crate) fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| info.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(": "));
    let value = |name| field(name).map_or("unknown", |(_, value)| value);
    format!("{} (family {}, model {})", value("model name"), value("cpu family"), value("model\t"))
}

/// Times as a row holds them.
pub(crate) fn samples(samples: &Samples) -> Value {
    json!({
        "count": samples.count,
        "min": samples.min_s * 1e6,
        "p50": samples.p50_s * 1e6,
        "p95": samples.p95_s * 1e6,
        "spread": samples.spread,
    })
}

/// One report as JSON.
pub(crate) fn report(named: &Named) -> Value {
    let text = record::of_report(&named.report, &named.name, named.kind.name(), &named.strategy);
    serde_json::from_str(&text).unwrap_or_default()
}

/// What `seqpar report` needs of a file.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) host: Value,
    pub(crate) roof: Value,
    pub(crate) rows: Vec<Map<String, Value>>,
    pub(crate) reports: Vec<Named>,
}

/// Reads the text of a record. Objects without `record` are read as well if they have rows or
/// reports, so that what a command prints with `--json` can be a file.
pub(crate) fn read(path: &Path, text: &str) -> Result<Read> {
    let fault = |why: String| Fault::file(path, why);
    let value: Value = serde_json::from_str(text).map_err(|error| fault(format!("is no JSON: {error}")))?;
    let Value::Object(mut object) = value else {
        return Err(fault("is no record: write one with --json of a bench or run command".into()));
    };
    if let Some(version) = object.get("record").filter(|version| version.as_u64() != Some(VERSION)) {
        return Err(fault(format!("is a record of version {version}, this program reads {VERSION}: write it anew")));
    }
    let mut list = |key: &str| match object.remove(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(fault(format!("\"{key}\" is no list: write it anew with --json"))),
    };
    let (rows, reports) = (list("rows")?, list("reports")?);
    if rows.is_empty() && reports.is_empty() {
        return Err(fault("has neither rows nor reports: write it with --json of a bench or run command".into()));
    }
    let row = |(i, row): (usize, Value)| match row {
        Value::Object(row) => Ok(row),
        _ => Err(fault(format!("row {i} is no object: write it anew with --json"))),
    };
    let rows = rows.into_iter().enumerate().map(row).collect::<Result<Vec<_>>>()?;
    let named = |(i, value): (usize, &Value)| {
        read_report(value).ok_or_else(|| fault(format!("report {i} is damaged: write it anew with --json")))
    };
    let reports = reports.iter().enumerate().map(named).collect::<Result<Vec<_>>>()?;
    let mut part = |key: &str| object.remove(key).unwrap_or_default();
    Ok(Read { host: part("host"), roof: part("roof"), rows, reports })
}

fn read_report(value: &Value) -> Option<Named> {
    let text = |key: &str| value.get(key)?.as_str().map(str::to_string);
    let strings = |value: &Value| value.as_array()?.iter().map(|v| v.as_str().map(str::to_string)).collect();
    let integers = |key: &str| value.get(key)?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
    let streams = value.get("streams")?.as_array()?.iter().map(strings).collect::<Option<Vec<Vec<String>>>>()?;
    let ops: Vec<Arc<str>> = strings(value.get("ops")?)?.iter().map(|op: &String| op.as_str().into()).collect();
    let kinds: Vec<String> = strings(value.get("kinds")?)?;
    let kinds: Vec<SpanKind> =
        kinds.iter().map(|name| SPAN_KINDS.into_iter().find(|kind| kind.name() == name)).collect::<Option<_>>()?;
    let spans = value.get("spans")?.as_array()?.iter().map(|span| read_span(span, &streams, &ops, &kinds));
    Some(Named {
        name: text("name")?,
        kind: match text("kind")?.as_str() {
            record::MEASURED => Kind::Measured,
            record::SIMULATED => Kind::Simulated,
            _ => return None,
        },
        strategy: text("strategy")?,
        report: Report {
            spans: spans.collect::<Option<Vec<_>>>()?,
            bytes_sent: integers("bytes_sent")?,
            peak_bytes: integers("peak_bytes")?.into_iter().map(|bytes| bytes as usize).collect(),
            wall_ns: value.get("wall_ns")?.as_u64()?,
            streams,
        },
    })
}

fn read_span(value: &Value, streams: &[Vec<String>], ops: &[Arc<str>], kinds: &[SpanKind]) -> Option<Span> {
    let [rank, stream, op, kind, piece, begin, end, bytes, flops] = value.as_array()?.as_slice() else { return None };
    let index = |value: &Value| value.as_u64().map(|n| n as usize);
    let span = Span {
        rank: index(rank)?,
        stream: index(stream)?,
        op: ops.get(index(op)?)?.clone(),
        kind: *kinds.get(index(kind)?)?,
        begin_ns: begin.as_u64()?,
        end_ns: end.as_u64()?,
        piece: if piece.is_null() { None } else { Some(u16::try_from(piece.as_u64()?).ok()?) },
        bytes: bytes.as_u64()?,
        flops: flops.as_f64()?,
    };
    let lies_on_a_stream = streams.get(span.rank).is_some_and(|names| span.stream < names.len());
    (lies_on_a_stream && span.begin_ns <= span.end_ns).then_some(span)
}
