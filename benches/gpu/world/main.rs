//! Worlds on one GPU: right results, times, failures. One case a call, one JSON object a line; the
//! exit status is 1 if a line says `"ok":false`, 2 if the case itself did not end well.
//!
//! `gpu_world list` prints part, name and limit in seconds of every case; `run.sh` walks through
//! them. With `SEQPAR_BUNDLE_MOCK` set the sizes are small and the tests' mock driver is expected,
//! which shows that the program works and nothing else.

#[path = "../operands.rs"]
mod operands;
#[path = "../../../tests/support/mod.rs"]
mod support;

mod copies;
mod ground;
mod layer;
mod loopback;
mod overhead;

use std::process::ExitCode;

use ground::{Done, Ground};

struct Case {
    /// Of `run.sh`.
    part: &'static str,
    name: &'static str,
    limit_s: u32,
    run: fn(&Ground) -> Done,
}

const fn case(part: &'static str, name: &'static str, limit_s: u32, run: fn(&Ground) -> Done) -> Case {
    Case { part, name, limit_s, run }
}

/// In order of value.
const CASES: &[Case] = &[
    case("cuda", "strategies", 200, loopback::strategies),
    case("cuda", "replays", 60, loopback::replays),
    case("cuda", "overhead", 40, overhead::overhead),
    case("cuda", "layer", 90, layer::layers),
    case("cuda", "copies", 40, copies::copies),
    case("cuda", "overlap", 90, layer::overlaps),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["list"] => {
            CASES.iter().for_each(|case| println!("{} {} {}", case.part, case.name, case.limit_s));
            ExitCode::SUCCESS
        }
        [name] => match CASES.iter().find(|case| case.name == name) {
            Some(case) => run(case),
            None => refuse(&format!("no case {name}: see gpu_world list")),
        },
        _ => refuse("usage: gpu_world list | gpu_world CASE"),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

fn run(case: &Case) -> ExitCode {
    let ground = Ground::new(case.part, case.name);
    match (case.run)(&ground) {
        Ok(()) if ground.failed() == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            ground.say("end", false, serde_json::json!({ "why": error.to_string() }));
            ExitCode::from(2)
        }
    }
}
