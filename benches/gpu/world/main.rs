//! Worlds on one GPU: right results, times, failures. One case a call, one JSON object a line; the
//! exit status is 1 if a line says `"ok":false`, 2 if the case itself did not end well.
//!
//! `gpu_world list` prints part, name and limit in seconds of every case, `gpu_world device` the
//! device; `run.sh` walks through the cases. With `SEQPAR_BUNDLE_MOCK` set the sizes are small and the tests' mock driver is expected,
//! which shows that the program works and nothing else.

#[path = "../../../tests/cuda_ordering/change.rs"]
#[allow(dead_code)]
mod change;
#[path = "../operands.rs"]
mod operands;
#[path = "../../../tests/support/mod.rs"]
mod support;

mod beside;
mod copies;
mod dropped;
mod faults;
mod ground;
mod layer;
mod loopback;
mod nccl;
mod network;
mod overhead;
mod processes;
mod replayed;
mod shrink;
mod soak;
mod starved;

use std::process::ExitCode;

use ground::{Done, Ground};
use processes::{Body, Seat, sit};
use seqpar::cuda::Context;

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
    case("cuda", "strategies", 240, loopback::strategies),
    case("cuda", "replays", 60, loopback::replays),
    case("cuda", "overhead", 40, overhead::overhead),
    case("cuda", "layer", 90, layer::layers),
    case("cuda", "copies", 40, copies::copies),
    case("cuda", "beside", 40, beside::beside),
    case("cuda", "overlap", 90, layer::overlaps),
    case("cuda", "sticky", 60, starved::sticky),
    case("cuda", "memory", 90, starved::memory),
    case("cuda", "waits", 120, dropped::waits),
    case("nccl", "preflight", 20, nccl::preflight),
    case("nccl", "collectives-2", 120, nccl::collectives_2),
    case("nccl", "nccl-2", 120, nccl::strategies_2),
    case("nccl", "peers-2", 90, nccl::peers_2),
    case("nccl", "nccl-4", 170, nccl::strategies_4),
    case("nccl", "peers-4", 120, nccl::peers_4),
    case("nccl", "collectives-4", 120, nccl::collectives_4),
    case("nccl", "duplicate", 30, nccl::duplicate),
    case("nccl", "collectives-8", 120, nccl::collectives_8),
    case("faults", "kill", 90, faults::kill),
    case("faults", "stop", 90, faults::stop),
    case("faults", "shrink", 90, shrink::shrink),
    case("faults", "graph-kill", 90, replayed::graph_kill),
    case("faults", "network", 170, network::network),
    case("faults", "mismatch", 60, faults::mismatch),
    case("faults", "unchecked", 90, faults::unchecked),
    case("faults", "missing", 90, faults::missing),
    case("faults", "dead-root", 60, faults::dead_root),
    case("faults", "abort", 60, faults::abort),
    case("faults", "two", 120, faults::two),
    case("soak", "soak", 400, soak::mixed),
    case("soak", "replays-long", 120, soak::replays),
];

/// What a rank may be asked to do.
const BODIES: &[(&str, Body)] = &[
    ("collectives", nccl::collectives_rank),
    ("nccl", nccl::strategies_rank),
    ("peers", nccl::peers_rank),
    ("loop", faults::loop_rank),
    ("shrink", shrink::shrink_rank),
    ("replayed", replayed::replayed_rank),
    ("socket", network::socket_rank),
    ("network", network::network_rank),
    ("sticky", starved::sticky_rank),
    ("mismatch", faults::mismatch_rank),
    ("unchecked", faults::unchecked_rank),
    ("bare", faults::bare_rank),
    ("abort", faults::abort_rank),
    ("two", faults::two_rank),
    ("soak", soak::mixed_rank),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["list"] => {
            CASES.iter().for_each(|case| println!("{} {} {}", case.part, case.name, case.limit_s));
            ExitCode::SUCCESS
        }
        ["device"] => match device() {
            Ok(about) => {
                println!("{about}");
                ExitCode::SUCCESS
            }
            Err(why) => refuse(&why.to_string()),
        },
        ["rank", name] => match BODIES.iter().find(|(of, _)| *of == name) {
            Some((_, body)) => match Seat::taken(false).and_then(|seat| sit(&seat, *body)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => refuse(&why.to_string()),
            },
            None => refuse(&format!("no rank does {name}")),
        },
        [name] => match CASES.iter().find(|case| case.name == name) {
            Some(case) => run(case),
            None => refuse(&format!("no case {name}: see gpu_world list")),
        },
        _ => refuse("usage: gpu_world list | gpu_world device | gpu_world CASE"),
    }
}

/// What `run.sh` asks before all else: whether there is a device to run on.
fn device() -> Done<String> {
    let about = Context::primary(0)?.attributes()?;
    Ok(format!("{}, {} SMs, {} GiB", about.name, about.sms, about.memory_bytes >> 30))
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
