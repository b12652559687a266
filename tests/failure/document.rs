//! docs/failure.md says what the code does: every kind, every default.

use std::time::Duration;

use seqpar::comm::nccl::Config;
use seqpar::comm::watchdog::Options;
use seqpar::exec::cuda::CudaOptions;
use seqpar::exec::host::HostOptions;
use seqpar::rendezvous::TcpOptions;

const DOCUMENT: &str = include_str!("../../docs/failure.md");

#[test]
fn every_kind_is_explained() {
    let source = include_str!("../../src/error/failure.rs");
    let kinds = source.split_once("pub enum FailureKind {").unwrap().1.split_once("\n}").unwrap().0;
    let names: Vec<&str> = kinds
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split([' ', ',']).next())
        .filter(|word| word.starts_with(char::is_uppercase))
        .collect();
    assert!(names.len() >= 17, "{names:?}");
    let rows: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with("| `")).collect();
    for name in names {
        let explained = |row: &&&str| row.split(" | ").next().unwrap().contains(&format!("`{name}`"));
        assert_eq!(rows.iter().filter(explained).count(), 1, "{name}");
    }
}

#[test]
fn every_default_is_the_one_of_the_code() {
    let (watch, nccl) = (Options::default(), Config::default());
    let (cuda, host) = (CudaOptions::default(), HostOptions::default());
    for (what, value) in [
        ("watchdog::Options::deadline", watch.deadline),
        ("watchdog::Options::period", watch.period),
        ("watchdog::Options::lost_after", watch.lost_after),
        ("watchdog::Options::silence", watch.silence),
        ("watchdog::Options::abort_within", watch.abort_within),
        ("watchdog::Options::stop_within", watch.stop_within),
        ("nccl::Config::reaper_deadline", nccl.reaper_deadline),
        ("nccl::Config::op_deadline", nccl.op_deadline),
        ("TcpOptions::answer_within", TcpOptions::default().answer_within),
        ("CudaOptions::deadline", cuda.deadline),
        ("HostOptions::deadline", host.deadline),
    ] {
        let row = DOCUMENT.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{what}`")));
        let row = row.unwrap_or_else(|| panic!("{what} is not in the table"));
        let said = row.split(" | ").nth(1).unwrap();
        let (number, unit) = said.split_once(' ').unwrap();
        let unit = if unit == "ms" { 1e-3 } else { 1.0 };
        assert_eq!(Duration::from_secs_f64(number.parse::<f64>().unwrap() * unit), value, "{what}: {said}");
    }
}

/// The commands name tests that are there.
#[test]
fn every_command_runs_something() {
    let names = [include_str!("explore.rs"), include_str!("soak.rs")].concat();
    let wanted: Vec<&str> =
        DOCUMENT.lines().filter_map(|line| line.split_once("--ignored ")).map(|(_, rest)| rest).collect();
    assert_eq!(wanted.len(), 2);
    for wanted in wanted {
        let name = wanted.split_whitespace().next().unwrap();
        assert!(names.contains(&format!("fn {name}")), "{name}");
    }
}
