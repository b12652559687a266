//! C10: a rank is killed while all gather; the others stop what is in flight, make a communicator of
//! themselves, and every collective of that one is right.

use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config};
use seqpar::comm::watchdog::{Life, Presence};
use seqpar::cuda::{DeviceMemory, Stream};
use seqpar::dtype::Dtype;
use serde_json::{Value, json};

use crate::faults::DEADLINE;
use crate::ground::{Done, Ground};
use crate::nccl::{every_op, without_nccl};
use crate::processes::{Seat, Start, now_ms};

const WORLD: usize = 4;
/// Not the last: those behind it get other ranks.
const VICTIM: usize = 1;

pub(crate) fn shrink(ground: &Ground) -> Done {
    if without_nccl(ground, "the survivors' communicator") {
        return Ok(());
    }
    let mut ranks = Start::new("shrink", shrink_rank, WORLD, "").start()?;
    ranks.going()?;
    let at = ranks.kill(VICTIM)?;
    let told = ranks.end(Duration::from_secs(60))?;
    for (rank, told) in told.iter().enumerate().filter(|(rank, _)| *rank != VICTIM) {
        let value = &told["value"];
        let whole_ms = value["made_ms"].as_u64().map(|made| made as f64 - at as f64);
        let ops = value["ops"].as_array().map_or(&[][..], Vec::as_slice);
        let wrong: u64 = ops.iter().map(|op| op["wrong"].as_u64().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
        let ok = value["world"] == WORLD - 1 && whole_ms.is_some_and(|ms| ms < 30e3) && wrong == 0 && !ops.is_empty();
        let fields = json!({
            "from_kill_to_new_ms": whole_ms, "revoke": value["revoke"], "revoke_ms": value["revoke_ms"],
            "shrink_ms": value["shrink_ms"], "world": value["world"], "error": told["error"],
            "ops": ops.len(), "wrong": wrong,
        });
        ground.say(&format!("the survivors' communicator, rank {rank}"), ok, fields);
    }
    Ok(())
}

pub(crate) fn shrink_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let config = Config { op_deadline: DEADLINE, ..Config::default() };
    let (mut nccl, stream) = (seat.communicator(&config)?, seat.stream()?);
    let presence = Presence::hold(&seat.folder, seat.rank)?;
    let Some(lost) = gather_until_lost(seat, &mut nccl, &stream, presence.observer())? else {
        std::mem::forget(nccl);
        return Ok(Value::Null);
    };
    let begin = Instant::now();
    // An older NCCL cannot; shrinking alone stops what is in flight as well.
    let revoke = nccl.revoke("a lost rank", DEADLINE).map_or_else(|e| e.to_string(), |()| "returned".into());
    let revoke_ms = begin.elapsed().as_secs_f64() * 1e3;
    let begin = Instant::now();
    let mut rest = nccl.shrink(&lost, &Config { name: "survivors".into(), ..config }, Duration::from_secs(20))?;
    let (shrink_ms, made_ms) = (begin.elapsed().as_secs_f64() * 1e3, now_ms());
    let sizes: &[usize] = if seat.mock { &[8, 4096] } else { &[8, 4096, 1 << 20] };
    let ops = every_op(&mut rest, &stream, sizes)?;
    let world = rest.world();
    rest.finalize(DEADLINE)?;
    // The parent has lost a rank: only an abort ends it.
    let _ = nccl.abort_handle().abort("its survivors have another");
    Ok(json!({
        "revoke": revoke, "revoke_ms": revoke_ms, "shrink_ms": shrink_ms, "made_ms": made_ms, "world": world,
        "ops": ops,
    }))
}

/// Who has gone; nothing if that is this rank. NCCL need not say anything, so the ranks' locks do,
/// which all survivors read alike.
fn gather_until_lost(
    seat: &Seat,
    nccl: &mut Communicator,
    stream: &Stream,
    mut life: impl FnMut(usize) -> Life,
) -> Done<Option<Vec<usize>>> {
    let elems = seat.pick(1 << 20, 1 << 8);
    let (from, to) = (DeviceMemory::new(4 * elems)?, DeviceMemory::new(4 * elems * seat.world)?);
    let mut gone = || (0..seat.world).filter(|&rank| matches!(life(rank), Life::Gone(_))).collect::<Vec<_>>();
    let begin = Instant::now();
    let mut round = 0;
    let found = loop {
        // SAFETY: the memory lives to the end of the process.
        let issued = nccl.group("all-gather", |group| unsafe {
            group.all_gather(from.address(), to.address(), elems, Dtype::F32, stream)
        });
        // An op that failed does not end either.
        let found = loop {
            let lost = gone();
            if seat.is_killed() || !lost.is_empty() {
                break Some(lost);
            }
            if issued.is_ok() && stream.is_done()? {
                break None;
            }
            if begin.elapsed() > 6 * DEADLINE {
                return Err(format!("nobody is lost; the last op: {issued:?}").into());
            }
            std::thread::sleep(Duration::from_micros(500));
        };
        if let Some(lost) = found {
            break lost;
        }
        if round == 2 {
            seat.note("going", "")?;
        }
        round += 1;
    };
    std::mem::forget((from, to));
    Ok((!seat.is_killed()).then_some(found))
}
