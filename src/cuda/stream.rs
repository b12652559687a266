use cudarc::driver::sys;

use super::driver::{check, log_failure};
use super::event::Event;
use crate::error::Result;

/// Which stream's kernels are scheduled first where both are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// The device's lowest: compute.
    Low,
    /// The device's highest: communication.
    High,
}

/// Work in order: a stream of our own, or one lent by the caller.
#[derive(Debug)]
pub struct Stream {
    raw: sys::CUstream,
    owned: bool,
}

// SAFETY: a stream may be used from any thread; the driver locks it.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream of the current context that does not wait for the default stream.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(priority: Priority) -> Result<Self> {
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: writes two integers.
        check(unsafe { sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest) }, "cuCtxGetStreamPriorityRange")?;
        let value = match priority {
            Priority::Low => least,
            Priority::High => greatest,
        };
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle; destroyed in drop.
        check(unsafe { sys::cuStreamCreateWithPriority(&mut raw, flags, value) }, "cuStreamCreateWithPriority")?;
        Ok(Self { raw, owned: true })
    }

    /// A stream that the caller keeps, by its handle (0 is the default stream).
    ///
    /// # Safety
    /// `handle` is a stream of the current context and outlives the result.
    pub unsafe fn borrowed(handle: u64) -> Self {
        Self { raw: handle as usize as sys::CUstream, owned: false }
    }

    /// Its handle, as [`Stream::borrowed`] takes it.
    pub fn handle(&self) -> u64 {
        self.raw as usize as u64
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Later work waits for what `event` recorded last.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: both handles are alive.
        check(unsafe { sys::cuStreamWaitEvent(self.raw, event.raw(), 0) }, "cuStreamWaitEvent")
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// What the driver says, a failure of the work included.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        check(unsafe { sys::cuStreamSynchronize(self.raw) }, "cuStreamSynchronize")
    }

    /// Whether all work is done.
    ///
    /// # Errors
    /// What the driver says, a failure of the work included.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the handle is alive.
        match unsafe { sys::cuStreamQuery(self.raw) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check(result, "cuStreamQuery").map(|()| true),
        }
    }

    /// Whether its work becomes part of a graph instead of being done.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_captured(&self) -> Result<bool> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the handle is alive; writes one value.
        check(unsafe { sys::cuStreamIsCapturing(self.raw, &mut status) }, "cuStreamIsCapturing")?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: made by `new`, destroyed once; work in flight goes on.
            log_failure(unsafe { sys::cuStreamDestroy_v2(self.raw) }, "cuStreamDestroy");
        }
    }
}
