//! A fake of its own for each test.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_long};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use seqpar::Error;
use seqpar::comm::nccl::{Communicator, Config, Library};
use seqpar::error::{Failure, FailureKind};

pub const SECOND: Duration = Duration::from_secs(1);

pub struct Fake {
    pub library: Library,
    control: libloading::Library,
}

/// A library of one's own: each copy has its own globals.
pub fn compile(version: i32, without: &[&str]) -> PathBuf {
    static COMPILED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    static COPIES: AtomicUsize = AtomicUsize::new(0);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-nccl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let name = format!("{version} {}", without.join(" "));
    let mut compiled = COMPILED.lock().unwrap_or_else(|e| e.into_inner());
    let number = compiled.len();
    let original = compiled.entry(name).or_insert_with(|| {
        let path = folder.join(format!("compiled-{number}.so"));
        let output = Command::new("cc")
            .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-o"])
            .arg(&path)
            .arg(format!("-DVERSION={version}"))
            .args(without.iter().map(|name| format!("-DWITHOUT_{name}")))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nccl_library/fake.c"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        path
    });
    let path = folder.join(format!("libnccl-{}.so", COPIES.fetch_add(1, Ordering::Relaxed)));
    std::fs::copy(original, &path).unwrap();
    path
}

impl Fake {
    pub fn new() -> Self {
        Self::without(&[])
    }

    pub fn without(functions: &[&str]) -> Self {
        let path = compile(22809, functions);
        let library = Library::load(Some(&path)).unwrap();
        // SAFETY: the library that was just compiled, opened once more; it stays open.
        let control = unsafe { libloading::Library::new(&path) }.unwrap();
        std::fs::remove_file(&path).unwrap();
        Self { library, control }
    }

    pub fn set(&self, name: &str, value: i64) {
        let name = CString::new(name).unwrap();
        // SAFETY: the function of fake.c with its type.
        unsafe {
            self.control.get::<unsafe extern "C" fn(*const c_char, c_long)>("fake_set").unwrap()(name.as_ptr(), value)
        }
    }

    /// Calls of a function, or a number that was set.
    pub fn count(&self, name: &str) -> i64 {
        let name = CString::new(name).unwrap();
        // SAFETY: as above.
        unsafe { self.control.get::<unsafe extern "C" fn(*const c_char) -> c_long>("fake_get").unwrap()(name.as_ptr()) }
    }

    pub fn fail(&self, function: &str, code: i32) {
        let function = CString::new(function).unwrap();
        // SAFETY: as above.
        let call = unsafe { self.control.get::<unsafe extern "C" fn(*const c_char, c_long)>("fake_fail").unwrap() };
        // SAFETY: as above.
        unsafe { call(function.as_ptr(), code.into()) }
    }

    pub fn hang(&self, function: &str) {
        let function = CString::new(function).unwrap();
        // SAFETY: as above.
        unsafe { self.control.get::<unsafe extern "C" fn(*const c_char)>("fake_hang").unwrap()(function.as_ptr()) }
    }

    /// What was issued, one line a call.
    pub fn written(&self) -> String {
        // SAFETY: as above; no other thread issues anything meanwhile.
        unsafe {
            let text = self.control.get::<unsafe extern "C" fn() -> *const c_char>("fake_written").unwrap()();
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }

    pub fn try_communicator(&self, deadline: Duration) -> seqpar::Result<Communicator> {
        let id = self.library.unique_id()?;
        Communicator::new(&self.library, &id, 1, 4, &config(), deadline)
    }

    pub fn communicator(&self) -> Communicator {
        self.try_communicator(SECOND).unwrap()
    }

    /// Nothing was done that NCCL does not survive.
    pub fn assert_lawful(&self) {
        assert_eq!(self.count("violations"), 0);
    }

    /// Waits for what happens behind the test's back.
    pub fn wait_for(&self, name: &str, count: i64) {
        let begin = Instant::now();
        while self.count(name) < count {
            assert!(begin.elapsed() < 5 * SECOND, "{name}: {} of {count}", self.count(name));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Short deadlines.
pub fn config() -> Config {
    Config {
        name: "test".into(),
        op_deadline: Duration::from_millis(300),
        reaper_deadline: Duration::from_millis(300),
        ..Config::default()
    }
}

#[track_caller]
pub fn failure<T: std::fmt::Debug>(result: seqpar::Result<T>) -> Failure {
    match result {
        Err(Error::Between(failure)) => *failure,
        other => panic!("not a failure between ranks: {other:?}"),
    }
}

#[track_caller]
pub fn kind<T: std::fmt::Debug>(result: seqpar::Result<T>) -> FailureKind {
    failure(result).kind
}
