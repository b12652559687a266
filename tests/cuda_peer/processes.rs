//! Ranks that are processes, on one mock device: each maps the memory of the others.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use seqpar::cuda::{Context, DeviceMemory, ImportedMemory, MemoryHandle, Priority, Stream};
use seqpar::error::Error;
use seqpar::exec::cuda::{CudaOptions, Outputs, gathered};
use seqpar::plan::{Checked, Plan, Role};
use seqpar::rendezvous::FileStore;

use crate::exchange::{DEADLINE, Exchange};
use crate::mock::{MODES, Mock, on_mock};
use crate::ranks::{loopback, plans, rank, small};
use crate::support::assert_same_bits;
use crate::support::worlds::worlds;

/// In a rank's environment: rank, world, folder, mode, what the parent wants.
const RANK: &str = "SEQPAR_TEST_PEER";

/// One rank, in a process of its own.
struct Seat {
    rank: usize,
    world: usize,
    folder: PathBuf,
    wants: String,
}

impl Seat {
    /// Of this process; `None` in the parent.
    fn taken(mock: &Mock) -> Option<Self> {
        let text = std::env::var(RANK).ok()?;
        let words: Vec<&str> = text.split('|').collect();
        let [rank, world, folder, mode, wants] = words[..] else { panic!("{text}") };
        mock.configure("sms=4 processes_s=30");
        mock.reset(mode, 3);
        let (rank, world) = (rank.parse().unwrap(), world.parse().unwrap());
        // Makes the folder.
        FileStore::open(Path::new(folder), "job").unwrap();
        Some(Self { rank, world, folder: folder.into(), wants: wants.into() })
    }

    fn store(&self) -> Arc<FileStore> {
        Arc::new(FileStore::open(&self.folder, "job").unwrap())
    }

    fn say(&self, what: &str, bytes: &[u8]) {
        std::fs::write(self.folder.join(format!("{what}-{}", self.rank)), bytes).unwrap();
    }
}

/// The ranks of a test, started again as processes.
struct Ranks {
    folder: PathBuf,
    children: Vec<Child>,
}

impl Ranks {
    fn start(test: &str, world: usize, mode: &str, wants: &str) -> Self {
        let name = format!("peers-{}-{}-{world}-{mode}-{wants}", std::process::id(), test.replace("::", "-"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let start = |rank| {
            let folder = folder.display();
            Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture", "--test-threads=1"])
                .env(RANK, format!("{rank}|{world}|{folder}|{mode}|{wants}"))
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        let children = (0..world).map(start).collect();
        Self { folder, children }
    }

    /// Which of them ended well.
    fn end(&mut self) -> Vec<bool> {
        let begin = Instant::now();
        loop {
            let ended: Vec<Option<bool>> = self
                .children
                .iter_mut()
                .map(|child| child.try_wait().unwrap().map(|status| status.success()))
                .collect();
            if ended.iter().all(Option::is_some) {
                return ended.into_iter().flatten().collect();
            }
            assert!(begin.elapsed() < Duration::from_secs(120), "{ended:?} of {}", self.folder.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn said(&self, what: &str, rank: usize) -> Vec<u8> {
        std::fs::read(self.folder.join(format!("{what}-{rank}"))).unwrap()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn memory_of_another_process_is_mapped() {
    on_mock(|mock| {
        if let Some(seat) = Seat::taken(mock) {
            let _context = Context::primary(0).unwrap();
            let stream = Stream::new(Priority::Low).unwrap();
            let until = |what: &str| {
                let begin = Instant::now();
                while !seat.folder.join(what).exists() {
                    assert!(begin.elapsed() < DEADLINE, "{what}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            let mut seen = [0; 24];
            if seat.rank == 0 {
                let memory = DeviceMemory::new(24).unwrap();
                memory.fill(5, &stream).unwrap();
                stream.synchronize().unwrap();
                let handle = MemoryHandle::of(memory.address()).unwrap();
                let own = ImportedMemory::open(&handle).unwrap_err();
                assert!(matches!(own, Error::Cuda { call: "cuIpcOpenMemHandle", code: 201, .. }), "{own}");
                seat.say("part", handle.as_bytes());
                std::fs::rename(seat.folder.join("part-0"), seat.folder.join("handle")).unwrap();
                until("written-1");
                memory.read(0, &mut seen, &stream).unwrap();
                assert_eq!((seen[0], seen[23]), (5, 9));
            } else {
                until("handle");
                let handle = MemoryHandle::from_bytes(&std::fs::read(seat.folder.join("handle")).unwrap()).unwrap();
                let memory = ImportedMemory::open(&handle).unwrap();
                let nines = DeviceMemory::new(8).unwrap();
                nines.fill(9, &stream).unwrap();
                // SAFETY: both are mapped until the stream was synchronised.
                unsafe {
                    seqpar::cuda::copy_device_to_device(memory.address() + 16, nines.address(), 8, &stream).unwrap();
                }
                stream.synchronize().unwrap();
                seat.say("written", b"");
            }
            mock.assert_clean("mapped");
            return;
        }
        let mut ranks = Ranks::start("processes::memory_of_another_process_is_mapped", 2, "late", "map");
        assert_eq!(ranks.end(), [true; 2]);
    });
}

#[test]
fn the_protocol_holds_between_processes() {
    on_mock(|mock| {
        const RUNS: usize = 8;
        if let Some(seat) = Seat::taken(mock) {
            let exchange = Exchange::new(seat.store(), "job", seat.rank, seat.world, RUNS).unwrap();
            (0..RUNS).try_for_each(|run| exchange.run(run, None)).unwrap();
            assert_eq!(exchange.kept().unwrap(), exchange.expected(RUNS));
            mock.assert_clean("a rank");
            drop(exchange);
            assert_eq!(mock.leaks(), Vec::<String>::new());
            mock.assert_clean("a rank that is gone");
            return;
        }
        for (world, mode) in [(2, "late"), (3, "random"), (2, "eager"), (3, "threads")] {
            let test = "processes::the_protocol_holds_between_processes";
            assert_eq!(Ranks::start(test, world, mode, "exchange").end(), vec![true; world], "{mode}");
        }
    });
}

fn fastseq(world: usize) -> Vec<Checked<Plan>> {
    let worlds = worlds(world);
    let fastseq = worlds.iter().find(|world| world.strategy.name() == "fastseq").unwrap();
    plans(&small().0, fastseq, world)
}

#[test]
fn processes_have_the_bits_of_loopback() {
    on_mock(|mock| {
        if let Some(seat) = Seat::taken(mock) {
            let mut options = CudaOptions::default();
            (options.graph, options.deadline) = (seat.wants == "graph", DEADLINE);
            let plans = fastseq(seat.world);
            let done = rank(seat.store(), &plans, seat.rank, 0, &small().1, &options, 3);
            let (outputs, _) = done.unwrap_or_else(|e| panic!("{e}"));
            mock.assert_clean("a rank");
            assert_eq!(mock.leaks(), Vec::<String>::new());
            let bytes: Vec<u8> = outputs.into_iter().flatten().flatten().flatten().collect();
            seat.say("outputs", &bytes);
            return;
        }
        for (world, mode, wants) in [(2, MODES[0], "eager"), (3, MODES[1], "graph")] {
            let mut ranks = Ranks::start("processes::processes_have_the_bits_of_loopback", world, mode, wants);
            let plans = fastseq(world);
            let want = loopback(plans.clone(), &small().1);
            assert_eq!(ranks.end(), vec![true; world], "{world} ranks, {mode}");
            let buffers: Vec<_> = plans.iter().map(|plan| plan.buffers.clone()).collect();
            let mut outputs: Outputs = Vec::new();
            for (rank, list) in buffers.iter().enumerate() {
                let bytes = ranks.said("outputs", rank);
                let mut rest = &bytes[..];
                let mut take = |bytes| {
                    let (own, behind) = rest.split_at(bytes);
                    rest = behind;
                    own.to_vec()
                };
                outputs.push(list.iter().map(|b| (b.role == Role::Output).then(|| take(b.bytes()))).collect());
            }
            assert_same_bits("processes", &gathered(&buffers, &outputs).unwrap(), &want);
        }
    });
}

fn now_ms() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()
}

/// Killed in the middle of its runs.
#[test]
fn a_killed_process_is_an_error_in_the_others() {
    on_mock(|mock| {
        const VICTIM: usize = 2;
        if let Some(seat) = Seat::taken(mock) {
            if seat.rank == VICTIM {
                let (folder, store) = (seat.folder.clone(), seat.store());
                std::thread::spawn(move || {
                    let begun = Instant::now();
                    let connected = |rank| folder.join(format!("begun-{rank}")).exists();
                    while !(connected(0) && connected(1)) && begun.elapsed() < DEADLINE {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    std::thread::sleep(Duration::from_millis(300));
                    std::fs::write(folder.join("killed-2"), now_ms().to_string()).unwrap();
                    drop(store);
                    // SAFETY: ends this process.
                    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                });
            }
            let mut options = CudaOptions::default();
            options.deadline = DEADLINE;
            seat.say("begun", b"");
            let error = rank(seat.store(), &fastseq(3), seat.rank, 0, &small().1, &options, 1_000_000).unwrap_err();
            let at = now_ms();
            assert_eq!(mock.leaks(), Vec::<String>::new());
            seat.say("error", format!("{at} {error}").as_bytes());
            return;
        }
        let mut ranks = Ranks::start("processes::a_killed_process_is_an_error_in_the_others", 3, "late", "kill");
        assert_eq!(ranks.end(), [true, true, false]);
        let text = |what, rank| String::from_utf8(ranks.said(what, rank)).unwrap();
        let killed: u128 = text("killed", VICTIM).parse().unwrap();
        let mut lost = 0;
        for rank in 0..VICTIM {
            let said = text("error", rank);
            let (at, error) = said.split_once(' ').unwrap();
            let took = at.parse::<u128>().unwrap() - killed;
            println!("rank {rank}, {took} ms after the kill: {error}");
            assert!(took < DEADLINE.as_millis(), "{took} ms: {error}");
            assert!(error.contains("its process has ended"), "{error}");
            lost += usize::from(error.contains("a rank is lost"));
        }
        assert!(lost > 0, "somebody has noticed by itself");
    });
}
