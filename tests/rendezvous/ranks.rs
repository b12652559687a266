//! Ranks of a job as threads, or as processes that are this test binary again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seqpar::error::{Error, Result};
use seqpar::rendezvous::{Hello, Key, Nonce, Store, exchange_id, join};

use crate::places::Place;

pub const TASK: &str = "SEQPAR_TEST_TASK";

/// Arguments with which this test binary does the task of a child.
pub const CHILD: [&str; 4] = ["ranks::a_child", "--exact", "--nocapture", "--test-threads=1"];

/// The deadline of the matrix, D.
pub const D: Duration = Duration::from_secs(2);

/// What a machine under load may add to a deadline.
pub const SLACK: Duration = Duration::from_millis(500);

pub const KEY: &str = "the key of this job, 32 bytes ..";
pub const OTHER_KEY: &str = "another key, not this job's ....";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Threads,
    Processes,
}

pub const HOWS: [How; 2] = [How::Threads, How::Processes];

/// What one rank says and does.
#[derive(Clone)]
pub struct Rank {
    pub rank: usize,
    pub world: usize,
    pub key: String,
    pub nonce: u8,
    /// Comes so much later than the others.
    pub delay: Duration,
    pub deadline: Duration,
    pub protocol: u32,
    pub nccl: i32,
    pub plan: u64,
    pub device: u8,
    pub shares: bool,
    /// After joining: nothing, "id" (exchange), "die" (rank 0 goes without giving it), "fail" (cannot make it).
    pub then: String,
}

impl Rank {
    pub fn of(rank: usize, world: usize) -> Self {
        Self {
            rank,
            world,
            key: KEY.into(),
            nonce: 7,
            delay: Duration::ZERO,
            deadline: D,
            protocol: seqpar::rendezvous::PROTOCOL,
            nccl: 22809,
            plan: 0xabcd,
            device: rank as u8 + 1,
            shares: false,
            then: String::new(),
        }
    }

    pub fn nonce(&self) -> Nonce {
        Nonce([self.nonce; 16])
    }

    fn words(&self, place: &Place) -> String {
        format!(
            "place={}|rank={}|world={}|key={}|nonce={}|delay={}|deadline={}|protocol={}|nccl={}|plan={}|device={}|shares={}|then={}",
            place.words(),
            self.rank,
            self.world,
            self.key,
            self.nonce,
            self.delay.as_millis(),
            self.deadline.as_millis(),
            self.protocol,
            self.nccl,
            self.plan,
            self.device,
            self.shares,
            self.then
        )
    }

    fn from_words(words: &str) -> (Self, Place) {
        let words: BTreeMap<&str, &str> = words.split('|').map(|word| word.split_once('=').unwrap()).collect();
        let number = |name: &str| words[name].parse::<u64>().unwrap();
        let rank = Self {
            rank: number("rank") as usize,
            world: number("world") as usize,
            key: words["key"].into(),
            nonce: number("nonce") as u8,
            delay: Duration::from_millis(number("delay")),
            deadline: Duration::from_millis(number("deadline")),
            protocol: number("protocol") as u32,
            nccl: number("nccl") as i32,
            plan: number("plan"),
            device: number("device") as u8,
            shares: words["shares"] == "true",
            then: words["then"].into(),
        };
        (rank, Place::from_words(words["place"]))
    }

    /// Comes, joins, does what follows. The store is given back, since the others may still need it.
    fn run(&self, place: &Place) -> (Outcome, Option<Arc<dyn Store>>) {
        std::thread::sleep(self.delay);
        let begin = Instant::now();
        let deadline = begin + self.deadline;
        let key = Key::from_bytes(self.key.as_bytes()).unwrap();
        let store = match place.open(self.rank, &key, deadline) {
            Ok(store) => store,
            Err(error) => return (Outcome::of(Err(error), begin), None),
        };
        let mut hello = Hello::new(self.rank, self.world, self.nonce()).unwrap();
        (hello.protocol, hello.nccl_version, hello.plans) = (self.protocol, self.nccl, vec![self.plan]);
        (hello.device, hello.shares_device) = (Some([self.device; 16]), self.shares);
        let members = join(store.as_ref(), &key, &hello, deadline);
        let said = members.and_then(|members| {
            assert_eq!((members.rank(), members.world()), (self.rank, self.world));
            let ranks: Vec<_> = members.hellos().iter().map(|hello| hello.rank).collect();
            assert_eq!(ranks, (0..self.world).collect::<Vec<_>>());
            assert_eq!(members.neighbours(), ranks);
            match (self.then.as_str(), self.rank) {
                ("", _) => return Ok("joined".to_string()),
                ("die", 0) => std::process::exit(0),
                _ => {}
            }
            let begin = Instant::now();
            let make = || match self.then.as_str() {
                "fail" => Err(Error::Unsupported("no NCCL here".into())),
                _ => Ok(secret_id()),
            };
            let id = exchange_id(store.as_ref(), &key, &members, "world", make, begin + self.deadline)?;
            assert!(id == secret_id());
            Ok("has the id".into())
        });
        (Outcome::of(said, begin), Some(store))
    }
}

/// The id that rank 0 makes; no message may hold a part of it.
pub fn secret_id() -> [u8; 128] {
    std::array::from_fn(|i| b"0123456789abcdef"[i * 7 % 16])
}

/// What became of a rank.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// "joined", "has the id", or the kind of failure and its culprits.
    pub said: String,
    /// The error as a user reads it.
    pub words: String,
    pub took: Duration,
}

impl Outcome {
    pub fn of(result: Result<String>, begin: Instant) -> Self {
        let took = begin.elapsed();
        let (said, words) = match result {
            Ok(said) => (said, String::new()),
            Err(Error::Between(failure)) => {
                (format!("{:?} {:?}", failure.kind, failure.culprits), format!("rank {}: {failure}", failure.rank))
            }
            Err(other) => (format!("{other:?}"), other.to_string()),
        };
        Self { said, words, took }
    }
}

/// Runs all ranks at once and waits for all; outcomes in their order.
pub fn run(how: How, place: &Place, ranks: &[Rank]) -> Vec<Outcome> {
    match how {
        How::Threads => {
            let threads: Vec<_> = ranks
                .iter()
                .map(|rank| {
                    let (rank, place) = (rank.clone(), place.clone());
                    std::thread::spawn(move || rank.run(&place))
                })
                .collect();
            let ended: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            ended.into_iter().map(|(outcome, _)| outcome).collect()
        }
        How::Processes => {
            let processes: Vec<_> = ranks.iter().map(|rank| Process::start(&rank.words(place))).collect();
            processes
                .into_iter()
                .map(Process::outcome)
                .collect::<Vec<_>>()
                .into_iter()
                .map(|(outcome, _)| outcome)
                .collect()
        }
    }
}

/// A child that runs a task; it holds its store until it is dropped.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    pub fn start(task: &str) -> Self {
        Self::start_under(task, &[])
    }

    /// Starts a task with `before` as the command that starts it.
    pub fn start_under(task: &str, before: &[&str]) -> Self {
        let exe = std::env::current_exe().unwrap();
        let mut words: Vec<std::ffi::OsString> = before.iter().map(Into::into).collect();
        words.push(exe.into());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(CHILD)
            .env(TASK, task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    pub fn rank(rank: &Rank, place: &Place) -> Self {
        Self::start(&rank.words(place))
    }

    /// The next line that starts with `word`, without it; nothing if the child ended.
    pub fn line(&mut self, word: &str) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The harness says "test ... " on the same line.
            if let Some(at) = line.find(word) {
                return Some(line[at + word.len()..].trim().to_string());
            }
        }
    }

    /// Waits for a rank's outcome; the process lives on in what is returned.
    pub fn outcome(mut self) -> (Outcome, Self) {
        let line = self.line("outcome: ").unwrap_or_else(|| "ended\t\t0".into());
        let mut parts = line.split('\t');
        let (said, words) = (parts.next().unwrap().to_string(), parts.next().unwrap().to_string());
        let took = Duration::from_micros(parts.next().unwrap().parse().unwrap());
        (Outcome { said, words, took }, self)
    }

    /// Ends what the child waits for with `until_told`.
    pub fn let_go(&mut self) {
        drop(self.input.take());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        let begin = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if begin.elapsed() > Duration::from_secs(5) {
                self.child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What a child of a test does; nothing where this is no child.
#[test]
fn a_child() {
    let Ok(task) = std::env::var(TASK) else { return };
    if let Some(words) = task.strip_prefix("host ") {
        return crate::frames::host(words);
    }
    if let Some(words) = task.strip_prefix("machine ") {
        return crate::machine::task(words);
    }
    #[cfg(feature = "torchrun")]
    if task == "torchrun" {
        return crate::torch::under_torchrun();
    }
    let (rank, place) = Rank::from_words(&task);
    let (outcome, _store) = rank.run(&place);
    say(&format!("outcome: {}\t{}\t{}", outcome.said, outcome.words, outcome.took.as_micros()));
    until_told();
}

pub fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

/// Sleeps until the parent lets go.
pub fn until_told() {
    let _ = std::io::stdin().read_line(&mut String::new());
}
