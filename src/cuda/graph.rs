use cudarc::driver::sys;

use super::driver::{check, log_failure};
use super::stream::Stream;
use crate::error::Result;

/// Captured work, ready to be launched again and again.
#[derive(Debug)]
pub struct Graph {
    raw: sys::CUgraphExec,
}

// SAFETY: a graph may be launched from any thread, one launch at a time (`&self` methods are
// ordered by the stream they launch on).
unsafe impl Send for Graph {}

/// Captures what `work` enqueues on `origin` and on streams that wait for it and are waited for.
/// Only calls of this thread are part of it.
///
/// # Errors
/// What `work` says first, then what the driver says; the stream is usable again in any case.
pub fn capture(origin: &Stream, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
    let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the handle is alive.
    check(unsafe { sys::cuStreamBeginCapture_v2(origin.raw(), mode) }, "cuStreamBeginCapture")?;
    let worked = work();
    let mut graph = std::ptr::null_mut();
    // SAFETY: the stream is capturing; writes one handle, null if the capture failed.
    let ended = check(unsafe { sys::cuStreamEndCapture(origin.raw(), &mut graph) }, "cuStreamEndCapture");
    let instantiated = worked.and(ended).and_then(|()| {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the graph is alive; writes one handle, destroyed in drop.
        check(unsafe { sys::cuGraphInstantiateWithFlags(&mut raw, graph, 0) }, "cuGraphInstantiate")?;
        Ok(Graph { raw })
    });
    if !graph.is_null() {
        // SAFETY: made by the capture, destroyed once; an instance does not need it.
        log_failure(unsafe { sys::cuGraphDestroy(graph) }, "cuGraphDestroy");
    }
    instantiated
}

impl Graph {
    /// Launches all of it, in stream order.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// Everything that the captured work touches is alive and ordered with other work until it
    /// has ended.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both handles are alive; the rest is the caller's promise.
        check(unsafe { sys::cuGraphLaunch(self.raw, stream.raw()) }, "cuGraphLaunch")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`, destroyed once; work in flight goes on.
        log_failure(unsafe { sys::cuGraphExecDestroy(self.raw) }, "cuGraphExecDestroy");
    }
}
