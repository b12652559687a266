use cudarc::driver::sys;

use super::driver::{check, log_failure};
use super::stream::Stream;
use crate::error::Result;

/// A point in a stream.
#[derive(Debug)]
pub struct Event {
    raw: sys::CUevent,
}

// SAFETY: an event may be used from any thread; the driver locks it.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event of the current context; one that keeps no time costs less.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(timed: bool) -> Result<Self> {
        let flags =
            if timed { sys::CUevent_flags::CU_EVENT_DEFAULT } else { sys::CUevent_flags::CU_EVENT_DISABLE_TIMING };
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle; destroyed in drop.
        check(unsafe { sys::cuEventCreate(&mut raw, flags as u32) }, "cuEventCreate")?;
        Ok(Self { raw })
    }

    pub(super) fn raw(&self) -> sys::CUevent {
        self.raw
    }

    /// Stands for all work of `stream` so far.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both handles are alive.
        check(unsafe { sys::cuEventRecord(self.raw, stream.raw()) }, "cuEventRecord")
    }

    /// Stands, after every launch of the graph that `stream` is captured into, for the work before
    /// it: a node of the graph. [`Event::record`] is a mere edge there, and leaves no time.
    ///
    /// # Errors
    /// A stream that is not being captured, and what the driver says.
    pub fn record_in_graph(&self, stream: &Stream) -> Result<()> {
        let external = sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL as u32;
        // SAFETY: both handles are alive; the graph's owner keeps the event as long as the graph.
        check(unsafe { sys::cuEventRecordWithFlags(self.raw, stream.raw(), external) }, "cuEventRecord")
    }

    /// Whether the recorded work is done.
    ///
    /// # Errors
    /// What the driver says, a failure of the work included.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the handle is alive.
        match unsafe { sys::cuEventQuery(self.raw) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check(result, "cuEventQuery").map(|()| true),
        }
    }

    /// Milliseconds from `earlier` to this event; both timed, recorded and done.
    ///
    /// # Errors
    /// What the driver says.
    pub fn milliseconds_since(&self, earlier: &Self) -> Result<f32> {
        let mut ms = 0.0;
        // SAFETY: both handles are alive; writes one float.
        check(unsafe { sys::cuEventElapsedTime_v2(&mut ms, earlier.raw, self.raw) }, "cuEventElapsedTime")?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once; the driver keeps it until its work is done.
        log_failure(unsafe { sys::cuEventDestroy_v2(self.raw) }, "cuEventDestroy");
    }
}
