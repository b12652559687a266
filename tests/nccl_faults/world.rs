//! Rank threads with communicators of the crate.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, Config, Library, UniqueId};
use seqpar::cuda::{Context, DeviceMemory, Priority, Stream};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Failure, FailureKind, Result};

use crate::mock::{MODES, Mock};

/// Of what must end by itself.
pub const DEADLINE: Duration = Duration::from_millis(300);
/// Of what must not.
pub const LONG: Duration = Duration::from_secs(20);
const ELEMS: usize = 16;
const WORLD: usize = 3;

pub fn config() -> Config {
    Config { op_deadline: LONG, reaper_deadline: LONG, ..Config::default() }
}

pub fn library() -> Library {
    Library::load(None).unwrap()
}

pub struct Rank {
    pub rank: usize,
    pub comm: Communicator,
    pub stream: Stream,
    pub memory: DeviceMemory,
    pub context: Context,
}

impl Rank {
    pub fn new(library: &Library, id: &UniqueId, rank: usize, config: &Config) -> Result<Self> {
        let context = Context::primary(rank as i32)?;
        let comm = Communicator::new(library, id, rank, WORLD, config, LONG)?;
        let (stream, memory) = (Stream::new(Priority::High)?, DeviceMemory::new(4 * ELEMS * (WORLD + 1))?);
        memory.fill(1, &stream)?;
        Ok(Self { rank, comm, stream, memory, context })
    }

    /// Enqueues one collective.
    pub fn gather(&mut self, label: &str) -> Result<()> {
        gather(&mut self.comm, label, &self.memory, &self.stream)
    }

    /// Waits for the end of the work without a deadline of the mock's: `false` at ours.
    pub fn ends(&self, within: Duration) -> bool {
        let begin = Instant::now();
        while !self.stream.is_done().unwrap() {
            if begin.elapsed() > within {
                return false;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        true
    }
}

pub fn gather(comm: &mut Communicator, label: &str, memory: &DeviceMemory, stream: &Stream) -> Result<()> {
    let (from, to) = (memory.address(), memory.address() + 4 * ELEMS as u64);
    // SAFETY: both lie in the memory, which is given back after its communicator has ended.
    comm.group(label, |group| unsafe { group.all_gather(from, to, ELEMS, Dtype::I32, stream) })
}

/// Each rank's result on three devices; what it leaves alive is dropped.
pub fn run<T: Send>(mock: &Mock, config: &Config, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    let library = library();
    let id = library.unique_id().unwrap();
    let all = Barrier::new(WORLD);
    mock.ranks(WORLD, |rank| {
        let rank = Rank::new(&library, &id, rank, config).unwrap();
        // Nobody fails while another is still polling its initialisation.
        all.wait();
        body(rank)
    })
}

/// [`run`] in every mode of the mock, with faults in words of its options. The mock has nothing to
/// say afterwards, and nothing is left.
pub fn in_every_mode(mock: &Mock, faults: &str, body: impl Fn(&str, Rank) + Sync) {
    for mode in MODES {
        mock.reset(mode, 1);
        mock.configure(&format!("devices={WORLD} {faults}"));
        run(mock, &config(), |rank| body(mode, rank));
        mock.assert_clean(mode);
        assert_no_leaks(mock, mode);
    }
}

/// A call under way ends by itself, not before its deadline.
#[track_caller]
pub fn assert_in_time(begin: Instant) {
    let took = begin.elapsed();
    assert!((DEADLINE..LONG).contains(&took), "{took:?}");
}

/// Ends it while its context is there: a drop would do it behind our back.
pub fn end(comm: &Communicator) {
    comm.abort_handle().abort("the test is over").unwrap();
}

pub fn failure(error: Error) -> Failure {
    match error {
        Error::Between(failure) => *failure,
        error => panic!("not between ranks: {error}"),
    }
}

#[track_caller]
pub fn poisoned<T: std::fmt::Debug>(result: Result<T>) -> String {
    match failure(result.unwrap_err()).kind {
        FailureKind::Poisoned { first_cause } => first_cause,
        kind => panic!("not poisoned: {kind}"),
    }
}

/// Ends of communicators run on threads of their own: waits for them.
pub fn assert_no_leaks(mock: &Mock, what: &str) {
    let begin = Instant::now();
    while !mock.leaks().is_empty() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
}
