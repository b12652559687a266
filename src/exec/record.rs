//! A report as JSON, in the form of the records that `seqpar report` reads.
//!
//! ```text
//! { "name", "kind": "measured" or "simulated", "strategy", "ranks", "wall_ns",
//!   "streams": [["compute", "comm"], ...], "bytes_sent": [...], "peak_bytes": [...],
//!   "ops": ["label", ...], "kinds": ["compute", ...],
//!   "spans": [[rank, stream, op, kind, piece or null, begin_ns, end_ns, bytes, flops], ...] }
//! ```
//!
//! `op` and `kind` are indices into their lists. Tests: `tests/report`, `tests/capi.rs`.

use std::collections::HashMap;

use super::{Report, SpanKind};
use crate::json::Writer;

/// Version of the form.
pub const VERSION: u64 = 1;

/// The kind of a report of a run.
pub const MEASURED: &str = "measured";

/// The kind of a report of a prediction.
pub const SIMULATED: &str = "simulated";

/// All kinds of spans, in the order of `kinds`.
pub const SPAN_KINDS: [SpanKind; 5] =
    [SpanKind::Compute, SpanKind::Comm, SpanKind::Copy, SpanKind::External, SpanKind::Mark];

/// One report under a name.
pub fn of_report(report: &Report, name: &str, kind: &str, strategy: &str) -> String {
    let mut ops: Vec<&str> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    let mut out = Writer::new();
    out.begin_object().key("name").string(name).key("kind").string(kind).key("strategy").string(strategy);
    out.key("ranks").integer(report.streams.len() as u64).key("wall_ns").integer(report.wall_ns);
    out.key("streams").begin_array();
    for streams in &report.streams {
        out.strings(streams);
    }
    out.end_array().key("bytes_sent").integers(report.bytes_sent.iter().copied());
    out.key("peak_bytes").integers(report.peak_bytes.iter().map(|&bytes| bytes as u64));
    out.key("spans").begin_array();
    for span in &report.spans {
        let op = *index.entry(&span.op).or_insert_with(|| {
            ops.push(&span.op);
            ops.len() - 1
        });
        let kind = SPAN_KINDS.iter().position(|kind| *kind == span.kind).unwrap_or(SPAN_KINDS.len() - 1);
        out.begin_array();
        for number in [span.rank, span.stream, op, kind] {
            out.integer(number as u64);
        }
        match span.piece {
            Some(piece) => out.integer(piece),
            None => out.number(f64::NAN),
        };
        out.integer(span.begin_ns).integer(span.end_ns).integer(span.bytes);
        // JSON has no infinity; a span without a sensible count says 0.
        out.number(if span.flops.is_finite() { span.flops } else { 0.0 }).end_array();
    }
    out.end_array().key("ops").strings(ops).key("kinds").strings(SPAN_KINDS.map(SpanKind::name)).end_object();
    out.finish()
}

/// A record of reports that [`of_report`] wrote.
pub fn of_reports(reports: &[String]) -> String {
    format!("{{\"record\":{VERSION},\"reports\":[{}]}}\n", reports.join(","))
}
