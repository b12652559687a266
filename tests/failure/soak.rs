//! A21: a million small ops of mixed sizes on eight ranks, watched and recorded; memory and file
//! descriptors stay what they were.

use std::sync::Arc;
use std::time::{Duration, Instant};

use seqpar::comm::signature::{Signature, signatures};
use seqpar::comm::watchdog::{Options, Presence, Probe, Watch, Watchdog};
use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, HostTensor, prepare};
use seqpar::kernel::spec::Mode;
use seqpar::plan::{Builder, CommKind, Direction, Placement, Plan, Role, check_world};
use seqpar::rendezvous::{MemoryStore, Store};

use super::dogs::scratch;

const WORLD: usize = 8;
const OPS: usize = 100;

/// A hundred communications of two kinds and four sizes, each announced before.
fn plan(rank: usize) -> Plan {
    let mut b = Builder::new(rank, WORLD);
    let stream = b.stream("comm");
    let everyone: Vec<usize> = (0..WORLD).collect();
    let dims = [1, WORLD, 1, 64];
    let place = |tensor: &str| Placement { tensor: tensor.into(), dims, index: [const { None }; 4] };
    let x = b.buffer("x", Role::Input, Dtype::F32, dims, Some(place("x")));
    let y = b.temp("y", Dtype::F32, dims);
    let total = b.temp("total", Dtype::F32, dims);
    b.copy(stream, "start", x, total);
    b.copy(stream, "start", x, y);
    for op in 0..OPS {
        b.external(stream, "announce", &[(total, Mode::Read)]);
        let cols = [1, 3, 17, 64][op % 4];
        let row = |at: usize| y.rows(at..at + 1).cols(0..cols);
        let (next, previous) = ((rank + 1) % WORLD, (rank + WORLD - 1) % WORLD);
        let tag = b.tag();
        let (kind, transfers) = match op % 2 {
            0 => (
                CommKind::SendRecv,
                vec![(Direction::Send, next, row(rank)), (Direction::Recv, previous, row(previous))],
            ),
            _ => {
                let mut sends: Vec<_> =
                    everyone.iter().map(|&to| (Direction::Send, to, total.rows(0..1).cols(0..cols))).collect();
                sends.push((Direction::Recv, rank, row(rank)));
                (CommKind::AllReduce, sends)
            }
        };
        b.comm(stream, format!("op {op}"), kind, tag, &everyone, Dtype::F32, &transfers);
    }
    let out = b.buffer("out", Role::Output, Dtype::F32, dims, None);
    b.copy(stream, "end", total, out);
    b.finish()
}

/// Resident bytes, as pages.
fn resident_pages() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn soak(ops: usize) {
    let folder = scratch("soak");
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let dogs: Vec<Watchdog> = (0..WORLD)
        .map(|rank| {
            let presence = Presence::hold(&folder, rank).unwrap();
            Watchdog::start(store.clone(), rank, WORLD, Options::default(), Some(presence)).unwrap()
        })
        .collect();
    let everyone: Vec<usize> = (0..WORLD).collect();
    let watches: Vec<Watch> = dogs.iter().map(|dog| dog.watch("world", &everyone, Probe::default())).collect();
    let plans: Vec<Plan> = (0..WORLD).map(plan).collect();
    let calls: Arc<Vec<Vec<Vec<Signature>>>> = Arc::new(
        plans
            .iter()
            .map(|plan| signatures(plan).chunk_by(|a, b| a.seq == b.seq).map(<[_]>::to_vec).collect())
            .collect(),
    );
    let mut prepared =
        prepare(check_world(plans).unwrap(), HostOptions { check_leases: true, ..HostOptions::default() }).unwrap();
    let announced: Arc<Vec<std::sync::atomic::AtomicU64>> = Arc::new((0..WORLD).map(|_| Default::default()).collect());
    let (seen, at) = (watches.clone(), announced.clone());
    prepared.external(
        "announce",
        Arc::new(move |call| {
            let seq = at[call.rank()].fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            let watch = &seen[call.rank()];
            if seq > 0 {
                watch.ended(seq - 1);
            }
            let own: Vec<Signature> =
                calls[call.rank()][seq as usize % OPS].iter().map(|c| Signature { seq, ..*c }).collect();
            watch.begin(seq, "small", None, &own)
        }),
    );
    let x = HostTensor::from_f32(Dtype::F32, [1, WORLD, 1, 64], &[1e-3; WORLD * 64]).unwrap();
    let mut bindings = prepared.bindings();
    bindings.set("x", &x).unwrap();
    // Until every stack and arena of the allocator has had its largest size.
    let warm = ops.div_ceil(OPS * WORLD) / 2;
    let runs = warm + ops.div_ceil(OPS * WORLD);
    let begin = Instant::now();
    let mut first = None;
    for run in 0..runs {
        prepared.run(&mut bindings).unwrap();
        if run == warm {
            first = Some((resident_pages(), descriptors()));
        }
        if (run + 1) % runs.div_ceil(10) == 0 {
            println!("after {} ops: {} resident pages", (run + 1) * OPS * WORLD, resident_pages());
        }
    }
    let (pages, fds) = first.unwrap();
    let (pages_now, fds_now) = (resident_pages(), descriptors());
    let growth = pages_now as f64 / pages as f64 - 1.0;
    println!(
        "{} ops on {WORLD} ranks in {:.1} s: {pages} to {pages_now} resident pages ({:+.2} %), {fds} to {fds_now} descriptors",
        runs * OPS * WORLD,
        begin.elapsed().as_secs_f64(),
        100.0 * growth
    );
    assert!(growth < 0.01, "memory grew by {:.2} %", 100.0 * growth);
    assert_eq!(fds_now, fds);
    for (watch, dog) in watches.iter().zip(dogs) {
        watch.check().unwrap();
        assert_eq!(
            watch.flight().dump(None).calls.len(),
            seqpar::comm::flight::ENTRIES.min(watch.flight().dump(None).calls.len())
        );
        dog.goodbye();
    }
    assert!(begin.elapsed() < Duration::from_secs(600));
}

/// The nightly length. `cargo test --features nccl --test failure -- --ignored a_million`
///
/// In a process of its own, with one arena of the allocator: the threads of each run would take
/// arenas in another order each time, and memory would grow until each has had every size.
#[test]
#[ignore = "minutes"]
fn a_million_small_ops_leave_memory_and_descriptors_as_they_were() {
    const ARENAS: &str = "MALLOC_ARENA_MAX";
    if std::env::var(ARENAS).as_deref() == Ok("1") {
        let ops = std::env::var("SEQPAR_SOAK_OPS").map_or(1_000_000, |ops| ops.parse().unwrap());
        return soak(ops);
    }
    let name = "soak::a_million_small_ops_leave_memory_and_descriptors_as_they_were";
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture"])
        .env(ARENAS, "1")
        .status();
    assert!(status.unwrap().success());
}
