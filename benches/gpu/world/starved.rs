//! B5: memory that ends at any allocation, and a context that a kernel has destroyed. Both are errors
//! that say what failed, and the process ends soon.

use std::time::{Duration, Instant};

use cudarc::driver::sys;
use seqpar::cuda::{Context, DeviceMemory, Priority, Stream};
use seqpar::exec::cuda::{CudaOptions, prepare, run_tensors};
use seqpar::kernel::cuda::{Passage, link};
use serde_json::{Value, json};

use crate::ground::{Done, Ground, configure};
use crate::loopback::{layer, plans, run, small_case, world_named};
use crate::processes::{Seat, Start, now_ms};
use crate::support::cases::layer_inputs;
use crate::support::{Rng, Tensors};

const RANKS: usize = 4;

/// Runs a world where only so much memory is left, from nothing to enough.
pub(crate) fn memory(ground: &Ground) -> Done {
    if ground.mock {
        configure("memory_bytes=67108864");
    }
    let case = small_case(ground.mock);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(12));
    let _held = Context::primary(0)?;
    let free = free_bytes();
    let attempt =
        || run(ground, plans(&case, &world_named(RANKS, "fastseq")?, RANKS)?, &inputs, CudaOptions::default());
    let want = attempt()?;
    let mut enough: usize = ground.pick(1 << 20, 1 << 12);
    let mut failed = Vec::new();
    while !starved(ground, enough, &attempt, &want, &mut failed)? {
        enough *= 2;
        if enough > free {
            return Err("a run never has enough memory again".into());
        }
    }
    let steps = ground.pick(64, 16);
    for step in 0..steps {
        starved(ground, enough / steps * step, &attempt, &want, &mut failed)?;
    }
    let untyped: Vec<&String> = failed.iter().filter(|error| !error.contains("CUDA_ERROR_OUT_OF_MEMORY")).collect();
    let lost = free.saturating_sub(free_bytes());
    // What the driver keeps for modules and streams.
    let ok = untyped.is_empty() && failed.len() > steps / 4 && lost <= 64 << 20 && attempt()? == want;
    let fields = json!({ "refused": failed.len(), "of": steps, "enough_mib": enough as f64 / 1048576.0, "untyped": untyped,
        "lost_mib": lost as f64 / 1048576.0, "last": failed.last() });
    ground.say("memory that ends at any allocation", ok, fields);
    Ok(())
}

/// Whether a run goes well with `left` bytes; if not, what it says. Right bits are all that goes well.
fn starved(
    ground: &Ground,
    left: usize,
    attempt: &dyn Fn() -> Done<Tensors>,
    want: &Tensors,
    failed: &mut Vec<String>,
) -> Done<bool> {
    let reserve = (left > 0).then(|| DeviceMemory::new(left)).transpose()?;
    let mut ballast = Vec::new();
    let mut bytes = 1usize << 36;
    while bytes >= ground.pick(1 << 20, 1 << 8) {
        match DeviceMemory::new(bytes) {
            Ok(memory) => ballast.push(memory),
            Err(_) => bytes /= 2,
        }
    }
    drop(reserve);
    match attempt() {
        Ok(seen) if seen == *want => Ok(true),
        Ok(_) => Err(format!("other bits with {left} bytes left").into()),
        Err(error) => {
            failed.push(error.to_string());
            Ok(false)
        }
    }
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes two numbers.
    unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
    free
}

/// A process whose context is lost ends by itself.
pub(crate) fn sticky(ground: &Ground) -> Done {
    if ground.mock {
        // Looks at addresses before it goes there.
        configure("check=1");
    }
    let told = Start::new("sticky", sticky_rank, 1, "").start()?.end(Duration::from_secs(60))?;
    let ended_ms = now_ms();
    let value = &told[0]["value"];
    let exit_ms = told[0]["at_ms"].as_u64().map(|at| ended_ms as f64 - at as f64);
    let error = value["error"].as_str().unwrap_or("none");
    // Illegal address, launch failed.
    let typed = ["700", "719"].iter().any(|code| error.contains(code));
    let ok = typed && value["report_ms"].as_f64().is_some_and(|ms| ms < 2e3) && exit_ms.is_some_and(|ms| ms < 2e3);
    let fields = json!({ "error": error, "report_ms": value["report_ms"], "exit_ms": exit_ms, "launch": value["launch"], "told": told[0]["error"] });
    ground.say("a kernel that destroys the context", ok, fields);
    Ok(())
}

pub(crate) fn sticky_rank(seat: &Seat) -> Done<Value> {
    let context = seat.context()?;
    let case = small_case(seat.mock);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(12));
    let kernels = Ground::of_rank(seat.mock).kernels(&context)?;
    let times = DeviceMemory::new(64)?;
    let (ports, arrival) = ([times.address(), times.address() + 8], times.address() + 16);
    // A lock at address 0.
    let [bad, _] = link(&Passage { lock: 0, ports, arrival, transfer_ns: 1, latency_ns: 1, timeout_ns: 1_000_000 });
    let params = kernels.encode(&bad)?;
    kernels.prepare(&bad)?;
    let plans = plans(&case, &world_named(RANKS, "fastseq")?, RANKS)?;
    let prepared =
        prepare(Context::primary(0)?, Ground::of_rank(seat.mock).kernels(&context)?, plans, CudaOptions::default())?;
    run_tensors(&prepared, &inputs, 1)?;
    let stream = Stream::new(Priority::Low)?;
    let begin = Instant::now();
    // SAFETY: it is meant to fail; no result is used afterwards.
    unsafe { kernels.launch(&bad, &params, &stream) }?;
    let launch = stream.synchronize().map_or_else(|e| e.to_string(), |()| "none".into());
    let ended = run_tensors(&prepared, &inputs, 1);
    let report_ms = begin.elapsed().as_secs_f64() * 1e3;
    Ok(
        json!({ "error": ended.map_or_else(|e| e.to_string(), |_| "none".into()), "launch": launch, "report_ms": report_ms }),
    )
}
