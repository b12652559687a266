//! Flags in device memory, written and waited for in stream order.

use cudarc::driver::sys;

use super::driver::check;
use super::stream::Stream;
use crate::error::Result;

/// Writes `value` after all earlier work of the stream is visible.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// `address` is a word of memory that the device can reach, alive until the write has run.
pub unsafe fn write_value(address: u64, value: u32, stream: &Stream) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { sys::cuStreamWriteValue32_v2(stream.raw(), address, value, 0) }, "cuStreamWriteValue32")
}

/// Later work of the stream waits until `(i32)(*address - value) >= 0`.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// As for [`write_value`]. The driver has no deadline here: whoever writes the flag must not
/// depend on this stream.
pub unsafe fn wait_value(address: u64, value: u32, stream: &Stream) -> Result<()> {
    let at_least = sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
    // SAFETY: the caller's promise.
    check(unsafe { sys::cuStreamWaitValue32_v2(stream.raw(), address, value, at_least) }, "cuStreamWaitValue32")
}
