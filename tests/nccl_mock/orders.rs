//! What NCCL orders and what it does not: exchanges with all waits are right and clean on every
//! schedule, eager and as a graph; without one of them a race is reported on every schedule.

use std::sync::Barrier;

use seqpar::cuda::{Context, DeviceMemory, Priority, Stream, capture, copy_device_to_device};

use crate::mock::{MODES, Mock, on_mock};
use crate::world::{Rank, run};

const WORLD: usize = 4;
const COUNT: usize = 96;
const SEEDS: u64 = 6;

fn own(rank: usize) -> Vec<i32> {
    (0..COUNT).map(|i| (rank * 1000 + i) as i32).collect()
}

fn all() -> Vec<i32> {
    (0..WORLD).flat_map(own).collect()
}

/// The waits around an exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dropped {
    Nothing,
    Before,
    After,
}

#[derive(Clone, Copy, Debug)]
enum Exchange {
    AllGather,
    /// Each step forwards what the last one received.
    Ring,
}

struct Buffers {
    own: DeviceMemory,
    all: DeviceMemory,
    out: DeviceMemory,
}

impl Buffers {
    fn new(rank: &Rank) -> Self {
        let zeros = || rank.memory(&[0; WORLD * COUNT]);
        let buffers = Self { own: rank.memory(&own(rank.rank)), all: zeros(), out: zeros() };
        rank.compute.synchronize().unwrap();
        buffers
    }
}

const BYTES: usize = COUNT * 4;

fn exchange(rank: &Rank, buffers: &Buffers, how: Exchange) {
    let slot = |at: usize| buffers.all.address() + (at % WORLD * BYTES) as u64;
    match how {
        Exchange::AllGather => rank.all_gather(buffers.own.address(), slot(0), COUNT),
        Exchange::Ring => {
            let (next, previous) = ((rank.rank + 1) % WORLD, (rank.rank + WORLD - 1) % WORLD);
            // SAFETY: both are alive; the stream orders its copies.
            unsafe {
                let to = slot(rank.rank);
                copy_device_to_device(to, buffers.own.address(), BYTES, &rank.communication.stream).unwrap();
            }
            for step in 0..WORLD - 1 {
                rank.comm.group(|| {
                    rank.send(slot(rank.rank + WORLD - step), COUNT, next);
                    rank.receive(slot(rank.rank + 2 * WORLD - step - 1), COUNT, previous);
                });
            }
        }
    }
}

/// Fills, exchanges on the other stream, takes the result out; twice, so that buffers are used again.
fn work(rank: &Rank, buffers: &Buffers, how: Exchange, dropped: Dropped) -> seqpar::error::Result<()> {
    for turn in 0..2 {
        // SAFETY: all are alive; an access that is not ordered is of bytes.
        unsafe {
            copy_device_to_device(buffers.own.address(), buffers.own.address() + 4, 4, &rank.compute)?;
            copy_device_to_device(buffers.own.address() + 4, buffers.own.address(), 4, &rank.compute)?;
        }
        if dropped != Dropped::Before || turn == 0 {
            rank.join(&rank.compute, &rank.communication.stream);
        }
        exchange(rank, buffers, how);
        if dropped != Dropped::After || turn == 1 {
            rank.join(&rank.communication.stream, &rank.compute);
        }
        // SAFETY: as above.
        unsafe { copy_device_to_device(buffers.out.address(), buffers.all.address(), WORLD * BYTES, &rank.compute)? };
    }
    Ok(())
}

fn expected() -> Vec<i32> {
    let mut all = all();
    for rank in 0..WORLD {
        all[rank * COUNT] = all[rank * COUNT + 1];
    }
    all
}

fn each(mock: &Mock, body: impl Fn(&str, u64, usize)) {
    for mode in MODES {
        for seed in 0..SEEDS {
            for devices in [1, WORLD] {
                mock.reset(mode, seed);
                mock.configure(&format!("host=thread devices={WORLD}"));
                body(mode, seed, devices);
            }
        }
    }
}

#[test]
fn exchanges_with_all_waits_are_right_and_clean() {
    on_mock(|mock| {
        each(mock, |mode, seed, devices| {
            for how in [Exchange::AllGather, Exchange::Ring] {
                let at = format!("{how:?} {mode} {seed} on {devices} devices");
                let results = run(mock, WORLD, devices, |rank| {
                    let buffers = Buffers::new(rank);
                    work(rank, &buffers, how, Dropped::Nothing).unwrap();
                    rank.read(&buffers.out)
                });
                mock.assert_clean(&at);
                assert!(results.iter().all(|result| *result == expected()), "{at}");
                assert_eq!(mock.leaks(), Vec::<String>::new(), "{at}");
            }
        });
    });
}

#[test]
fn captured_exchanges_are_right_at_every_launch() {
    on_mock(|mock| {
        each(mock, |mode, seed, devices| {
            for how in [Exchange::AllGather, Exchange::Ring] {
                let at = format!("{how:?} {mode} {seed} on {devices} devices");
                let results = run(mock, WORLD, devices, |rank| {
                    let buffers = Buffers::new(rank);
                    let graph = capture(&rank.compute, || work(rank, &buffers, how, Dropped::Nothing)).unwrap();
                    for _ in 0..20 {
                        // SAFETY: the buffers outlive the work.
                        unsafe { graph.launch(&rank.compute).unwrap() };
                    }
                    rank.read(&buffers.out)
                });
                mock.assert_clean(&at);
                assert!(results.iter().all(|result| *result == expected()), "{at}");
            }
        });
    });
}

#[test]
fn a_missing_wait_is_reported() {
    on_mock(|mock| {
        each(mock, |mode, seed, devices| {
            for dropped in [Dropped::Before, Dropped::After] {
                for how in [Exchange::AllGather, Exchange::Ring] {
                    mock.reset(mode, seed);
                    run(mock, WORLD, devices, |rank| {
                        let buffers = Buffers::new(rank);
                        work(rank, &buffers, how, dropped).unwrap();
                        rank.compute.synchronize().unwrap();
                        rank.communication.stream.synchronize().unwrap();
                    });
                    let reports = mock.reports();
                    let races = reports.iter().filter(|report| report.starts_with("RACE")).count();
                    let at = format!("{dropped:?} {how:?} {mode} {seed} on {devices} devices: {reports:#?}");
                    assert!(races > 0 && races == reports.len(), "{at}");
                }
            }
        });
    });
}

/// A rank that received nothing from another has learned nothing of it.
#[test]
fn a_send_orders_the_receiver_alone() {
    on_mock(|mock| {
        for mode in MODES {
            for backwards in [false, true] {
                mock.reset(mode, 3);
                mock.configure("host=thread devices=1");
                let shared = std::sync::Mutex::new(0);
                run(mock, 2, 1, |rank| {
                    // One allocation that both touch: rank 0 before its call, rank 1 after its own.
                    let token = rank.memory(&[7]);
                    if rank.rank == 0 {
                        let memory = std::mem::ManuallyDrop::new(rank.memory(&[1, 2, 3]));
                        rank.join(&rank.compute, &rank.communication.stream);
                        memory.fill(5, &rank.communication.stream).unwrap();
                        *shared.lock().unwrap() = memory.address();
                    }
                    rank.join(&rank.compute, &rank.communication.stream);
                    let sends = (rank.rank == 0) != backwards;
                    let peer = 1 - rank.rank;
                    let code = if sends {
                        rank.send(token.address(), 1, peer)
                    } else {
                        rank.receive(token.address(), 1, peer)
                    };
                    rank.comm.done(code);
                    if rank.rank == 1 {
                        while *shared.lock().unwrap() == 0 {
                            std::thread::yield_now();
                        }
                        let address = *shared.lock().unwrap();
                        // SAFETY: never freed; the mock sees what is not ordered.
                        unsafe { copy_device_to_device(address, address + 4, 4, &rank.communication.stream).unwrap() };
                    }
                    rank.communication.stream.synchronize().unwrap();
                });
                let raced = mock.reports().iter().any(|report| report.starts_with("RACE"));
                assert_eq!(raced, backwards, "{mode}: {:?}", mock.reports());
            }
        }
    });
}

/// A thread knows of the device what it has waited for itself; that another thread of the host told
/// it is not seen, unless by the end of all of them.
#[test]
fn what_one_thread_has_seen_another_has_not() {
    on_mock(|mock| {
        for mode in MODES {
            for (host, races) in [("one", false), ("thread", true)] {
                mock.reset(mode, 1);
                mock.configure(&format!("devices=1 host={host}"));
                let _context = Context::primary(0).unwrap();
                let [memory, other] = [(); 2].map(|()| DeviceMemory::new(64).unwrap());
                let turn = Barrier::new(2);
                mock.ranks(2, |rank| {
                    let _context = Context::primary(0).unwrap();
                    let stream = Stream::new(Priority::Low).unwrap();
                    let mine = if rank == 0 { &memory } else { &other };
                    turn.wait();
                    mine.fill(1, &stream).unwrap();
                    stream.synchronize().unwrap();
                    turn.wait();
                    if rank == 1 {
                        memory.fill(2, &stream).unwrap();
                        stream.synchronize().unwrap();
                    }
                });
                let raced = mock.reports().iter().any(|report| report.starts_with("RACE"));
                assert_eq!(raced, races, "{mode} host={host}: {:?}", mock.reports());
                let before = mock.reports();
                let mut bytes = [0; 64];
                memory.read(0, &mut bytes, &Stream::new(Priority::Low).unwrap()).unwrap();
                assert_eq!((bytes, mock.reports()), ([2; 64], before), "{mode} host={host}: threads were joined");
            }
        }
    });
}
