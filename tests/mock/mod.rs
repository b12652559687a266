//! A mock of the CUDA driver: `libcuda.so.1` without a GPU, with the emulated kernels behind its
//! launches. The code under test runs unmodified and loads it as it would load the real one.
//!
//! [`on_mock`] runs a test's body in a process of its own, in which the mock is found first;
//! [`Mock`] sets the seed, the scheduling mode and faults, and reads what was found. What the
//! driver does is in `driver/`, when it does it in `engine/`, what a launch computes in
//! `kernels/`; `control.cpp` is what tests alone call.
//!
//! Above it `nccl/` is a mock `libnccl.so.2` in the same folder: ranks are threads of the process, a
//! collective is an operation on each rank's stream that runs when all of them are next.
//! [`Mock::ranks`] runs such threads; its tests are in `tests/nccl_mock`.
//!
//! Not modelled: real time and bandwidth, priorities, programmatic dependent launch (full order),
//! allocation nodes, child graphs, managed memory; what another process does with lent memory; of NCCL
//! a collective that is half done. The host's own accesses of pinned memory are not seen. What the mock
//! assumes of a driver is in `tests/cuda_mock/behaviours`,
//! which also runs on a real one.
#![allow(dead_code, unreachable_pub)]

pub mod build;
pub mod layers;
pub mod operands;
pub mod workload;

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cudarc::driver::sys;

use crate::emulation::accesses::Touched;

/// In the child's environment.
const CHILD: &str = "SEQPAR_TEST_MOCK";

/// Of a test: what takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(1800);

pub const MODES: [&str; 4] = ["late", "random", "eager", "threads"];

/// Runs `body`, a closure of a test, in a process where the mock is the CUDA driver: that test
/// alone is started again, so nothing comes before the call.
pub fn on_mock<F: FnOnce(&Mock)>(body: F) {
    if std::env::var_os(CHILD).is_some() {
        return body(&Mock::loaded());
    }
    let closure = std::any::type_name::<F>();
    let (_, test) = closure.trim_end_matches("::{{closure}}").split_once("::").unwrap();
    let folder = build::library().unwrap_or_else(|e| panic!("{e}"));
    let mut search = vec![folder];
    search.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", std::env::join_paths(search).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("{test} hangs on the mock driver");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = reader.join().unwrap().unwrap();
    assert!(text.contains("1 passed"), "{test} on the mock driver: {status}\n{text}");
    print!("{text}");
}

/// Tests of `$each(mock, ranks)` at 1 to 4 ranks, a process each: they run side by side.
#[allow(unused_macros)]
macro_rules! on_one_to_four_ranks {
    ($each:path) => {
        #[test]
        fn one() {
            $crate::mock::on_mock(|mock| $each(mock, 1));
        }

        #[test]
        fn two() {
            $crate::mock::on_mock(|mock| $each(mock, 2));
        }

        #[test]
        fn three() {
            $crate::mock::on_mock(|mock| $each(mock, 3));
        }

        #[test]
        fn four() {
            $crate::mock::on_mock(|mock| $each(mock, 4));
        }
    };
}
#[allow(unused_imports)]
pub(crate) use on_one_to_four_ranks;

/// An operation that ran.
pub struct Ran {
    /// A kernel's symbol, or what the mock calls the operation.
    pub label: String,
    pub touched: Touched,
}

/// The control interface of the mock in this process.
pub struct Mock(());

type Configure = unsafe extern "C" fn(*const c_char) -> i32;
type Lines = unsafe extern "C" fn(*mut u8, usize) -> usize;
type Number = unsafe extern "C" fn() -> u64;

impl Mock {
    /// Fails where another driver than the mock was loaded.
    fn loaded() -> Self {
        // SAFETY: opens libraries by name.
        assert!(unsafe { sys::is_culib_present() }, "no libcuda.so was found");
        let mock = Self(());
        mock.function::<Configure>("mock_configure");
        mock
    }

    fn function<T: Copy>(&self, name: &str) -> T {
        // SAFETY: callers name a function of control.cpp with its type.
        unsafe { *sys::culib().get::<T>(name.as_bytes()).unwrap_or_else(|e| panic!("not the mock driver: {e}")) }
    }

    /// Words of `Options::apply` in `engine/options.cpp`, and "reset".
    pub fn configure(&self, words: &str) {
        let text = CString::new(words).unwrap();
        // SAFETY: the string lives until the call returns.
        let unknown = unsafe { self.function::<Configure>("mock_configure")(text.as_ptr()) };
        assert_eq!(unknown, 0, "the mock does not know all of {words:?}");
    }

    /// Everything anew but live objects: abandons queued work, forgets reports and faults.
    pub fn reset(&self, mode: &str, seed: u64) {
        self.configure(&format!("reset mode={mode} seed={seed}"));
    }

    /// Runs `body` for each rank on a thread of its own. Nobody else starts anything meanwhile: a wait
    /// that none of them can end is a deadlock at once. What they have seen, the caller has seen then.
    pub fn ranks<T: Send>(&self, world: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let hosts = self.function::<unsafe extern "C" fn(i32)>("mock_hosts");
        // SAFETY: takes a number.
        unsafe { hosts(world as i32) };
        let results = std::thread::scope(|scope| {
            let body = &body;
            let rank = |rank| {
                scope.spawn(move || {
                    let _host = Host::enter(self);
                    body(rank)
                })
            };
            let threads: Vec<_> = (0..world).map(rank).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // SAFETY: takes a number.
        unsafe { hosts(0) };
        self.call("mock_handoff");
        results
    }

    fn call(&self, name: &str) {
        // SAFETY: callers name a function that takes nothing and returns nothing.
        unsafe { self.function::<unsafe extern "C" fn()>(name)() };
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let mut text = vec![0; 1 << 20];
        // SAFETY: writes at most that many bytes, the last of them 0.
        unsafe { self.function::<Lines>(name)(text.as_mut_ptr(), text.len()) };
        let end = text.iter().position(|&c| c == 0).unwrap();
        String::from_utf8_lossy(&text[..end]).lines().map(String::from).collect()
    }

    /// Races, deadlocks, misuse, leaks, what kernels did wrong.
    pub fn reports(&self) -> Vec<String> {
        self.lines("mock_reports")
    }

    pub fn assert_clean(&self, what: &str) {
        let reports = self.reports();
        assert!(reports.is_empty(), "{what}:\n{}", reports.join("\n"));
    }

    /// Functions called and operations run ("run.LABEL") since the last reset.
    pub fn calls(&self) -> Vec<(String, usize)> {
        let count = |line: String| {
            let (name, count) = line.rsplit_once(' ').unwrap();
            (name.to_string(), count.parse().unwrap())
        };
        self.lines("mock_calls").into_iter().map(count).collect()
    }

    /// What was made and not given back.
    pub fn leaks(&self) -> Vec<String> {
        self.lines("mock_leaks")
    }

    /// What each operation touched since the last reset, by submission; needs `record=1`.
    pub fn ran(&self) -> Vec<Ran> {
        let f = self.function::<unsafe extern "C" fn(*mut u64, usize) -> usize>("mock_touched");
        // SAFETY: writes nothing.
        let count = unsafe { f(std::ptr::null_mut(), 0) };
        let mut words = vec![0u64; 4 * count];
        // SAFETY: writes at most that many ranges.
        unsafe { f(words.as_mut_ptr(), count) };
        let mut ran: BTreeMap<u64, Ran> = BTreeMap::new();
        for line in self.lines("mock_ran") {
            let (id, label) = line.split_once(' ').unwrap();
            ran.insert(id.parse().unwrap(), Ran { label: label.to_string(), touched: Touched::default() });
        }
        for range in words.chunks(4) {
            if let Some(of) = ran.get_mut(&range[0]) {
                of.touched.add(range[1], range[2], range[3] as u32);
            }
        }
        ran.into_values().collect()
    }

    /// A hash of the order in which operations ran.
    pub fn order(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { self.function::<Number>("mock_order")() }
    }

    pub fn executed(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { self.function::<Number>("mock_executed")() }
    }
}

/// A thread of [`Mock::ranks`], until it is dropped.
struct Host<'a>(&'a Mock);

impl<'a> Host<'a> {
    fn enter(mock: &'a Mock) -> Self {
        mock.call("mock_host_entered");
        Self(mock)
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        self.0.call("mock_host_left");
    }
}
