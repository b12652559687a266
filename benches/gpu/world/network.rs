//! C13: a network that is slow, cut or wrong below NCCL, by a library in front of `send`
//! (`faulty_sockets`, not the plugin of NCCL's own that the matrix names: that has another interface in
//! each version). First the library alone, between two processes and one socket; then NCCL.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use seqpar::comm::nccl::Config;
use seqpar::cuda::DeviceMemory;
use seqpar::dtype::Dtype;
use serde_json::{Value, json};

use crate::faults::DEADLINE;
use crate::ground::{Done, Ground};
use crate::nccl::without_nccl;
use crate::processes::{MEETING, Seat, Start, settled};

/// Of one message, and how many.
const BYTES: usize = 1 << 18;
const MESSAGES: usize = 8;

/// What a fault must lead to.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Right,
    /// Right, and not sooner than that.
    SlowS(f64),
    Error,
    /// NCCL sees nothing, the comparison does.
    Wrong,
}

const FAULTS: [(&str, End); 6] = [
    ("none=0", End::Right),
    ("delay_us=5000", End::SlowS(0.035)),
    ("bytes_per_s=2000000", End::SlowS(0.9)),
    ("short=777", End::Right),
    ("cut_after=600000", End::Error),
    ("flip_at=700000", End::Wrong),
];

/// Beside this program, or where cargo puts it.
fn library() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    [folder.to_path_buf(), folder.join("../examples")]
        .map(|folder| folder.join("libfaulty_sockets.so"))
        .into_iter()
        .find(|path| path.exists())
}

pub(crate) fn network(ground: &Ground) -> Done {
    let Some(library) = library() else {
        ground.skip("faults of the network", "no libfaulty_sockets.so beside this program");
        return Ok(());
    };
    let library = library.display().to_string();
    each(ground, "a socket", "socket", socket_rank, &library)?;
    if ground.mock {
        ground.skip("NCCL over a faulty network", "the mock's ranks are threads, without sockets");
        return Ok(());
    }
    if without_nccl(ground, "NCCL over a faulty network") {
        return Ok(());
    }
    each(ground, "NCCL", "network", network_rank, &library)
}

fn each(ground: &Ground, over: &str, name: &str, body: crate::processes::Body, library: &str) -> Done {
    for (fault, end) in FAULTS {
        let mut start = Start::new(name, body, 2, fault);
        start.threads = false;
        start.environment.extend([("LD_PRELOAD", library), ("SEQPAR_SOCKET_FAULT", fault)]);
        let told = start.start()?.end(Duration::from_secs(30))?;
        let all = |is: &dyn Fn(&Value) -> bool| told.iter().all(|told| is(&told["value"]));
        let any = |is: &dyn Fn(&Value) -> bool| told.iter().any(|told| is(&told["value"]));
        let well = all(&|value| value["error"] == "none");
        let right = well && all(&|value| value["wrong"] == 0);
        let ok = match end {
            End::Right => right,
            End::SlowS(least) => right && any(&|value| value["seconds"].as_f64().is_some_and(|s| s >= least)),
            End::Error => any(&|value| value["error"].is_string() && value["error"] != "none"),
            End::Wrong => well && any(&|value| value["wrong"].as_u64().is_some_and(|wrong| wrong > 0)),
        };
        let outcomes: Vec<&Value> =
            told.iter().map(|told| if told["value"].is_null() { &told["error"] } else { &told["value"] }).collect();
        ground.say(&format!("{over}: {fault}"), ok, json!({ "outcomes": outcomes }));
    }
    Ok(())
}

/// Small numbers, by place and sender.
fn byte(of: usize, at: usize) -> u8 {
    ((at * 7 + of * 13 + at / 251) % 31) as u8
}

/// Rank 0 receives what rank 1 sends.
pub(crate) fn socket_rank(seat: &Seat) -> Done<Value> {
    let (begin, mut wrong) = (Instant::now(), 0);
    let message: Vec<u8> = (0..BYTES).map(|at| byte(1, at)).collect();
    let mut all = || -> Done {
        let mut stream = if seat.rank == 0 {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            seat.note("port", &listener.local_addr()?.port().to_string())?;
            listener.accept()?.0
        } else {
            seat.await_note("port-0", MEETING)?;
            let port: u16 = std::fs::read_to_string(seat.folder.join("port-0"))?.parse()?;
            TcpStream::connect(("127.0.0.1", port))?
        };
        for _ in 0..MESSAGES {
            if seat.rank == 1 {
                stream.write_all(&message)?;
            } else {
                let mut seen = vec![0; BYTES];
                stream.read_exact(&mut seen)?;
                wrong += seen.iter().zip(&message).filter(|(seen, want)| seen != want).count();
            }
        }
        Ok(())
    };
    let error = all().map_or_else(|e| e.to_string(), |()| "none".into());
    Ok(json!({ "error": error, "wrong": wrong, "seconds": begin.elapsed().as_secs_f64() }))
}

/// All-gathers of known bytes.
pub(crate) fn network_rank(seat: &Seat) -> Done<Value> {
    let _context = seat.context()?;
    let config = Config { op_deadline: 2 * DEADLINE, ..Config::default() };
    let (mut nccl, stream) = (seat.communicator(&config)?, seat.stream()?);
    let (from, to) = (DeviceMemory::new(BYTES)?, DeviceMemory::new(BYTES * seat.world)?);
    let own: Vec<u8> = (0..BYTES).map(|at| byte(seat.rank, at)).collect();
    from.write(0, &own, &stream)?;
    let (begin, mut wrong) = (Instant::now(), 0);
    let mut all = || -> Done {
        for _ in 0..MESSAGES {
            to.fill(0xff, &stream)?;
            // SAFETY: the memory lives to the end of the process.
            nccl.group("all-gather", |group| unsafe {
                group.all_gather(from.address(), to.address(), BYTES / 4, Dtype::I32, &stream)
            })?;
            settled(&nccl, &stream, 2 * DEADLINE)?;
            let mut seen = vec![0; BYTES * seat.world];
            to.read(0, &mut seen, &stream)?;
            wrong += seen.iter().enumerate().filter(|(at, seen)| **seen != byte(at / BYTES, at % BYTES)).count();
        }
        Ok(())
    };
    let error = all().map_or_else(|e| e.to_string(), |()| "none".into());
    let seconds = begin.elapsed().as_secs_f64();
    let aborting = Instant::now();
    let abort = nccl.abort_handle().abort("the end").map_or_else(|e| e.to_string(), |()| "returned".into());
    std::mem::forget((nccl, from, to));
    Ok(json!({
        "error": error, "wrong": wrong, "seconds": seconds, "abort": abort,
        "abort_ms": aborting.elapsed().as_secs_f64() * 1e3,
    }))
}
