//! The C ABI: the header against the library and the Rust behind it; kernels, plans and every
//! argument through it; a C program and a Python one that link the library.

#[cfg(feature = "cuda")]
#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../layouts/mod.rs"]
mod layouts;
#[cfg(feature = "cuda")]
#[path = "../mock/mod.rs"]
mod mock;
#[path = "../support/mod.rs"]
mod support;

mod arguments;
#[cfg(feature = "cuda")]
mod cuda;
mod declarations;
mod handles;
mod header;
mod kernels;
mod library;
mod memory;
mod overlaps;
mod plans;
mod program;
mod python;
mod world;

use std::ffi::CStr;

use seqpar::capi::status::{seqpar_last_error, seqpar_status_name};

/// Name of a status.
fn name_of(status: i32) -> &'static str {
    // SAFETY: a static string.
    unsafe { CStr::from_ptr(seqpar_status_name(status)) }.to_str().unwrap()
}

/// What the last call that failed said.
fn last_error() -> String {
    // SAFETY: a string of this thread, until its next call.
    unsafe { CStr::from_ptr(seqpar_last_error()) }.to_string_lossy().into_owned()
}

/// Fails with the words of a call that failed.
#[track_caller]
fn ok(status: i32) {
    assert!(status == 0, "{}: {}", name_of(status), last_error());
}

/// Fails unless the call failed in that way, with those words.
#[track_caller]
fn refused(status: i32, name: &str, words: &str) {
    assert_eq!(name_of(status), name, "{}", last_error());
    assert!(last_error().contains(words), "{:?} does not say {words:?}", last_error());
}
