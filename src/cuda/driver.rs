//! Presence of the library, and result codes as errors.

use std::ffi::CStr;
use std::sync::OnceLock;

use cudarc::driver::sys;

use crate::error::{Error, Result};

const OLDEST: i32 = 12010;

/// Loads and initialises the driver, once a process.
///
/// # Errors
/// No driver library, a driver too old, or one that finds no device.
pub fn load() -> Result<()> {
    static LOADED: OnceLock<Result<()>> = OnceLock::new();
    LOADED.get_or_init(try_load).clone()
}

fn try_load() -> Result<()> {
    if !is_present() {
        return Err(Error::Unsupported("no CUDA driver (libcuda.so.1) on this machine: use the host executor".into()));
    }
    // SAFETY: the library is there; 0 is the one allowed flag.
    check(unsafe { sys::cuInit(0) }, "cuInit")?;
    let mut version = 0;
    // SAFETY: writes one integer.
    check(unsafe { sys::cuDriverGetVersion(&mut version) }, "cuDriverGetVersion")?;
    if version < OLDEST {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Error::Unsupported(format!("the driver supports CUDA {major}.{minor}: 12.1 or newer is needed")));
    }
    Ok(())
}

/// cudarc panics where there is none. Its own question is not asked: a crate that links the driver, as
/// candle does, takes that function away from all.
fn is_present() -> bool {
    // SAFETY: opens libraries by name; their initialisers are those of the CUDA driver.
    ["libcuda.so.1", "libcuda.so", "nvcuda.dll"]
        .into_iter()
        .any(|name| unsafe { libloading::Library::new(name) }.is_ok())
}

/// A result code as an error that names the call.
pub(super) fn check(result: sys::CUresult, call: &'static str) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |get: unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult| {
        let mut p = std::ptr::null();
        // SAFETY: writes a pointer to a static string, or leaves null.
        unsafe {
            let _ = get(result, &mut p);
            if p.is_null() { "?".to_string() } else { CStr::from_ptr(p).to_string_lossy().into_owned() }
        }
    };
    Err(Error::Cuda {
        call,
        code: result as u32,
        why: format!("{}: {}", text(sys::cuGetErrorName), text(sys::cuGetErrorString)),
    })
}

/// For drops: an error has nowhere to go but the log.
pub(super) fn log_failure(result: sys::CUresult, call: &'static str) {
    if let Err(error) = check(result, call) {
        log::error!("{error}");
    }
}
