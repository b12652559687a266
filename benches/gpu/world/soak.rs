//! C14 and a long B3: mixed ops of four ranks for minutes, with right values, and neither file
//! descriptors nor memory that grow.

use std::time::{Duration, Instant};

use cudarc::driver::sys;
use seqpar::comm::nccl::Config;
use seqpar::cuda::DeviceMemory;
use seqpar::dtype::Dtype;
use serde_json::{Value, json};

use crate::ground::{Done, Ground};
use crate::loopback::replay_for;
use crate::nccl::without_nccl;
use crate::processes::{MEETING, Seat, Start, all_well, settled};
use crate::support::Rng;

/// The longest of all sizes.
const ELEMS: usize = 1 << 20;

pub(crate) fn replays(ground: &Ground) -> Done {
    replay_for(ground, ground.pick(10_000, 5))
}

pub(crate) fn mixed(ground: &Ground) -> Done {
    if without_nccl(ground, "mixed ops") {
        return Ok(());
    }
    let seconds = ground.pick("300", "2");
    let told = all_well(Start::new("soak", mixed_rank, 4, seconds).start()?.end(Duration::from_secs(390))?)?;
    for (rank, value) in told.iter().enumerate() {
        let grown =
            |key: &str| value["after"][key].as_f64().unwrap_or(f64::NAN) - value["before"][key].as_f64().unwrap_or(0.0);
        // The device's memory is that of all ranks.
        let flat =
            ground.mock || (grown("descriptors") == 0.0 && grown("device_mib") <= 8.0 && grown("resident_mib") <= 32.0);
        let fields = json!({
            "ops": value["ops"], "wrong": value["wrong"], "descriptors": grown("descriptors"),
            "device_mib": grown("device_mib"), "resident_mib": grown("resident_mib"),
        });
        ground.say(&format!("mixed ops, rank {rank}"), value["wrong"] == 0 && flat, fields);
    }
    Ok(())
}

fn usage() -> Done<Value> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes two numbers.
    unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(f64::NAN);
    let descriptors = std::fs::read_dir("/proc/self/fd")?.count();
    Ok(
        json!({ "device_mib": (total - free) >> 20, "resident_mib": pages * 4096.0 / 1048576.0, "descriptors": descriptors }),
    )
}

pub(crate) fn mixed_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let (mut nccl, stream) = (seat.communicator(&Config::default())?, seat.stream()?);
    let (rank, world) = (seat.rank, seat.world);
    let length = Duration::from_secs(seat.wants.parse()?);
    let [from, to, go] = [4 * ELEMS, 4 * ELEMS * world, 16].map(DeviceMemory::new);
    let (from, to, go) = (from?, to?, go?);
    // The same on all ranks.
    let mut rng = Rng(14);
    let (begin, mut before, mut ops, mut wrong) = (Instant::now(), None, 0u64, 0usize);
    loop {
        let elems = 1 << rng.below(ELEMS.ilog2() as usize + 1);
        let op = ["all-gather", "all-reduce", "broadcast", "ring"][rng.below(4)];
        let byte = |of: usize| (ops as u8).wrapping_mul(3).wrapping_add(of as u8 + 1) & 0x3f;
        from.fill(byte(rank), &stream)?;
        // SAFETY: both hold what is moved, and live until the stream is done.
        nccl.group(op, |group| unsafe {
            match op {
                "all-gather" => group.all_gather(from.address(), to.address(), elems, Dtype::I32, &stream),
                "all-reduce" => group.all_reduce(from.address(), to.address(), elems, Dtype::I32, &stream),
                "broadcast" => group.broadcast(from.address(), to.address(), elems, Dtype::I32, 0, &stream),
                _ => {
                    group.send(from.address(), elems, Dtype::I32, (rank + 1) % world, &stream)?;
                    group.recv(to.address(), elems, Dtype::I32, (rank + world - 1) % world, &stream)
                }
            }
        })?;
        settled(&nccl, &stream, Duration::from_secs(60))?;
        let word = |of: usize| i32::from_ne_bytes([byte(of); 4]);
        let want = match op {
            "all-gather" => word(0),
            "all-reduce" => (0..world).fold(0, |sum: i32, of| sum.wrapping_add(word(of))),
            "broadcast" => word(0),
            _ => word((rank + world - 1) % world),
        };
        let mut seen = vec![0; 4 * elems];
        to.read(0, &mut seen, &stream)?;
        wrong += seen.chunks(4).filter(|word| **word != want.to_ne_bytes()).count();
        ops += 1;
        // After every kind of op has made what it keeps.
        if ops == 50 {
            before = Some(usage()?);
        }
        // Rank 0's clock ends it, for all.
        if ops.is_multiple_of(20) {
            go.write(0, &u32::from(begin.elapsed() < length).to_ne_bytes(), &stream)?;
            // SAFETY: as above.
            nccl.group("go on", |group| unsafe {
                group.broadcast(go.address(), go.address(), 1, Dtype::I32, 0, &stream)
            })?;
            settled(&nccl, &stream, Duration::from_secs(60))?;
            let mut goes = [0; 4];
            go.read(0, &mut goes, &stream)?;
            if goes == [0; 4] {
                break;
            }
        }
    }
    let after = usage()?;
    nccl.finalize(MEETING)?;
    Ok(json!({ "ops": ops, "wrong": wrong, "before": before.unwrap_or_else(|| after.clone()), "after": after }))
}
