//! Measures the CUDA kernels on the GPU at hand: one JSON object a line, by case; `peers.py` has
//! the same cases of other libraries.
//!
//! Random normal data; 100 launches to warm up; then graphs of 20 launches back to back, timed by
//! events, the median of 7. Memory-bound cases move more than the L2 holds, but for the small one
//! that is meant to stay in it.

mod cases;
mod gated;
mod operands;

use std::time::Duration;

use seqpar::cuda::{Context, Event, Priority, Stream, capture};
use seqpar::exec::cuda::Kernels;
use seqpar::kernel::cuda::{Launch, fatbins, launches};
use seqpar::{Error, Result};

use cases::Case;
use operands::Operands;

const WARM_UP: usize = 100;
const BACK_TO_BACK: usize = 20;
const ROUNDS: usize = 7;

fn main() -> std::process::ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match measure(&wanted) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Measures the cases whose names contain one of `wanted`, or all.
fn measure(wanted: &[String]) -> Result<()> {
    let context = Context::primary(0)?;
    let images: Vec<&[u8]> = fatbins().collect();
    if images.is_empty() {
        return Err(Error::Unsupported("no kernels in this program: build it with --features kernels".into()));
    }
    // SAFETY: the fatbins that the compiler wrote into this crate.
    let kernels = unsafe { Kernels::load(&context, &images) }?;
    let stream = Stream::new(Priority::Low)?;
    let about = context.attributes()?;
    println!(
        "{{\"device\":\"{}\",\"sms\":{},\"capability\":\"{}.{}\"}}",
        about.name, about.sms, about.capability.0, about.capability.1
    );
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    for case in cases::all() {
        if chosen(&case.name) {
            match one(&kernels, &stream, &case) {
                Ok(line) => println!("{line}"),
                Err(error) => println!("{{\"case\":\"{}\",\"skipped\":\"{error}\"}}", case.name),
            }
        }
    }
    for case in gated::all() {
        if chosen(&case.name) {
            match case.measure(&kernels, &stream) {
                Ok(line) => println!("{line}"),
                Err(error) => println!("{{\"case\":\"{}\",\"skipped\":\"{error}\"}}", case.name),
            }
        }
    }
    Ok(())
}

fn one(kernels: &Kernels, stream: &Stream, case: &Case) -> Result<String> {
    let operands = Operands::new(&case.kernel, stream)?;
    let mut list = Vec::new();
    for piece in 0..case.kernel.pieces() {
        list.extend(launches(&case.kernel, piece, &operands.views(piece), &kernels.device())?);
    }
    let seconds = time(kernels, stream, &list)?;
    let cost = case.kernel.cost();
    Ok(format!(
        "{{\"case\":\"{}\",\"kernel\":\"{}\",\"us\":{:.3},\"tflops\":{:.2},\"gbps\":{:.1}}}",
        case.name,
        list.first().map_or("-", |launch| launch.symbol.as_str()),
        seconds * 1e6,
        cost.flops / seconds / 1e12,
        cost.bytes / seconds / 1e9
    ))
}

/// Seconds of one run of all launches.
fn time(kernels: &Kernels, stream: &Stream, list: &[Launch]) -> Result<f64> {
    let encoded = list.iter().map(|launch| kernels.encode(launch)).collect::<Result<Vec<_>>>()?;
    let run = |on: &Stream| {
        list.iter().zip(&encoded).try_for_each(|(launch, params)| {
            // SAFETY: operands live until the end of the measurement, one run at a time.
            unsafe { kernels.launch(launch, params, on) }
        })
    };
    (0..WARM_UP).try_for_each(|_| run(stream))?;
    stream.synchronize()?;
    let origin = Stream::new(Priority::Low)?;
    let graph = capture(&origin, || (0..BACK_TO_BACK).try_for_each(|_| run(&origin)))?;
    let (begin, end) = (Event::new(true)?, Event::new(true)?);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        begin.record(stream)?;
        // SAFETY: as above.
        unsafe { graph.launch(stream) }?;
        end.record(stream)?;
        stream.synchronize()?;
        rounds.push(f64::from(end.milliseconds_since(&begin)?) / 1e3 / BACK_TO_BACK as f64);
        std::thread::sleep(Duration::from_millis(20));
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}
