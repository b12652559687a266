//! The HTML page: assets and data put together.

use seqpar::exec::{exposed, overlap};
use serde_json::{Value, json};

use crate::record::{self, Named, Read};

const PAGE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/style.css");
/// In the order in which they build on each other.
const SCRIPTS: [&str; 7] = [
    include_str!("assets/format.js"),
    include_str!("assets/theme.js"),
    include_str!("assets/timeline.js"),
    include_str!("assets/chart.js"),
    include_str!("assets/strategies.js"),
    include_str!("assets/roofline.js"),
    include_str!("assets/page.js"),
];

pub(super) fn render(title: &str, all: &Read) -> String {
    let data = json!({
        "title": title,
        "version": env!("CARGO_PKG_VERSION"),
        "host": all.host,
        "roof": all.roof,
        "rows": all.rows,
        "reports": all.reports.iter().map(report).collect::<Vec<_>>(),
    });
    // The page's own text is split once at each mark, so that no mark in the data counts.
    let parts = [("<!--title-->", escaped(title)), ("/*style*/", STYLE.into()), ("\"data\"", embedded(&data))];
    let mut rest = PAGE;
    let mut out = String::with_capacity(PAGE.len() + STYLE.len() + parts[2].1.len());
    for (mark, text) in parts.iter().map(|(mark, text)| (*mark, text.as_str())).chain([("/*scripts*/", "")]) {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        out.push_str(before);
        out.push_str(text);
        rest = after;
    }
    SCRIPTS.iter().for_each(|script| out.push_str(script));
    out + rest
}

fn report(named: &Named) -> Value {
    let mut value = record::report(named);
    let ranks = overlap(&named.report);
    value["overlap"] = ranks
        .iter()
        .map(|of| {
            json!({
                "compute_ns": of.compute_ns, "comm_ns": of.comm_ns, "exposed_ns": of.exposed_ns, "hidden": of.hidden,
            })
        })
        .collect();
    value["exposed"] = json!(exposed(&named.report));
    value
}

/// JSON that can stand in a script element: nothing in it can end the element or open a comment.
fn embedded(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// Text in markup.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no other control characters.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
