//! Aligned lines: `#` headers, then rows under them.

use seqpar::bench::Samples;

use super::Session;
use crate::fault::Result;
use crate::output;
use crate::record;

/// Columns: name, unit, width.
pub(super) struct Columns(pub(super) &'static [(&'static str, &'static str, usize)]);

impl Columns {
    /// The header: what is measured, on what, and the columns.
    pub(super) fn begin(&self, session: &Session, what: &str, notes: &[String]) -> Result<()> {
        let roof = &session.roof;
        let mut text = format!("# seqpar {} bench {what}\n", env!("CARGO_PKG_VERSION"));
        text += &format!(
            "# host executor: {}, {}, {} thread{}, {} iterations after 1 to warm up\n",
            record::cpu(),
            seqpar::kernel::host::instruction_set(),
            session.threads,
            if session.threads == 1 { "" } else { "s" },
            session.iterations
        );
        text += &format!(
            "# roof of {} thread{} of this machine, measured: {:.1} GFLOP/s (multiply-adds on registers), copy {:.1} GB/s in memory, {:.1} GB/s in caches (read + written)\n",
            roof.threads,
            if roof.threads == 1 { "" } else { "s" },
            roof.flops_per_s / 1e9,
            roof.bytes_per_s / 1e9,
            roof.cached_bytes_per_s / 1e9
        );
        for note in notes {
            text += &format!("# {note}\n");
        }
        text += "# times are medians; spread: how far apart the medians of the runs' quarters lie\n#\n";
        text += &format!("#{}\n", &self.line(self.0.iter().map(|(name, ..)| (*name).to_string()))[1..]);
        text += &format!("#{}\n", &self.line(self.0.iter().map(|(_, unit, _)| (*unit).to_string()))[1..]);
        output::print(&text)
    }

    /// One row; a cell wider than its column pushes the rest to the right.
    pub(super) fn row(&self, cells: Vec<String>) -> Result<()> {
        output::print(&self.line(cells.into_iter()))
    }

    fn line(&self, cells: impl Iterator<Item = String>) -> String {
        let line: Vec<String> = cells
            .zip(self.0)
            .enumerate()
            .map(
                |(i, (cell, (_, _, width)))| {
                    if i == 0 { format!("  {cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        line.join(" ").trim_end().to_string()
    }
}

/// A time in µs with about four digits.
pub(super) fn us(seconds: f64) -> String {
    let us = seconds * 1e6;
    if us >= 1000.0 { format!("{us:.0}") } else { format!("{us:.1}") }
}

/// `±1.5%`.
pub(super) fn spread(samples: &Samples) -> String {
    format!("{:.1}%", samples.spread * 100.0)
}

/// Says that rows were noisy, if one was.
pub(super) fn end(noisy: usize) -> Result<()> {
    match noisy {
        0 => Ok(()),
        _ => output::print(&format!(
            "# {noisy} row{} with a spread above 5%: the machine was not idle, or the times are short; measure again before you compare",
            if noisy == 1 { "" } else { "s" }
        )),
    }
}

/// True if a row may not repeat within 5 %.
pub(super) fn is_noisy(samples: &Samples) -> bool {
    samples.spread > 0.05
}
