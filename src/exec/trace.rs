//! Writes a [`Report`] as a Chrome/Perfetto trace: complete events (`ph:"X"`), pid = rank, tid =
//! stream, times in µs. Open it at <https://ui.perfetto.dev> or `chrome://tracing`.
//!
//! Format: Trace Event Format, JSON object form. Test: `tests/exec_timing.rs` parses it.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{Report, Span};

/// Writes the trace of `report`.
///
/// # Errors
/// What `out` reports.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    out.write_all(to_json(report).as_bytes())
}

/// The trace of `report` as JSON.
pub fn to_json(report: &Report) -> String {
    let mut events: Vec<String> = Vec::new();
    for (rank, streams) in report.streams.iter().enumerate() {
        events.push(metadata("process_name", rank, 0, &format!("rank {rank}")));
        events.extend(streams.iter().enumerate().map(|(tid, name)| metadata("thread_name", rank, tid, name)));
    }
    events.extend(report.spans.iter().map(event));
    format!("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", events.join(",\n"))
}

fn metadata(what: &str, pid: usize, tid: usize, name: &str) -> String {
    format!("{{\"ph\":\"M\",\"name\":\"{what}\",\"pid\":{pid},\"tid\":{tid},\"args\":{{\"name\":{}}}}}", quoted(name))
}

fn event(span: &Span) -> String {
    // JSON has no infinity; a span without a sensible count says 0.
    let flops = if span.flops.is_finite() { span.flops } else { 0.0 };
    format!(
        "{{\"ph\":\"X\",\"name\":{},\"cat\":\"{}\",\"pid\":{},\"tid\":{},\"ts\":{},\"dur\":{},\"args\":{{\"bytes\":{},\"flops\":{flops}}}}}",
        quoted(&span.name()),
        span.kind.name(),
        span.rank,
        span.stream,
        micros(span.begin_ns),
        micros(span.ns()),
        span.bytes,
    )
}

fn micros(ns: u64) -> String {
    format!("{}.{:03}", ns / 1000, ns % 1000)
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Writing to a String cannot fail.
            c if (c as u32) < 0x20 => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
