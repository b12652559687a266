//! C11: a layer over NCCL as a graph, replayed; then a rank is killed between two replays or in one.

use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Config, abort_all};
use seqpar::comm::watchdog::{Options, Presence, Watchdog};
use seqpar::exec::cuda::{CudaOptions, Nccl, prepare_rank, with_tensors};
use serde_json::{Value, json};

use crate::faults::{DEADLINE, LIMIT, VICTIM, WORLD, survivors};
use crate::ground::{Done, Ground};
use crate::loopback::{plans, world_named};
use crate::nccl::{given, without_nccl};
use crate::processes::{MEETING, Seat, Start, now_ms};

pub(crate) fn graph_kill(ground: &Ground) -> Done {
    if without_nccl(ground, "a rank killed among replays") {
        return Ok(());
    }
    let mut ranks = Start::new("replayed", replayed_rank, WORLD, "").start()?;
    ranks.going()?;
    let at = ranks.kill(VICTIM)?;
    let told = ranks.end(Duration::from_secs(40))?;
    for (rank, told) in told.iter().enumerate().filter(|(rank, _)| *rank != VICTIM) {
        let value = &told["value"];
        let fields = json!({ "replays": value["replays"], "differing": value["differing"], "error": told["error"] });
        ground.say(&format!("replays of a graph over NCCL, rank {rank}"), value["differing"] == 0, fields);
    }
    survivors(ground, &told, at, 3e3, "a rank killed among replays");
    Ok(())
}

pub(crate) fn replayed_rank(seat: &Seat) -> Done<Value> {
    let context = seat.context()?;
    let config = Config::default();
    let nccl = Nccl::new(seat.communicator(&config)?);
    let (case, inputs) = given(seat.mock);
    let plans = plans(&case, &world_named(seat.world, "fastseq")?, seat.world)?;
    let transport = nccl.transport(&plans, false, &config, MEETING)?;
    let presence = Presence::hold(&seat.folder, seat.rank)?;
    let watching = Options { deadline: DEADLINE, ..Options::default() };
    let watchdog = Watchdog::start(seat.store()?, seat.rank, seat.world, watching, Some(presence))?;
    nccl.watch(&watchdog)?;
    let kernels = Ground::of_rank(seat.mock).kernels(&context)?;
    let mut options = CudaOptions::default();
    (options.graph, options.deadline) = (true, 2 * DEADLINE);
    let prepared = prepare_rank(context, kernels, plans[seat.rank].clone(), transport, options)?;
    let replays = seat.pick(100, 5);
    let (mut first, mut differing, mut done) = (None, 0, 0usize);
    let begin = Instant::now();
    let ended = with_tensors(&prepared, &inputs, |bound, stream, outputs| {
        while !seat.is_killed() && begin.elapsed() < LIMIT {
            bound.run(stream)?;
            bound.finish()?;
            done += 1;
            if done <= replays {
                let seen = outputs()?;
                differing += usize::from(*first.get_or_insert_with(|| seen.clone()) != seen);
            }
            if done == replays && seat.note("going", "").is_err() {
                break;
            }
        }
        Ok(())
    });
    let noticed_ms = now_ms();
    if seat.is_killed() {
        // As a killed process: nothing is given up but its lock.
        std::mem::forget((prepared, nccl));
        return Ok(Value::Null);
    }
    let error = ended.map_or_else(|e| e.to_string(), |()| "none".into());
    // What the executor has begun is joined here; a second abort is none.
    let begin = Instant::now();
    let aborted = abort_all(&nccl.abort_handles(), "a failure");
    let abort_ms = begin.elapsed().as_secs_f64() * 1e3;
    let said = json!({
        "replays": done, "differing": differing, "error": error, "noticed_ms": noticed_ms,
        "first": watchdog.failure().map(|failure| failure.to_string()), "abort_ms": abort_ms,
        "abort": aborted.map_or_else(|e| e.to_string(), |()| "returned".into()),
    });
    std::mem::forget((prepared, nccl, watchdog));
    Ok(said)
}
