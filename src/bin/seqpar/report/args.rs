//! Flags of `seqpar report`.

use std::path::PathBuf;

use clap::Args;

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Records
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// HTML file to write
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["svg", "trace"])]
    pub(crate) output: Option<PathBuf>,
    /// SVG file to write: the timelines, for papers
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Chrome trace to write, for ui.perfetto.dev, of the one report that the records hold, or of
    /// the one that --pick names
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Keep only reports whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) pick: Option<String>,
    /// Title of the page
    #[arg(long, value_name = "TEXT", default_value = "seqpar report")]
    pub(crate) title: String,
}
