//! What goes wrong between ranks on one GPU, and how long it takes to notice and to end: C3 to C9
//! and C12. Ranks are processes; the parent ends all of them, whatever they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config, UniqueId, abort_all};
use seqpar::comm::signature::agree;
use seqpar::comm::watchdog::{Options, Presence, Watchdog};
use seqpar::cuda::DeviceMemory;
use seqpar::dtype::Dtype;
use seqpar::plan::Plan;
use seqpar::rendezvous::Store;
use serde_json::{Value, json};

use crate::ground::{Done, Ground};
use crate::loopback::{plans, small_case, world_named};
use crate::nccl::without_nccl;
use crate::processes::{MEETING, Ranks, Seat, Start, now_ms, settled};

/// D of the tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
pub(crate) const WORLD: usize = 3;
pub(crate) const VICTIM: usize = WORLD - 1;
/// The whole of a case.
pub(crate) const LIMIT: Duration = Duration::from_secs(75);

/// What a case needs that the mock has not, or that is not installed.
fn impossible(ground: &Ground, what: &str) -> bool {
    if ground.mock {
        ground.skip(what, "ranks are threads on the mock: they cannot be killed or stopped");
        return true;
    }
    without_nccl(ground, what)
}

/// All-gathers under a watchdog until something fails; tells what, when, and how long the end took.
pub(crate) fn loop_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let config = Config { op_deadline: DEADLINE, ..Config::default() };
    let (mut nccl, stream) = (seat.communicator(&config)?, seat.stream()?);
    let presence = Presence::hold(&seat.folder, seat.rank)?;
    let options = Options { deadline: DEADLINE, dumps: Some(seat.folder.clone()), ..Options::default() };
    let watchdog = Watchdog::start(seat.store()?, seat.rank, seat.world, options, Some(presence))?;
    let done = Arc::new(AtomicU64::new(0));
    let (of_watch, members) = (done.clone(), (0..seat.world).collect::<Vec<_>>());
    let watch = nccl.watch(&watchdog, &members, move || of_watch.load(Ordering::Acquire))?;
    let elems = 1 << 20;
    let (from, to) = (DeviceMemory::new(4 * elems)?, DeviceMemory::new(4 * elems * seat.world)?);
    let begin = Instant::now();
    let error = loop {
        let mut step = || -> Done {
            watch.check()?;
            // SAFETY: the memory lives to the end of the process.
            nccl.group("all-gather", |group| unsafe {
                group.all_gather(from.address(), to.address(), elems, Dtype::F32, &stream)
            })?;
            while !stream.is_done()? {
                watch.check()?;
                nccl.async_error()?;
                if seat.is_killed() {
                    break;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            Ok(())
        };
        let stepped = step();
        if seat.is_killed() {
            std::mem::forget((nccl, from, to));
            return Ok(Value::Null);
        }
        match stepped {
            Ok(()) => {
                if done.fetch_add(1, Ordering::Release) == 2 {
                    seat.note("going", "")?;
                }
            }
            Err(error) => break error,
        }
        if begin.elapsed() > LIMIT {
            return Err("nothing has failed".into());
        }
    };
    let noticed_ms = now_ms();
    let first = watchdog.failure().map(|failure| failure.to_string());
    let begin = Instant::now();
    let abort = nccl.abort_handle().abort("a failure");
    let abort_ms = begin.elapsed().as_secs_f64() * 1e3;
    let idle = settled_or_not(&stream);
    let ops = done.load(Ordering::Acquire);
    let said = json!({
        "error": error.to_string(), "first": first, "noticed_ms": noticed_ms, "ops": ops, "abort_ms": abort_ms,
        "abort": abort.map_or_else(|e| e.to_string(), |()| "returned".into()), "device_idle_ms": idle,
    });
    // What hangs in a destructor must not hide what was found.
    std::mem::forget((nccl, watchdog, from, to));
    Ok(said)
}

/// Milliseconds until the device let go of an aborted op; nothing where it did not within 10 s.
pub(crate) fn settled_or_not(stream: &seqpar::cuda::Stream) -> Option<f64> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        match stream.is_done() {
            Ok(false) => std::thread::sleep(Duration::from_millis(1)),
            _ => return Some(begin.elapsed().as_secs_f64() * 1e3),
        }
    }
    None
}

pub(crate) fn survivors(ground: &Ground, told: &[Value], since_ms: u64, most_ms: f64, what: &str) {
    for (rank, told) in told.iter().enumerate().filter(|(rank, _)| *rank != VICTIM) {
        let value = &told["value"];
        let detect_ms = value["noticed_ms"].as_u64().map(|at| at as f64 - since_ms as f64);
        let ok = detect_ms.is_some_and(|ms| ms <= most_ms) && value["abort"] == "returned";
        let fields = json!({
            "detect_ms": detect_ms, "abort_ms": value["abort_ms"], "device_idle_ms": value["device_idle_ms"],
            "error": if value.is_null() { &told["error"] } else { &value["error"] }, "first": value["first"],
        });
        ground.say(&format!("{what}, rank {rank}"), ok, fields);
    }
}

fn going() -> Done<Ranks> {
    let mut ranks = Start::new("loop", loop_rank, WORLD, "").start()?;
    ranks.going()?;
    Ok(ranks)
}

/// C3.
pub(crate) fn kill(ground: &Ground) -> Done {
    if without_nccl(ground, "a killed rank") {
        return Ok(());
    }
    let mut ranks = going()?;
    let at = ranks.kill(VICTIM)?;
    let told = ranks.end(Duration::from_secs(30))?;
    survivors(ground, &told, at, 3e3, "a killed rank");
    Ok(())
}

/// C4.
pub(crate) fn stop(ground: &Ground) -> Done {
    if impossible(ground, "a stopped rank") {
        return Ok(());
    }
    let mut ranks = going()?;
    let at = ranks.signal(VICTIM, libc::SIGSTOP);
    std::thread::sleep(2 * DEADLINE);
    ranks.signal(VICTIM, libc::SIGCONT);
    let told = ranks.end(Duration::from_secs(30))?;
    survivors(ground, &told, at, DEADLINE.as_millis() as f64 + 2e3, "a stopped rank");
    let woken = &told[VICTIM]["value"];
    ground.say(
        "the stopped rank, woken",
        !woken.is_null(),
        json!({ "error": woken["error"], "first": woken["first"] }),
    );
    Ok(())
}

/// C5: plans that differ are refused before anything is launched.
pub(crate) fn mismatch(ground: &Ground) -> Done {
    let told = Start::new("mismatch", mismatch_rank, 2, "").start()?.end(Duration::from_secs(30))?;
    for (rank, told) in told.iter().enumerate() {
        let error = told["value"]["error"].as_str().unwrap_or("none");
        let ms = told["value"]["ms"].as_f64().unwrap_or(f64::NAN);
        let ok = error.contains("this rank would") && ms < 1e3;
        ground.say(&format!("plans that differ, rank {rank}"), ok, json!({ "error": error, "ms": ms }));
    }
    Ok(())
}

pub(crate) fn mismatch_rank(seat: &Seat) -> Done<Value> {
    // Rank 1 has another strategy than rank 0.
    let name = if seat.rank == 0 { "ulysses" } else { "fastseq" };
    let plans = plans(&small_case(seat.mock), &world_named(seat.world, name)?, seat.world)?;
    let (store, plan): (_, &Plan) = (seat.store()?, &plans[seat.rank]);
    // The clock starts when both are there.
    store.set(&format!("here/{}", seat.rank), b"1")?;
    store.wait(&format!("here/{}", 1 - seat.rank), Instant::now() + MEETING)?;
    let begin = Instant::now();
    let said = agree(&*store, "layer", plan, Instant::now() + DEADLINE);
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    Ok(json!({ "error": said.map_or_else(|e| e.to_string(), |()| "none".into()), "ms": ms }))
}

/// C6: what NCCL does where nobody has compared the plans. No outcome is wrong but a rank that
/// hangs, or one that receives less than was sent and does not know.
pub(crate) fn unchecked(ground: &Ground) -> Done {
    if without_nccl(ground, "unchecked mismatch") {
        return Ok(());
    }
    // The first leaves no context that works to the others, where ranks are threads.
    for &wants in ground.pick(&["count", "order", "long-send", "short-send"][..], &["count"]) {
        let told = Start::new("unchecked", unchecked_rank, 2, wants).start()?.end(Duration::from_secs(20))?;
        let outcomes: Vec<&Value> =
            told.iter().map(|told| if told["value"].is_null() { &told["error"] } else { &told["value"] }).collect();
        let hung = told.iter().any(|told| told["silent"] == true);
        let silent = wants == "long-send" && told.iter().all(|told| told["value"]["error"] == "none");
        ground.say(&format!("unchecked: {wants}"), !hung && !silent, json!({ "outcomes": outcomes }));
    }
    Ok(())
}

pub(crate) fn unchecked_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let config = Config { op_deadline: DEADLINE, ..Config::default() };
    let (mut nccl, stream) = (seat.communicator(&config)?, seat.stream()?);
    let odd = seat.rank == 1;
    let elems = 1 << 16;
    let [from, to] = [(); 2].map(|()| DeviceMemory::new(16 * elems));
    let (from, to) = (from?.address(), to?.address());
    let begin = Instant::now();
    let mut all = |kind: &str, elems: usize| -> Done {
        // SAFETY: the addresses are of at least twice what is moved; the process ends after it.
        nccl.group(kind, |group| unsafe {
            match kind {
                "send" => group.send(from, elems, Dtype::F32, 1 - seat.rank, &stream),
                "recv" => group.recv(to, elems, Dtype::F32, 1 - seat.rank, &stream),
                "all-reduce" => group.all_reduce(from, to, elems, Dtype::F32, &stream),
                _ => group.all_gather(from, to, elems, Dtype::F32, &stream),
            }
        })?;
        Ok(())
    };
    let issued = match seat.wants.as_str() {
        "count" => all("all-gather", if odd { elems / 2 } else { elems }),
        "order" if odd => all("all-reduce", elems).and_then(|()| all("all-gather", elems)),
        "order" => all("all-gather", elems).and_then(|()| all("all-reduce", elems)),
        // Rank 0 sends, and rank 1 receives less or more.
        _ if !odd => all("send", elems),
        "long-send" => all("recv", elems / 2),
        _ => all("recv", 2 * elems),
    };
    let ended = issued.and_then(|()| settled(&nccl, &stream, DEADLINE));
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let aborting = Instant::now();
    let abort = nccl.abort_handle().abort("a mismatch").map_or_else(|e| e.to_string(), |()| "returned".into());
    let said = json!({
        "error": ended.map_or_else(|e| e.to_string(), |()| "none".into()), "ms": ms,
        "abort": abort, "abort_ms": aborting.elapsed().as_secs_f64() * 1e3,
    });
    std::mem::forget(nccl);
    Ok(said)
}

/// C7: our rendezvous bypassed; every rank that came gives up at the deadline.
pub(crate) fn missing(ground: &Ground) -> Done {
    if without_nccl(ground, "a missing rank") {
        return Ok(());
    }
    for (wants, came) in [("missing", 2), ("world", 2), ("duplicate", 3)] {
        if ground.mock && wants != "missing" {
            continue;
        }
        let mut start = Start::new("bare", bare_rank, 3, wants);
        start.ranks.truncate(came);
        let told = start.start()?.end(DEADLINE + Duration::from_secs(15))?;
        for (rank, told) in told.iter().enumerate() {
            let ms = told["value"]["ms"].as_f64();
            let error = told["value"]["error"].as_str().unwrap_or("none");
            let ok = error != "none" && ms.is_some_and(|ms| ms < DEADLINE.as_millis() as f64 + 5e3);
            ground.say(
                &format!("{wants}, rank {rank}"),
                ok,
                json!({ "ms": ms, "error": error, "told": told["error"] }),
            );
        }
    }
    Ok(())
}

/// C8: the process that made the id is gone before the others use it.
pub(crate) fn dead_root(ground: &Ground) -> Done {
    if impossible(ground, "the id of a dead rank") {
        return Ok(());
    }
    let told = Start::new("bare", bare_rank, 2, "dead-root").start()?.end(Duration::from_secs(30))?;
    let value = &told[1]["value"];
    let ok = value["error"] != "none" && value["ms"].as_f64().is_some_and(|ms| ms < 8e3);
    ground.say("the id of a dead rank", ok, json!({ "ms": value["ms"], "error": value["error"] }));
    Ok(())
}

/// Initialises NCCL with nothing but the id.
pub(crate) fn bare_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let (library, store) = (seat.library()?, seat.store()?);
    if seat.rank == 0 {
        store.set("id", &library.unique_id()?.as_bytes())?;
        if seat.wants == "dead-root" {
            return Ok(Value::Null);
        }
    }
    let id: [u8; 128] =
        store.wait("id", Instant::now() + MEETING)?.try_into().map_err(|_| "an id of another length")?;
    let (rank, world) = match seat.wants.as_str() {
        "world" => (seat.rank, if seat.rank == 0 { 2 } else { 3 }),
        "duplicate" => (seat.rank.min(1), 3),
        _ => (seat.rank, seat.world),
    };
    if seat.wants == "dead-root" {
        std::thread::sleep(Duration::from_secs(1));
    }
    let begin = Instant::now();
    let limit = if seat.wants == "dead-root" { 2 * DEADLINE } else { DEADLINE };
    let made = Communicator::new(&library, &UniqueId::from_bytes(id), rank, world, &Config::default(), limit);
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let error = made.as_ref().map_or_else(|e| e.to_string(), |_| "none".into());
    std::mem::forget(made);
    Ok(json!({ "ms": ms, "error": error }))
}

/// C9: ended while an op waits for a rank that does not come, from another thread, twice.
pub(crate) fn abort(ground: &Ground) -> Done {
    if without_nccl(ground, "abort") {
        return Ok(());
    }
    let told = Start::new("abort", abort_rank, 2, "").start()?.end(Duration::from_secs(45))?;
    let value = &told[0]["value"];
    let ms = |key: &str| value[key].as_f64().is_some_and(|ms| ms < 10e3);
    let ok = ms("abort_ms") && ms("again_ms") && ms("device_idle_ms");
    ground.say("aborted during an op", ok, if value.is_null() { told[0].clone() } else { value.clone() });
    Ok(())
}

pub(crate) fn abort_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let (mut nccl, stream) = (seat.communicator(&Config::default())?, seat.stream()?);
    if seat.rank == 1 {
        seat.await_note("over-0", MEETING)?;
        std::mem::forget(nccl);
        return Ok(Value::Null);
    }
    let elems = 1 << 20;
    let (from, to) = (DeviceMemory::new(4 * elems)?, DeviceMemory::new(8 * elems)?);
    // SAFETY: the memory lives to the end of the process.
    nccl.group("all-gather", |group| unsafe {
        group.all_gather(from.address(), to.address(), elems, Dtype::F32, &stream)
    })?;
    std::thread::sleep(Duration::from_millis(300));
    let handle = nccl.abort_handle();
    let ended = std::thread::spawn(move || {
        [(); 2].map(|()| {
            let begin = Instant::now();
            let ended = handle.abort("a test");
            (begin.elapsed().as_secs_f64() * 1e3, ended.map_or_else(|e| e.to_string(), |()| "returned".into()))
        })
    });
    let [first, again] = ended.join().map_err(|_| "the abort panicked")?;
    let idle = settled_or_not(&stream);
    seat.note("over", "")?;
    std::mem::forget((nccl, from, to));
    Ok(json!({ "abort_ms": first.0, "abort": first.1, "again_ms": again.0, "device_idle_ms": idle }))
}

/// C12: two communicators on two streams, first in one order on both ranks, then crossed.
pub(crate) fn two(ground: &Ground) -> Done {
    if without_nccl(ground, "two communicators") {
        return Ok(());
    }
    for (wants, implicit) in [("same", "1"), ("same", "0"), ("crossed", "0")] {
        let mut start = Start::new("two", two_rank, 2, wants);
        start.environment.push(("NCCL_LAUNCH_ORDER_IMPLICIT", implicit));
        let told = start.start()?.end(Duration::from_secs(35))?;
        let outcomes: Vec<&Value> =
            told.iter().map(|told| if told["value"].is_null() { &told["error"] } else { &told["value"] }).collect();
        let hung = told.iter().any(|told| told["silent"] == true);
        let clean = told.iter().all(|told| told["value"]["error"] == "none");
        let ok = !hung && (clean || wants == "crossed");
        ground.say(
            &format!("two communicators, {wants}, implicit order {implicit}"),
            ok,
            json!({ "outcomes": outcomes }),
        );
    }
    Ok(())
}

pub(crate) fn two_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let config = Config { op_deadline: DEADLINE, ..Config::default() };
    let mut first = seat.communicator(&config)?;
    let named = Config { name: "second".into(), ..config };
    let mut second = first.split(Some(0), seat.rank as u32, &named, MEETING)?.ok_or("no second communicator")?;
    let streams = [seat.stream()?, seat.stream()?];
    let elems = 1 << 18;
    let memory = [(); 4].map(|()| DeviceMemory::new(8 * elems));
    let mut at = Vec::new();
    for part in &memory {
        at.push(part.as_ref().map_err(Clone::clone)?.address());
    }
    let crossed = seat.wants == "crossed" && seat.rank == 1;
    let begin = Instant::now();
    let mut ops = 0;
    let mut run = || -> Done {
        for _ in 0..10 {
            for turn in 0..2 {
                let which = usize::from((turn == 1) != crossed);
                let nccl = if which == 0 { &mut first } else { &mut second };
                // SAFETY: each communicator has memory of its own, which outlives its ops.
                nccl.group("all-gather", |group| unsafe {
                    group.all_gather(at[2 * which], at[2 * which + 1], elems, Dtype::F32, &streams[which])
                })?;
                ops += 1;
            }
        }
        settled(&first, &streams[0], DEADLINE)?;
        settled(&second, &streams[1], DEADLINE)
    };
    let ended = run();
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let error = ended.map_or_else(|e| e.to_string(), |()| "none".into());
    let aborting = Instant::now();
    if error != "none" {
        let _ = abort_all(&[first.abort_handle(), second.abort_handle()], "a test");
    }
    let abort_ms = aborting.elapsed().as_secs_f64() * 1e3;
    std::mem::forget((first, second, memory));
    Ok(json!({ "error": error, "ms": ms, "ops": ops, "abort_ms": abort_ms }))
}
