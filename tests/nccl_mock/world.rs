//! Ranks on threads, each with a communicator, two streams and memory.

use std::cell::RefCell;
use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Barrier;

use cudarc::driver::sys;
use seqpar::cuda::{Context, DeviceMemory, Event, Priority, Stream};

use crate::mock::Mock;
use crate::raw::{Config, Handle, IN_PROGRESS, UniqueId, dtype, nccl, ok};

/// More polls than any test lets a call be in progress.
const POLLS: usize = 1_000_000;

pub fn unique_id() -> UniqueId {
    let mut id = UniqueId([0; 128]);
    // SAFETY: writes one id.
    ok(unsafe { (nccl().ncclGetUniqueId)(&mut id) });
    id
}

/// A communicator and what may be done with it from one thread.
pub struct Comm(pub Handle);

// SAFETY: used by one thread at a time.
unsafe impl Send for Comm {}

impl Comm {
    /// Non-blocking, without waiting for the others.
    pub fn begin(id: UniqueId, world: usize, rank: usize) -> Self {
        let (mut comm, mut config) = (null_mut(), Config::new(false));
        // SAFETY: writes one handle; the config lives until the call returns.
        let begun =
            unsafe { (nccl().ncclCommInitRankConfig)(&mut comm, world as c_int, id, rank as c_int, &mut config) };
        assert!(begun == 0 || begun == IN_PROGRESS, "{begun}");
        Self(comm)
    }

    pub fn state(&self) -> c_int {
        let mut error = 0;
        // SAFETY: writes one number.
        ok(unsafe { (nccl().ncclCommGetAsyncError)(self.0, &mut error) });
        error
    }

    /// Polls until nothing is in progress.
    pub fn settle(&self) -> c_int {
        for _ in 0..POLLS {
            match self.state() {
                IN_PROGRESS => std::thread::yield_now(),
                state => return state,
            }
        }
        panic!("in progress for ever");
    }

    /// A call on it, until it is done.
    #[track_caller]
    pub fn done(&self, code: c_int) {
        if code == IN_PROGRESS { ok(self.settle()) } else { ok(code) }
    }

    /// A group of calls, until it is done.
    #[track_caller]
    pub fn group(&self, calls: impl FnOnce()) {
        // SAFETY: take nothing.
        unsafe {
            ok((nccl().ncclGroupStart)());
            calls();
            self.done((nccl().ncclGroupEnd)());
        }
    }

    pub fn finish(&self) {
        // SAFETY: the mock knows handles that were given up.
        unsafe {
            self.done((nccl().ncclCommFinalize)(self.0));
            ok((nccl().ncclCommDestroy)(self.0));
        }
    }

    pub fn abort(&self) {
        // SAFETY: the mock knows handles that were given up.
        ok(unsafe { (nccl().ncclCommAbort)(self.0) });
    }
}

/// A stream and its handle.
pub struct Lane {
    pub raw: u64,
    pub stream: Stream,
}

impl Lane {
    fn new() -> Self {
        let mut raw = null_mut();
        // SAFETY: writes one handle, which lives until the lane is dropped.
        unsafe {
            assert_eq!(sys::cuStreamCreateWithPriority(&mut raw, 1, 0), sys::CUresult::CUDA_SUCCESS);
            Self { raw: raw as u64, stream: Stream::borrowed(raw as u64) }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // SAFETY: made by `new`, not used again.
        unsafe { sys::cuStreamDestroy_v2(self.raw as sys::CUstream) };
    }
}

pub struct Rank {
    pub rank: usize,
    pub comm: Comm,
    pub compute: Stream,
    pub communication: Lane,
    /// What device work may still touch when the test's body ends.
    kept: RefCell<Vec<DeviceMemory>>,
    pub context: Context,
}

impl Rank {
    /// On a device of its own where there are enough.
    pub fn new(id: UniqueId, world: usize, rank: usize, devices: usize) -> Self {
        let context = Context::primary((rank % devices) as i32).unwrap();
        let comm = Comm::begin(id, world, rank);
        ok(comm.settle());
        Self {
            rank,
            comm,
            compute: Stream::new(Priority::Low).unwrap(),
            communication: Lane::new(),
            kept: RefCell::default(),
            context,
        }
    }

    /// Device memory with these numbers, written on the stream that computes.
    pub fn memory(&self, words: &[i32]) -> DeviceMemory {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let memory = DeviceMemory::new(bytes.len()).unwrap();
        memory.write(0, &bytes, &self.compute).unwrap();
        memory
    }

    /// Memory that is given back with the rank, after its communicator: freeing waits for what is
    /// enqueued. Ready for the stream that communicates.
    pub fn scratch(&self, elems: usize) -> u64 {
        let memory = self.memory(&vec![1; elems]);
        self.join(&self.compute, &self.communication.stream);
        let address = memory.address();
        self.kept.borrow_mut().push(memory);
        address
    }

    pub fn read(&self, memory: &DeviceMemory) -> Vec<i32> {
        let mut bytes = vec![0; memory.bytes()];
        memory.read(0, &mut bytes, &self.compute).unwrap();
        bytes.chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// `to` waits for all of `from` so far.
    pub fn join(&self, from: &Stream, to: &Stream) {
        let event = Event::new(false).unwrap();
        event.record(from).unwrap();
        to.wait(&event).unwrap();
    }

    pub fn all_gather(&self, send: u64, receive: u64, count: usize) {
        // SAFETY: the mock checks addresses.
        let code =
            unsafe { (nccl().ncclAllGather)(send, receive, count, dtype::INT32, self.comm.0, self.communication.raw) };
        self.comm.done(code);
    }

    /// Numbers to `to`, without waiting.
    pub fn send(&self, from: u64, count: usize, to: usize) -> c_int {
        // SAFETY: the mock checks addresses.
        unsafe { (nccl().ncclSend)(from, count, dtype::INT32, to as c_int, self.comm.0, self.communication.raw) }
    }

    pub fn receive(&self, to: u64, count: usize, from: usize) -> c_int {
        // SAFETY: the mock checks addresses.
        unsafe { (nccl().ncclRecv)(to, count, dtype::INT32, from as c_int, self.comm.0, self.communication.raw) }
    }
}

/// Each rank's result; communicators are finalised afterwards.
pub fn run<T: Send>(mock: &Mock, world: usize, devices: usize, body: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
    let id = unique_id();
    mock.ranks(world, |rank| {
        let rank = Rank::new(id, world, rank, devices);
        let result = body(&rank);
        rank.comm.finish();
        result
    })
}

/// As [`run`], but the ranks abort: for what does not end.
pub fn run_and_abort<T: Send>(mock: &Mock, world: usize, body: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
    let id = unique_id();
    let all = Barrier::new(world);
    mock.ranks(world, |rank| {
        let rank = Rank::new(id, world, rank, world);
        // Nobody fails while another is still polling its initialisation.
        all.wait();
        let result = body(&rank);
        rank.comm.abort();
        result
    })
}
