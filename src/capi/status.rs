//! Status codes, the last error of a thread, and the guard around every function.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;

/// `seqpar_status`.
pub type Status = i32;

/// What stops a call, with its words.
#[derive(Debug)]
pub(super) enum Fault {
    /// The caller's argument.
    Argument(String),
    /// No image has kernels for the device.
    #[cfg(feature = "cuda")]
    KernelsUnavailable(String),
    /// What the crate says.
    Crate(Error),
}

pub(super) type Outcome<T = ()> = Result<T, Fault>;

/// Names by code; what they mean is in the header.
const NAMES: [&CStr; 15] = [
    c"SEQPAR_OK",
    c"SEQPAR_INVALID_ARGUMENT",
    c"SEQPAR_INVALID_SHAPE",
    c"SEQPAR_INVALID_MESH",
    c"SEQPAR_INVALID_SHARD",
    c"SEQPAR_UNSUPPORTED",
    c"SEQPAR_KERNELS_UNAVAILABLE",
    c"SEQPAR_UNLAWFUL",
    c"SEQPAR_UNBOUND",
    c"SEQPAR_TIMEOUT",
    c"SEQPAR_RANK_FAILED",
    c"SEQPAR_CUDA_ERROR",
    c"SEQPAR_BETWEEN_RANKS",
    c"SEQPAR_INVALID_DATA",
    c"SEQPAR_INTERNAL",
];

const INTERNAL: Status = 14;

impl Fault {
    pub(super) fn argument(why: impl Into<String>) -> Self {
        Self::Argument(why.into())
    }

    fn code(&self) -> Status {
        match self {
            Self::Argument(_) => 1,
            #[cfg(feature = "cuda")]
            Self::KernelsUnavailable(_) => 6,
            Self::Crate(error) => match error {
                Error::Shape(_) => 2,
                Error::Mesh(_) => 3,
                Error::Shard(_) => 4,
                Error::Unsupported(_) => 5,
                Error::Law { .. } => 7,
                Error::Bind(_) => 8,
                Error::Timeout { .. } => 9,
                Error::Rank { .. } => 10,
                Error::Cuda { .. } => 11,
                Error::Between(_) => 12,
                Error::Data(_) => 13,
            },
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Argument(why) => f.write_str(why),
            #[cfg(feature = "cuda")]
            Self::KernelsUnavailable(why) => f.write_str(why),
            Self::Crate(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Crate(error)
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of a function: nothing but a status code leaves it.
pub(super) fn guard(body: impl FnOnce() -> Outcome) -> Status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(fault)) => {
            remember(fault.to_string());
            fault.code()
        }
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|text| text.to_string());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            remember(format!("a defect of seqpar, please report it: {said}"));
            INTERNAL
        }
    }
}

/// [`guard`] of what cannot fail.
pub(super) fn guard_destroy(body: impl FnOnce()) {
    guard(|| {
        body();
        Ok(())
    });
}

fn remember(text: String) {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // A thread that is ending has nobody left to ask.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

/// `SEQPAR_VERSION` of this library.
#[unsafe(no_mangle)] // SAFETY: the header's prefix keeps the name unique.
pub extern "C" fn seqpar_version() -> i32 {
    let number = |text: &str| text.bytes().fold(0, |n, digit| 10 * n + i32::from(digit - b'0'));
    number(env!("CARGO_PKG_VERSION_MAJOR")) * 10000
        + number(env!("CARGO_PKG_VERSION_MINOR")) * 100
        + number(env!("CARGO_PKG_VERSION_PATCH"))
}

/// What is in this build.
#[unsafe(no_mangle)] // SAFETY: the header's prefix keeps the name unique.
pub extern "C" fn seqpar_features() -> i32 {
    i32::from(cfg!(feature = "cuda"))
        | i32::from(cfg!(feature = "kernels")) << 1
        | i32::from(cfg!(feature = "nccl")) << 2
}

/// Name of a status code.
#[unsafe(no_mangle)] // SAFETY: the header's prefix keeps the name unique.
pub extern "C" fn seqpar_status_name(status: Status) -> *const c_char {
    let name = usize::try_from(status).ok().and_then(|code| NAMES.get(code));
    name.copied().unwrap_or(c"unknown").as_ptr()
}

/// The words of the last failure on this thread.
#[unsafe(no_mangle)] // SAFETY: the header's prefix keeps the name unique.
pub extern "C" fn seqpar_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}
