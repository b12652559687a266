//! The timelines as an SVG for papers: one panel a report, one row a stream, time to the right.

use std::fmt::Write as _;

use seqpar::exec::{Span, SpanKind, exposed, overlap};

use super::page::escaped;
use crate::record::{Kind, Named};

const WIDTH: f64 = 960.0;
const GUTTER: f64 = 118.0;
const ROW: f64 = 20.0;
const BAR: f64 = 15.0;
const RANK_GAP: f64 = 6.0;
const TITLE: f64 = 40.0;
const AXIS: f64 = 30.0;
const LEGEND: f64 = 34.0;

pub(super) fn render(reports: &[Named]) -> String {
    let longest_ns = reports.iter().map(end_ns).max().unwrap_or(1).max(1);
    let mut body = String::new();
    let mut y = 10.0;
    for report in reports {
        y = panel(&mut body, report, longest_ns, y);
    }
    let y = legend(&mut body, y);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{HATCH}{body}</svg>\n"
    )
}

const HATCH: &str = "<defs><pattern id=\"exposed\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
    patternTransform=\"rotate(45)\"><rect width=\"5\" height=\"5\" fill=\"#fbd5d5\"/><rect width=\"2\" height=\"5\" \
    fill=\"#d64545\"/></pattern></defs>\n";

fn end_ns(named: &Named) -> u64 {
    named.report.spans.iter().map(|span| span.end_ns).max().unwrap_or(0)
}

/// Draws one report from `y` on and returns where it ends. Writing to a string cannot fail.
fn panel(out: &mut String, named: &Named, longest_ns: u64, mut y: f64) -> f64 {
    let scale = (WIDTH - GUTTER - 16.0) / longest_ns as f64;
    let x = |ns: u64| GUTTER + ns as f64 * scale;
    let ranks = overlap(&named.report);
    let hidden = ranks.iter().map(|of| of.hidden).sum::<f64>() / ranks.len().max(1) as f64;
    let kind = if named.kind == Kind::Simulated { "predicted" } else { "measured" };
    let facts = format!("{kind}, {}, {:.0} % of the transfers hidden", time(end_ns(named) as f64), hidden * 100.0);
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"{:.1}\" font-size=\"13\" font-weight=\"bold\" fill=\"#1b2430\">{}</text>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#55606e\">{}</text>",
        y + 16.0,
        escaped(&named.name),
        WIDTH - 16.0,
        y + 16.0,
        escaped(&facts)
    );
    y += TITLE - 12.0;
    let rows: usize = named.report.streams.iter().map(Vec::len).sum();
    let bottom = y + rows as f64 * ROW + named.report.streams.len() as f64 * RANK_GAP;
    axis(out, y, bottom, longest_ns, &x);
    let gaps = exposed(&named.report);
    let mut spans: Vec<Vec<Vec<&Span>>> =
        named.report.streams.iter().map(|streams| vec![Vec::new(); streams.len()]).collect();
    named.report.spans.iter().for_each(|span| spans[span.rank][span.stream].push(span));
    for (rank, streams) in named.report.streams.iter().enumerate() {
        for (stream, name) in streams.iter().enumerate() {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#55606e\">{}</text>",
                GUTTER - 8.0,
                y + 11.5,
                escaped(name)
            );
            if stream == 0 {
                let _ = writeln!(out, "<text x=\"10\" y=\"{:.1}\" fill=\"#1b2430\">rank {rank}</text>", y + 11.5);
                for &(begin, end) in &gaps[rank] {
                    let width = (end - begin) as f64 * scale;
                    if width >= 0.3 {
                        let _ = writeln!(
                            out,
                            "<rect x=\"{:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{BAR}\" fill=\"url(#exposed)\"/>",
                            x(begin)
                        );
                    }
                }
            }
            bars(out, &spans[rank][stream], y, scale);
            y += ROW;
        }
        y += RANK_GAP;
    }
    bottom + AXIS
}

fn bars(out: &mut String, spans: &[&Span], y: f64, scale: f64) {
    let mut drawn_to = f64::MIN;
    for span in spans.iter().filter(|span| span.kind != SpanKind::Mark) {
        let (x, width) = (GUTTER + span.begin_ns as f64 * scale, span.ns() as f64 * scale);
        // What is thinner than a hair and covered by its neighbour is left out.
        if width < 0.3 && x < drawn_to + 0.3 {
            continue;
        }
        drawn_to = x + width;
        let name = span.name();
        let _ = write!(
            out,
            "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{BAR}\" rx=\"1.5\" fill=\"{}\"><title>{}: {}</title></rect>",
            width.max(0.3),
            colour(span.kind),
            escaped(&name),
            time(span.ns() as f64)
        );
        // Six units a letter of this size is on the safe side.
        let room = (width / 6.0) as usize;
        if room >= 4 {
            let shown = shortened(&name, room);
            let _ = write!(
                out,
                "<text x=\"{:.2}\" y=\"{:.1}\" font-size=\"10\" fill=\"#fff\" text-anchor=\"middle\">{}</text>",
                x + width / 2.0,
                y + 11.0,
                escaped(&shown)
            );
        }
        out.push('\n');
    }
}

/// At most `room` letters, of which the number at the end is kept: `project… 2`.
fn shortened(name: &str, room: usize) -> String {
    if name.chars().count() <= room {
        return name.into();
    }
    let head = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '[' || c == ']' || c == ' ');
    let tail = &name[head.len()..];
    let letters = room.saturating_sub(1 + tail.chars().count());
    let head: String = head.chars().take(letters).collect();
    if letters < 2 { String::new() } else { format!("{}…{tail}", head.trim_end()) }
}

fn axis(out: &mut String, top: f64, bottom: f64, longest_ns: u64, x: &impl Fn(u64) -> f64) {
    let step = nice_step(longest_ns as f64 / 6.0);
    let mut at = 0.0;
    while at <= longest_ns as f64 {
        let x = x(at as u64);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"#1b2430\" stroke-opacity=\"0.12\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#55606e\">{}</text>",
            bottom + 13.0,
            time(at)
        );
        at += step;
    }
}

fn legend(out: &mut String, y: f64) -> f64 {
    let entries = [
        ("compute", colour(SpanKind::Compute)),
        ("copy", colour(SpanKind::Copy)),
        ("communication", colour(SpanKind::Comm)),
        ("exposed: communication without compute", "url(#exposed)"),
    ];
    let mut x = GUTTER;
    for (name, fill) in entries {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"14\" height=\"12\" rx=\"1.5\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1b2430\">{name}</text>",
            x + 20.0,
            y + 10.0
        );
        x += 44.0 + 6.0 * name.len() as f64;
    }
    y + LEGEND
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

fn time(ns: f64) -> String {
    let short = |x: f64| {
        let text = format!("{x:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    match ns {
        ns if ns >= 1e9 => format!("{} s", short(ns / 1e9)),
        ns if ns >= 1e6 => format!("{} ms", short(ns / 1e6)),
        ns if ns >= 1e3 => format!("{} µs", short(ns / 1e3)),
        ns => format!("{} ns", short(ns)),
    }
}

/// Dark enough for white letters, and apart for the colour-blind.
const fn colour(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Comm => "#c2570c",
        SpanKind::Copy => "#0f8a7e",
        SpanKind::External => "#7c4dbd",
        _ => "#2563b8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_label_keeps_its_number() {
        assert_eq!(shortened("attention", 9), "attention");
        assert_eq!(shortened("project chunk 2", 10), "project… 2");
        assert_eq!(shortened("all-to-all qkv[3]", 9), "all-t…[3]");
        assert_eq!(shortened("project chunk 12", 5), "");
    }

    #[test]
    fn ticks_are_round_and_times_have_units() {
        assert_eq!([nice_step(3.0), nice_step(0.4), nice_step(1_200.0)], [5.0, 1.0, 2_000.0]);
        assert_eq!([time(0.0), time(1_500.0), time(2.5e6), time(3e9)], ["0 ns", "1.5 µs", "2.5 ms", "3 s"]);
    }
}
