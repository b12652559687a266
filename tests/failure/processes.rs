//! A10: ranks that are processes of their own, one of which panics, leaves, is killed or stopped
//! in the middle of a collective, or of a step of a ring.
//!
//! The collectives run over a store in a folder: every message is a key, and a rank at fault has
//! sent only some of its own. A parent starts the ranks in a process group of their own, ends it
//! after [`LIMIT`], and looks for survivors.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use seqpar::comm::flight;
use seqpar::comm::signature::{Part, Signature};
use seqpar::comm::watchdog::{Options, Presence, Probe, Watch, Watchdog};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, FailureKind};
use seqpar::plan::CommKind;
use seqpar::rendezvous::{FileStore, Store};

use super::dogs::scratch;
use super::stalls::unless_stalled;

const WORLD: usize = 4;
/// The rank at fault; the root of broadcasts.
const ODD: usize = 2;
/// Far above the silence after which a rank is blamed.
const DEADLINE: Duration = Duration::from_secs(4);
/// After this the parent ends all ranks, whatever they do.
const LIMIT: Duration = Duration::from_secs(60);
const CASE: &str = "SEQPAR_FAILURE_CASE";

/// What the ranks run, in order: the collectives, the steps of a ring, and what all wait for.
const OPS: [&str; 9] =
    ["all-gather", "all-to-all", "reduce-scatter", "all-reduce", "broadcast", "ring 0", "ring 1", "ring 2", "end"];
/// Ops in which the odd rank fails.
const FAULTY: usize = OPS.len() - 1;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    Panic,
    Exit,
    Kill,
    Stop,
}

/// Op at which the odd rank fails, and how.
struct Case {
    op: usize,
    fault: Fault,
}

// ---- one rank ----

/// Runs one rank if this process was started as one.
#[test]
fn rank() {
    let Ok(case) = std::env::var(CASE) else { return };
    let fields: Vec<&str> = case.splitn(4, ' ').collect();
    let faults = [Fault::Nothing, Fault::Panic, Fault::Exit, Fault::Kill, Fault::Stop];
    let fault = faults.into_iter().find(|fault| format!("{fault:?}") == fields[2]).unwrap();
    let case = Case { op: fields[1].parse().unwrap(), fault };
    run_rank(fields[0].parse().unwrap(), &case, Path::new(fields[3]));
}

fn run_rank(rank: usize, case: &Case, folder: &Path) {
    let store = FileStore::open(&folder.join("store"), "test").unwrap();
    let presence = Presence::hold(folder, rank).unwrap();
    // Many ranks on few cores: one that is starved for a while is not the one that was stopped.
    let silence = Duration::from_millis(1500);
    let options = Options { deadline: DEADLINE, silence, dumps: Some(folder.to_path_buf()), ..Options::default() };
    let watchdog = Watchdog::start(
        Arc::new(FileStore::open(&folder.join("store"), "test").unwrap()),
        rank,
        WORLD,
        options,
        Some(presence),
    )
    .unwrap();
    let watch = watchdog.watch("world", &[0, 1, 2, 3], Probe::default());
    store.set(&format!("here/{rank}"), b"1").unwrap();
    for other in 0..WORLD {
        store.wait(&format!("here/{other}"), Instant::now() + Duration::from_secs(30)).unwrap();
    }
    for (seq, name) in OPS.iter().enumerate() {
        let said = collective(rank, seq, name, &watch, &store, || {
            if rank == ODD && seq == case.op {
                write(&folder.join("fault"), &now_ms().to_string());
                fail(case.fault);
            }
        });
        if let Err(error) = said {
            let Error::Between(failure) = error else { panic!("{error}") };
            let kind = match &failure.kind {
                FailureKind::PeerLost { .. } => "lost",
                FailureKind::Timeout { .. } => "timeout",
                FailureKind::Aborted { .. } => "aborted",
                other => panic!("{other}"),
            };
            write(
                &folder.join(format!("end-{rank}")),
                &format!("{kind}|{:?}|{}|{failure}", failure.culprits, now_ms()),
            );
            assert!(watch.check().is_err_and(|e| e.to_string().contains("unusable since an earlier failure")));
            return;
        }
    }
    watchdog.goodbye();
    write(&folder.join(format!("end-{rank}")), &format!("done|[]|{}|", now_ms()));
}

fn write(path: &Path, text: &str) {
    let beside = path.with_extension("part");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

fn signal(name: &str, target: &str) {
    let said = Command::new("sh").args(["-c", &format!("kill -{name} {target}")]).stderr(Stdio::null()).status();
    let _ = said.unwrap();
}

fn fail(fault: Fault) {
    match fault {
        Fault::Nothing => {}
        Fault::Panic => panic!("out of paper"),
        Fault::Exit => std::process::exit(0),
        Fault::Kill => raise(libc::SIGKILL),
        Fault::Stop => raise(libc::SIGSTOP),
    }
}

/// Has its effect before it returns.
fn raise(signal: libc::c_int) {
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// The messages of an op, in order.
fn messages(name: &str) -> Vec<(usize, usize)> {
    let pairs = || (0..WORLD).flat_map(|from| (0..WORLD).filter(move |&to| to != from).map(move |to| (from, to)));
    match name {
        "broadcast" => pairs().filter(|(from, _)| *from == ODD).collect(),
        name if name.starts_with("ring") => (0..WORLD).map(|from| (from, (from + 1) % WORLD)).collect(),
        _ => pairs().collect(),
    }
}

/// What `from` sends to `to`.
fn value(seq: usize, name: &str, from: usize, to: usize) -> u64 {
    let own = (1000 * seq + 10 * from) as u64;
    if name == "all-to-all" || name == "reduce-scatter" { own + to as u64 } else { own }
}

/// Runs one op, `middle` after the first half of the own messages; checks what arrives.
fn collective(
    rank: usize,
    seq: usize,
    name: &str,
    watch: &Watch,
    store: &FileStore,
    middle: impl Fn(),
) -> seqpar::Result<()> {
    let messages = messages(name);
    let call = |part, peer: usize| Signature {
        comm: 0,
        seq: seq as u64,
        tag: 0,
        kind: CommKind::SendRecv,
        part,
        dtype: Dtype::U8,
        peer: Some(peer as u32),
        elems: 8,
    };
    let sends: Vec<usize> = messages.iter().filter(|(from, _)| *from == rank).map(|(_, to)| *to).collect();
    let receives: Vec<usize> = messages.iter().filter(|(_, to)| *to == rank).map(|(from, _)| *from).collect();
    let calls: Vec<Signature> = sends
        .iter()
        .map(|&to| call(Part::Send, to))
        .chain(receives.iter().map(|&from| call(Part::Recv, from)))
        .collect();
    watch.begin(seq as u64, name, None, &calls)?;
    let half = sends.len() / 2;
    for (i, &to) in sends.iter().enumerate() {
        if i == half {
            middle();
        }
        store.set(&format!("data/{seq}/{rank}/{to}"), &value(seq, name, rank, to).to_le_bytes())?;
    }
    let mut sum = value(seq, name, rank, rank);
    for from in receives {
        let key = format!("data/{seq}/{from}/{rank}");
        let bytes = loop {
            watch.check()?;
            if let Some(bytes) = store.read(&key)? {
                break bytes;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let got = u64::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(got, value(seq, name, from, rank), "wrong data");
        sum += got;
    }
    if name == "all-reduce" || name == "reduce-scatter" {
        assert_eq!(sum, (0..WORLD).map(|from| value(seq, name, from, rank)).sum::<u64>(), "wrong sum");
    }
    watch.ended(seq as u64);
    Ok(())
}

// ---- their parent ----

/// The processes of one case.
struct Ranks {
    folder: PathBuf,
    children: Vec<Child>,
    begin: Instant,
}

impl Ranks {
    fn start(case: &Case) -> Self {
        let folder = scratch(&format!("{:?}-{}", case.fault, case.op));
        let mut children: Vec<Child> = Vec::new();
        for rank in 0..WORLD {
            let group = children.first().map_or(0, |first| first.id() as i32);
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["processes::rank", "--exact", "--nocapture", "--test-threads", "1"])
                .env(CASE, format!("{rank} {} {:?} {}", case.op, case.fault, folder.display()))
                // Symbols of a backtrace take longer than the notice of the panic may.
                .env("RUST_BACKTRACE", "0")
                .stdout(Stdio::null())
                .stderr(fs::File::create(folder.join(format!("stderr-{rank}"))).unwrap())
                .process_group(group)
                .spawn()
                .unwrap();
            children.push(child);
        }
        Self { folder, children, begin: Instant::now() }
    }

    /// The end of a rank, or `None` if it is still there after `within`.
    fn wait(&mut self, rank: usize, within: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.children[rank].try_wait().unwrap() {
                return Some(status);
            }
            assert!(self.begin.elapsed() < LIMIT, "the ranks took longer than {LIMIT:?}");
            if begin.elapsed() > within {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stderr(&self, rank: usize) -> String {
        fs::read_to_string(self.folder.join(format!("stderr-{rank}"))).unwrap_or_default()
    }

    /// What a rank said last: kind, culprits, when, words.
    fn end(&self, rank: usize) -> (String, String, u128, String) {
        let text = fs::read_to_string(self.folder.join(format!("end-{rank}")));
        let text = text.unwrap_or_else(|_| panic!("rank {rank} said nothing: {}", self.stderr(rank)));
        let fields: Vec<&str> = text.splitn(4, '|').collect();
        (fields[0].into(), fields[1].into(), fields[2].parse().unwrap(), fields[3].into())
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        let group = self.children[0].id();
        // By number and as a group: nothing that a rank started may be left.
        if self.children.iter_mut().any(|child| !matches!(child.try_wait(), Ok(Some(_)))) {
            signal("KILL", &format!("-{group}"));
        }
        self.children.iter_mut().for_each(|child| drop(child.wait()));
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Runs a case and checks what all ranks say; returns how long after the fault the last one knew.
fn check(case: &Case) -> Duration {
    let what = format!("{:?} in {}", case.fault, OPS[case.op]);
    let mut ranks = Ranks::start(case);
    for rank in (0..WORLD).filter(|&rank| rank != ODD || case.fault == Fault::Nothing) {
        let status = ranks.wait(rank, LIMIT).unwrap();
        assert!(status.success(), "{what}: rank {rank}: {}", ranks.stderr(rank));
    }
    if case.fault == Fault::Nothing {
        (0..WORLD).for_each(|rank| assert_eq!(ranks.end(rank).0, "done", "{what}"));
        return Duration::ZERO;
    }
    let fault: u128 = fs::read_to_string(ranks.folder.join("fault")).unwrap().parse().unwrap();
    let (expected, limit) = match case.fault {
        Fault::Stop => ("timeout", DEADLINE + Duration::from_millis(500)),
        _ => ("lost", Duration::from_secs(1)),
    };
    let mut last = Duration::ZERO;
    for rank in (0..WORLD).filter(|&rank| rank != ODD) {
        let (kind, culprits, at, words) = ranks.end(rank);
        let after = Duration::from_millis((at - fault) as u64);
        assert_eq!((kind.as_str(), culprits.as_str()), (expected, "[2]"), "{what}: rank {rank}: {words}");
        assert!(after < limit, "{what}: rank {rank} knew after {after:?}: {words}");
        assert!(case.fault != Fault::Stop || after > DEADLINE / 2, "{what}: rank {rank} knew after {after:?}: {words}");
        last = last.max(after);
    }
    // A rank that never sent is found by its record, or by having none.
    let found = flight::compare(&dumps(&ranks.folder));
    let text: String = found.iter().map(|found| found.to_string()).collect();
    let named = found.iter().flat_map(|found| &found.findings).any(|f| f.culprits.contains(&(ODD as u32)));
    assert!(named, "{what}: {text}");
    if case.fault == Fault::Stop {
        assert!(ranks.wait(ODD, Duration::ZERO).is_none(), "{what}: it was not stopped");
        signal("CONT", &ranks.children[ODD].id().to_string());
        assert!(ranks.wait(ODD, Duration::from_secs(5)).is_some(), "{what}: it did not end: {}", ranks.stderr(ODD));
        let (kind, _, _, words) = ranks.end(ODD);
        assert_eq!(kind, "aborted", "{what}: {words}");
    } else {
        assert!(ranks.wait(ODD, Duration::from_secs(5)).is_some(), "{what}: it did not end");
    }
    last
}

/// The flight records that the ranks have left.
fn dumps(folder: &Path) -> Vec<flight::Dump> {
    let read = |rank: usize| fs::read_to_string(folder.join(format!("flight-world-{rank}.json"))).ok();
    (0..WORLD).filter_map(read).map(|text| super::flight::parse(&text)).collect()
}

/// One fault at a time: the ranks are more than the cores already.
static TURN: Mutex<()> = Mutex::new(());

/// Every op with that fault, all at once.
fn in_every_op(fault: Fault) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let times: BTreeMap<usize, Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..FAULTY).map(|op| (op, scope.spawn(move || check(&Case { op, fault })))).collect();
        threads.into_iter().map(|(op, thread)| (op, thread.join().unwrap())).collect()
    });
    println!("{fault:?}: known to all ranks after {times:?}");
}

#[test]
fn without_a_fault_every_rank_ends_well() {
    unless_stalled(|| {
        check(&Case { op: 0, fault: Fault::Nothing });
    });
}

#[test]
fn a_rank_that_panics_is_lost_to_all_others_within_a_second() {
    unless_stalled(|| {
        in_every_op(Fault::Panic);
    });
}

#[test]
fn a_rank_that_exits_early_is_lost_to_all_others_within_a_second() {
    unless_stalled(|| {
        in_every_op(Fault::Exit);
    });
}

#[test]
fn a_rank_that_is_killed_is_lost_to_all_others_within_a_second() {
    unless_stalled(|| {
        in_every_op(Fault::Kill);
    });
}

#[test]
fn a_rank_that_is_stopped_is_a_timeout_that_names_it() {
    unless_stalled(|| {
        in_every_op(Fault::Stop);
    });
}
