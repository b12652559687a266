//! The command line: files in, files out, tables and JSON.
//!
//! Results go to stdout, progress and errors to stderr. A failure is one line that says what to
//! change, and an exit code: 1 for bad data, 2 for bad usage. No command leaves a partial output
//! (see [`output`]). What a command computes is the library's; this program only reads, checks,
//! calls and prints. Proof: `tests/cli/`.

mod args;
mod attention;
mod bench;
mod choice;
mod dit;
mod dump;
mod engine;
mod fault;
mod flight;
mod kernels;
mod layer;
mod mask;
mod model;
mod noise;
mod numbers;
mod output;
mod picture;
mod plan;
mod progress;
mod record;
mod report;
mod results;
mod run;
mod sample;
mod scan;
mod simulate;
mod summary;
mod table;
mod tensors;

use std::process::ExitCode;

use args::Command;
use fault::Fault;

fn main() -> ExitCode {
    let outcome = match args::parse() {
        Ok(None) => Ok(()),
        Ok(Some(Command::Attention(args))) => attention::run(&args),
        Ok(Some(Command::Layer(args))) => layer::run(&args),
        Ok(Some(Command::Dit(args))) => dit::run(&args),
        Ok(Some(Command::Sample(args))) => sample::run(&args),
        Ok(Some(Command::Plan(args))) => plan::run(&args),
        Ok(Some(Command::Kernels(args))) => kernels::run(&args),
        Ok(Some(Command::Bench(command))) => bench::run(&command),
        Ok(Some(Command::Report(args))) => report::run(&args),
        Ok(Some(Command::Simulate(args))) => simulate::run(&args),
        Ok(Some(Command::Flight(args))) => flight::run(&args),
        Err(fault) => Err(fault),
    };
    match outcome {
        Ok(()) | Err(Fault::ClosedPipe) => ExitCode::SUCCESS,
        Err(fault) => {
            output::note(&format!("error: {fault}"));
            ExitCode::from(fault.exit_code())
        }
    }
}
