//! What cases stand on: the device, its kernels, and how results are said.

use std::cell::Cell;
use std::error::Error;
use std::ffi::{CString, c_char};
use std::io::Write;

use cudarc::driver::sys;
use seqpar::Result;
use seqpar::cuda::Context;
use seqpar::exec::cuda::Kernels;

pub(crate) type Done<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Set where the tests' mock driver stands for a GPU.
pub(crate) const MOCK: &str = "SEQPAR_BUNDLE_MOCK";

/// How a case runs.
pub(crate) struct Ground {
    pub(crate) part: &'static str,
    pub(crate) name: &'static str,
    /// On the tests' mock driver: small sizes, ranks of NCCL as threads.
    pub(crate) mock: bool,
    failed: Cell<usize>,
}

impl Ground {
    pub(crate) fn new(part: &'static str, name: &'static str) -> Self {
        let mock = std::env::var_os(MOCK).is_some();
        if mock {
            configure("sms=4 devices=8 host=thread check=0");
        }
        Self { part, name, mock, failed: Cell::new(0) }
    }

    /// Of a rank that its parent has started; it tells its parent what it finds.
    pub(crate) fn of_rank(mock: bool) -> Self {
        Self { part: "", name: "rank", mock, failed: Cell::new(0) }
    }

    /// `real`, or `mock` on the mock.
    pub(crate) fn pick<T>(&self, real: T, mock: T) -> T {
        if self.mock { mock } else { real }
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed.get()
    }

    /// One result; `fields` is an object.
    pub(crate) fn say(&self, what: &str, ok: bool, fields: serde_json::Value) {
        self.failed.set(self.failed.get() + usize::from(!ok));
        self.line(what, "ok", ok.into(), fields);
    }

    /// What was not done, and why.
    pub(crate) fn skip(&self, what: &str, why: &str) {
        self.line(what, "skipped", why.into(), serde_json::json!({}));
    }

    fn line(&self, what: &str, key: &str, value: serde_json::Value, fields: serde_json::Value) {
        let mut line = serde_json::json!({ "part": self.part, "case": self.name, "what": what, key: value });
        if let (Some(line), serde_json::Value::Object(fields)) = (line.as_object_mut(), fields) {
            line.extend(fields);
        }
        println!("{line}");
        let _ = std::io::stdout().flush();
    }

    pub(crate) fn kernels(&self, context: &Context) -> Result<Kernels> {
        if self.mock {
            // SAFETY: the mock does not read images.
            return unsafe { Kernels::load(context, &[b"any image"]) };
        }
        Kernels::embedded(context)
    }
}

type Configure = unsafe extern "C" fn(*const c_char) -> i32;

/// Tells the mock driver how to behave. Panics on a real one: nothing may be taken for a result.
pub(crate) fn configure(words: &str) {
    // SAFETY: opens libraries by name.
    assert!(unsafe { sys::is_culib_present() }, "no libcuda.so.1 was found");
    let text = CString::new(words).unwrap_or_default();
    // SAFETY: the mock's function has this type; the string lives until it returns.
    let unknown = unsafe {
        let configure = sys::culib().get::<Configure>(b"mock_configure");
        (*configure.unwrap_or_else(|e| panic!("SEQPAR_BUNDLE_MOCK is set on another driver: {e}")))(text.as_ptr())
    };
    assert_eq!(unknown, 0, "the mock does not know all of {words:?}");
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
