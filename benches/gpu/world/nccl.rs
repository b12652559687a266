//! Ranks that are processes on one GPU: NCCL's collectives element by element, and every strategy
//! over NCCL and over copies into peers' memory with the bits of loopback. Functional only: on one
//! GPU these ranks share its time.

use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config, Group};
use seqpar::comm::peer::Peers;
use seqpar::cuda::{Context, DeviceMemory, Stream};
use seqpar::dtype::{Dtype, bf16_from_f32};
use seqpar::error::Result;
use seqpar::exec::cuda::{CudaOptions, Nccl, Transport, prepare, prepare_rank, run_local};
use seqpar::plan::{Checked, Plan};
use serde_json::{Value, json};

use crate::ground::{Done, Ground};
use crate::loopback::{layer, plans, poisoned, small_case};
use crate::processes::{MEETING, Seat, Start, all_well, settled};
use crate::support::cases::layer_inputs;
use crate::support::worlds::worlds;
use crate::support::{Rng, Tensors};

/// C0.
pub(crate) fn preflight(ground: &Ground) -> Done {
    let context = Context::primary(0)?;
    let about = context.attributes()?;
    let said = |command: &str| -> String {
        let output = std::process::Command::new("sh").args(["-c", command]).output();
        output.map_or_else(|e| e.to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let library = seqpar::comm::nccl::Library::load(None);
    let (version, path) = match &library {
        Ok(library) => (library.version(), library.path().display().to_string()),
        Err(why) => (0, why.to_string()),
    };
    let fields = json!({
        "device": about.name, "sms": about.sms, "memory_bytes": about.memory_bytes,
        "nccl": version, "library": path,
        "compute_mode": said("nvidia-smi --query-gpu=compute_mode --format=csv,noheader"),
        "mps": said("command -v nvidia-cuda-mps-control; pgrep -l nvidia-cuda-mps"),
        "lo": said("cat /sys/class/net/lo/operstate"),
        "shm": said("df -h /dev/shm | tail -1"),
        "sanitizer": said("command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer"),
        "kernel": said("uname -r"),
    });
    ground.say("preflight", library.is_ok(), fields);
    Ok(())
}

/// Why ranks of NCCL cannot be started, said once a case.
pub(crate) fn without_nccl(ground: &Ground, what: &str) -> bool {
    match seqpar::comm::nccl::Library::load(None) {
        Ok(_) => false,
        Err(why) => {
            ground.skip(what, &why.to_string());
            true
        }
    }
}

pub(crate) fn collectives_2(ground: &Ground) -> Done {
    collectives(ground, 2)
}

pub(crate) fn collectives_4(ground: &Ground) -> Done {
    collectives(ground, 4)
}

pub(crate) fn collectives_8(ground: &Ground) -> Done {
    collectives(ground, 8)
}

fn collectives(ground: &Ground, world: usize) -> Done {
    if without_nccl(ground, "collectives") {
        return Ok(());
    }
    let mut ranks = Start::new("collectives", collectives_rank, world, "").start()?;
    let told = all_well(ranks.end(Duration::from_secs(110))?)?;
    for at in 0..told[0].as_array().map_or(0, Vec::len) {
        let of = |key: &str, rank: &Value| rank[at][key].as_u64().unwrap_or(u64::MAX);
        let wrong = told.iter().map(|rank| of("wrong", rank)).fold(0, u64::saturating_add);
        let first = &told[0][at];
        let fields = json!({ "wrong": wrong, "bytes": first["bytes"], "us": first["us"] });
        ground.say(first["what"].as_str().unwrap_or("?"), wrong == 0, fields);
    }
    Ok(())
}

const OPS: [&str; 6] = ["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "broadcast", "ring"];

/// Small whole numbers, so that every sum over 8 ranks is exact in every type.
fn value(rank: usize, at: usize) -> u32 {
    ((at * 7 + rank * 13 + at / 31) % 31) as u32
}

fn bytes_of(dtype: Dtype, values: impl Iterator<Item = u32>) -> Vec<u8> {
    values
        .flat_map(|value| match dtype {
            Dtype::Bf16 => bf16_from_f32(value as f32).to_ne_bytes().to_vec(),
            Dtype::F32 => (value as f32).to_ne_bytes().to_vec(),
            _ => (value as i32).to_ne_bytes().to_vec(),
        })
        .collect()
}

/// C1.
pub(crate) fn collectives_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let (mut nccl, stream) = (seat.communicator(&Config::default())?, seat.stream()?);
    // The largest of all ranks together stays below what sockets on one GPU move in seconds.
    let sizes: &[usize] = if seat.mock { &[8, 4096] } else { &[8, 4096, 1 << 20, 64 << 20] };
    let results = every_op(&mut nccl, &stream, sizes)?;
    nccl.finalize(MEETING)?;
    Ok(results)
}

/// Results by op, type and size, with the number of wrong elements.
pub(crate) fn every_op(nccl: &mut Communicator, stream: &Stream, sizes: &[usize]) -> Done<Value> {
    let (rank, world, mut results) = (nccl.rank(), nccl.world(), Vec::new());
    for dtype in [Dtype::Bf16, Dtype::F32, Dtype::I32] {
        for bytes in sizes.iter().map(|bytes| if *bytes > 1 << 20 { bytes / world } else { *bytes }) {
            let elems = bytes / dtype.bytes();
            let all = elems * world;
            let from = DeviceMemory::new(all * dtype.bytes())?;
            let to = DeviceMemory::new(all * dtype.bytes())?;
            from.write(0, &bytes_of(dtype, (0..all).map(|at| value(rank, at))), stream)?;
            for op in OPS {
                to.fill(0xff, stream)?;
                stream.synchronize()?;
                let begin = Instant::now();
                // SAFETY: both hold `world` slots of `elems` and live until the stream is done.
                nccl.group(op, |group| unsafe {
                    call(group, op, [from.address(), to.address()], elems, dtype, [rank, world], stream)
                })?;
                settled(nccl, stream, Duration::from_secs(60))?;
                let us = begin.elapsed().as_secs_f64() * 1e6;
                let want = wanted(op, dtype, elems, rank, world);
                let mut seen = vec![0; want.len()];
                to.read(0, &mut seen, stream)?;
                let width = dtype.bytes();
                let wrong = seen.chunks(width).zip(want.chunks(width)).filter(|(seen, want)| seen != want).count();
                let what = format!("{op} {dtype:?} {bytes} B a slot");
                results.push(json!({ "what": what, "wrong": wrong, "bytes": bytes, "us": us }));
            }
        }
    }
    Ok(Value::Array(results))
}

/// What a rank receives.
fn wanted(op: &str, dtype: Dtype, elems: usize, rank: usize, world: usize) -> Vec<u8> {
    let all = elems * world;
    let sum = |at: usize| (0..world).map(|of| value(of, at)).sum();
    match op {
        "all-gather" => bytes_of(dtype, (0..all).map(|at| value(at / elems, at % elems))),
        "reduce-scatter" => bytes_of(dtype, (0..elems).map(|at| sum(rank * elems + at))),
        "all-reduce" => bytes_of(dtype, (0..elems).map(sum)),
        "all-to-all" => bytes_of(dtype, (0..all).map(|at| value(at / elems, rank * elems + at % elems))),
        "broadcast" => bytes_of(dtype, (0..elems).map(|at| value(world - 1, at))),
        _ => bytes_of(dtype, (0..elems).map(|at| value((rank + world - 1) % world, at))),
    }
}

/// # Safety
/// As the calls of [`Group`].
unsafe fn call(
    group: &mut Group<'_>,
    op: &str,
    [from, to]: [u64; 2],
    elems: usize,
    dtype: Dtype,
    [rank, world]: [usize; 2],
    stream: &Stream,
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        match op {
            "all-gather" => group.all_gather(from, to, elems, dtype, stream),
            "reduce-scatter" => group.reduce_scatter(from, to, elems, dtype, stream),
            "all-reduce" => group.all_reduce(from, to, elems, dtype, stream),
            "all-to-all" => group.all_to_all(from, to, elems, dtype, stream),
            "broadcast" => group.broadcast(from, to, elems, dtype, world - 1, stream),
            _ => {
                group.send(from, elems, dtype, (rank + 1) % world, stream)?;
                group.recv(to, elems, dtype, (rank + world - 1) % world, stream)
            }
        }
    }
}

/// FNV-1a, of all outputs of a rank.
fn digest(outputs: &[Option<Vec<u8>>]) -> String {
    let bytes = outputs.iter().flatten().flatten();
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

pub(crate) fn strategies_2(ground: &Ground) -> Done {
    strategies(ground, 2, "nccl", strategies_rank)
}

pub(crate) fn strategies_4(ground: &Ground) -> Done {
    strategies(ground, 4, "nccl", strategies_rank)
}

pub(crate) fn peers_2(ground: &Ground) -> Done {
    strategies(ground, 2, "peers", peers_rank)
}

pub(crate) fn peers_4(ground: &Ground) -> Done {
    strategies(ground, 4, "peers", peers_rank)
}

/// The case of every rank, parent and child alike.
pub(crate) fn given(mock: bool) -> (crate::support::cases::Case, Tensors) {
    let case = small_case(mock);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(11));
    (case, inputs)
}

/// Every strategy, eager and as a graph, with the bits of loopback on each rank.
fn strategies(ground: &Ground, world: usize, name: &str, body: crate::processes::Body) -> Done {
    if name == "nccl" && without_nccl(ground, "strategies") {
        return Ok(());
    }
    let (case, inputs) = given(ground.mock);
    for wants in ["eager", "graph"] {
        let mut ranks = Start::new(name, body, world, wants).start()?;
        let told = ranks.end(Duration::from_secs(80))?;
        let told = match all_well(told) {
            Ok(told) => told,
            Err(why) => {
                ground.say(&format!("{name} of {world}, {wants}"), false, json!({ "why": why.to_string() }));
                continue;
            }
        };
        for of in worlds(world) {
            let context = Context::primary(0)?;
            let kernels = ground.kernels(&context)?;
            let prepared = prepare(context, kernels, plans(&case, &of, world)?, CudaOptions::default())?;
            let want: Vec<String> = run_local(&prepared, &inputs, 1)?.0.iter().map(|rank| digest(rank)).collect();
            let seen: Vec<&str> =
                told.iter().map(|rank| rank[&of.name()]["digest"].as_str().unwrap_or("none")).collect();
            let fields = json!({ "bits": if want == seen { "those of loopback" } else { "differ" }, "wall_us": told[0][&of.name()]["us"] });
            ground.say(&format!("{name}: {} of {world}, {wants}", of.name()), want == seen, fields);
        }
    }
    Ok(())
}

pub(crate) fn strategies_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let config = Config::default();
    let nccl = Nccl::new(seat.communicator(&config)?);
    let done = every_strategy(seat, |_, plans| Ok(nccl.transport(plans, false, &config, MEETING)?))?;
    nccl.finalize(MEETING)?;
    Ok(done)
}

pub(crate) fn peers_rank(seat: &Seat) -> Done<Value> {
    let context = seat.context()?;
    let store = seat.store()?;
    every_strategy(seat, |name, plans| {
        let name = name.replace(' ', "-");
        let peers = Peers::join(store.clone(), &name, seat.rank, seat.world, &context, MEETING)?;
        Ok(Transport::peer(&peers, plans)?)
    })
}

fn every_strategy(seat: &Seat, transport: impl Fn(&str, &[Checked<Plan>]) -> Done<Transport>) -> Done<Value> {
    let (case, inputs) = given(seat.mock);
    let ground = Ground::of_rank(seat.mock);
    let mut done = serde_json::Map::new();
    for world in worlds(seat.world) {
        let context = seat.context()?;
        let kernels = ground.kernels(&context)?;
        let plans = plans(&case, &world, seat.world)?;
        let mut options = CudaOptions::default();
        (options.graph, options.deadline) = (seat.wants == "graph", Duration::from_secs(30));
        let prepared = prepare_rank(
            context,
            kernels,
            plans[seat.rank].clone(),
            transport(&world.name(), &plans)?,
            poisoned(options),
        )?;
        let (outputs, report) = run_local(&prepared, &inputs, 3)?;
        // All ranks' outputs have a place; this one's alone is filled.
        let own: Vec<Option<Vec<u8>>> = outputs.into_iter().flatten().collect();
        done.insert(world.name(), json!({ "digest": digest(&own), "us": report.wall_ns as f64 / 1e3 }));
    }
    Ok(Value::Object(done))
}

/// C2: two ranks on one GPU that do not pretend to be two hosts.
pub(crate) fn duplicate(ground: &Ground) -> Done {
    if ground.mock {
        ground.skip("one device for two ranks", "the mock's ranks have a device each");
        return Ok(());
    }
    if without_nccl(ground, "one device for two ranks") {
        return Ok(());
    }
    let mut start = Start::new("collectives", collectives_rank, 2, "");
    start.hosts = false;
    let begin = Instant::now();
    let told = start.start()?.end(Duration::from_secs(15))?;
    let errors: Vec<&str> = told.iter().map(|told| told["error"].as_str().unwrap_or("no error")).collect();
    let ok = errors.iter().all(|error| error.contains("share one device"));
    ground.say("one device for two ranks", ok, json!({ "errors": errors, "seconds": begin.elapsed().as_secs_f64() }));
    Ok(())
}
