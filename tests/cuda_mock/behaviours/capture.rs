//! Capture and graphs.

use std::ptr::null_mut;

use cudarc::driver::sys::*;

use super::{Setup, THREAD, event, ok, text, texts};

pub(super) fn default() -> String {
    let _setup = Setup::new();
    // SAFETY: the default stream always is there.
    text(unsafe { cuStreamBeginCapture_v2(null_mut(), THREAD) })
}

pub(super) fn sync() -> String {
    let s = Setup::new();
    s.capture(THREAD);
    // SAFETY: the stream is alive.
    let synchronised = unsafe { cuStreamSynchronize(s.streams[0]) };
    texts([synchronised, s.end(s.streams[0])])
}

pub(super) fn asked() -> String {
    let s = Setup::new();
    let ask = || {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED;
        // SAFETY: the stream is alive; writes one value.
        ok(unsafe { cuStreamIsCapturing(s.streams[0], &mut status) });
        match status {
            CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => "NONE",
            CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE => "ACTIVE",
            CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED => "INVALIDATED",
        }
    };
    let before = ask();
    s.capture(THREAD);
    let within = ask();
    s.end(s.streams[0]);
    [before, within, ask()].join(" ")
}

pub(super) fn outside() -> String {
    let s = Setup::new();
    // SAFETY: the handles are alive.
    let waited = unsafe {
        ok(cuEventRecord(s.event, s.streams[1]));
        s.capture(THREAD);
        cuStreamWaitEvent(s.streams[0], s.event, 0)
    };
    texts([waited, s.end(s.streams[0])])
}

pub(super) fn query() -> String {
    let s = Setup::new();
    s.capture(THREAD);
    // SAFETY: the handles are alive.
    let queried = unsafe {
        ok(cuEventRecord(s.event, s.streams[0]));
        cuEventQuery(s.event)
    };
    s.end(s.streams[0]);
    text(queried)
}

/// A capture of the first stream that the second one joins with a fill.
fn forked(s: &Setup) {
    s.capture(THREAD);
    // SAFETY: the handles and the memory are alive.
    unsafe {
        ok(cuEventRecord(s.event, s.streams[0]));
        ok(cuStreamWaitEvent(s.streams[1], s.event, 0));
        ok(cuMemsetD32Async(s.memory, 5, 1, s.streams[1]));
    }
}

pub(super) fn unjoined() -> String {
    let s = Setup::new();
    forked(&s);
    text(s.end(s.streams[0]))
}

pub(super) fn unmatched() -> String {
    let s = Setup::new();
    forked(&s);
    let unmatched = s.end(s.streams[1]);
    s.end(s.streams[0]);
    text(unmatched)
}

pub(super) fn allocates() -> String {
    let (s, mut address) = (Setup::new(), 0);
    s.capture(THREAD);
    // SAFETY: writes one number.
    let allocated = unsafe { cuMemAlloc_v2(&mut address, 8) };
    s.end(s.streams[0]);
    text(allocated)
}

pub(super) fn other_thread() -> String {
    let s = Setup::new();
    s.capture(THREAD);
    let other = std::thread::spawn(|| {
        let (mut context, mut address) = (null_mut(), 0);
        // SAFETY: writes one value each.
        unsafe {
            ok(cuDevicePrimaryCtxRetain(&mut context, 0));
            ok(cuCtxSetCurrent(context));
            cuMemAlloc_v2(&mut address, 8)
        }
    });
    let allocated = other.join().unwrap();
    s.end(s.streams[0]);
    text(allocated)
}

pub(super) fn replay() -> String {
    let s = Setup::new();
    s.capture(THREAD);
    let (mut graph, mut instance) = (null_mut(), null_mut());
    // SAFETY: the memory outlives the graph's work; write one handle each.
    unsafe {
        ok(cuMemsetD32Async(s.memory, 5, 1, s.streams[0]));
        ok(cuStreamEndCapture(s.streams[0], &mut graph));
        let before = s.read(0);
        ok(cuGraphInstantiateWithFlags(&mut instance, graph, 0));
        let after = [(); 2].map(|()| {
            ok(cuMemsetD32Async(s.memory, 0, 1, s.streams[0]));
            ok(cuGraphLaunch(instance, s.streams[0]));
            ok(cuStreamSynchronize(s.streams[0]));
            s.read(0)
        });
        format!("{before} then {} {}", after[0], after[1])
    }
}

pub(super) fn record_in_graph() -> String {
    let (s, begin, end, mut ms) = (Setup::new(), event(0), event(0), 0.0);
    let (mut graph, mut instance) = (null_mut(), null_mut());
    // SAFETY: the handles and the memory outlive the graph's work; write one value each.
    unsafe {
        let eager = cuEventRecordWithFlags(end, s.streams[0], 1);
        ok(cuEventRecord(begin, s.streams[0]));
        s.capture(THREAD);
        ok(cuMemsetD32Async(s.memory, 5, 1, s.streams[0]));
        let captured = cuEventRecordWithFlags(end, s.streams[0], 1);
        ok(cuStreamEndCapture(s.streams[0], &mut graph));
        ok(cuGraphInstantiateWithFlags(&mut instance, graph, 0));
        ok(cuGraphLaunch(instance, s.streams[0]));
        ok(cuStreamSynchronize(s.streams[0]));
        texts([eager, captured, cuEventElapsedTime_v2(&mut ms, begin, end)])
    }
}

/// The graph that the capture of the first stream has become, launched on it, and done.
fn launched(s: &Setup) -> CUgraphExec {
    let (mut graph, mut instance) = (null_mut(), null_mut());
    // SAFETY: write one handle each; the memory outlives the work.
    unsafe {
        ok(cuStreamEndCapture(s.streams[0], &mut graph));
        ok(cuGraphInstantiateWithFlags(&mut instance, graph, 0));
        ok(cuGraphDestroy(graph));
        ok(cuGraphLaunch(instance, s.streams[0]));
        ok(cuStreamSynchronize(s.streams[0]));
    }
    instance
}

pub(super) fn time_of_an_edge() -> String {
    let (s, edge, mut ms) = (Setup::new(), event(0), 0.0);
    s.capture(THREAD);
    // SAFETY: the handles are alive; writes one number.
    unsafe {
        ok(cuMemsetD32Async(s.memory, 5, 1, s.streams[0]));
        ok(cuEventRecord(edge, s.streams[0]));
        launched(&s);
        text(cuEventElapsedTime_v2(&mut ms, edge, edge))
    }
}

pub(super) fn streams_afterwards() -> String {
    let s = Setup::new();
    forked(&s);
    // SAFETY: the handles are alive.
    unsafe {
        ok(cuEventRecord(s.event, s.streams[1]));
        ok(cuStreamWaitEvent(s.streams[0], s.event, 0));
        launched(&s);
        texts(s.streams.map(|stream| cuStreamSynchronize(stream)))
    }
}

pub(super) fn flags() -> String {
    let s = Setup::new();
    let flag = s.memory + 16;
    s.capture(THREAD);
    // SAFETY: the handles and the memory are alive.
    unsafe {
        ok(cuMemsetD32Async(flag, 0, 1, s.streams[0]));
        ok(cuEventRecord(s.event, s.streams[0]));
        ok(cuStreamWaitEvent(s.streams[1], s.event, 0));
        ok(cuStreamWaitValue32_v2(s.streams[1], flag, 1, 0));
        ok(cuMemcpyDtoDAsync_v2(s.memory + 4, s.memory, 4, s.streams[1]));
        ok(cuMemsetD32Async(s.memory, 5, 1, s.streams[0]));
        ok(cuStreamWriteValue32_v2(s.streams[0], flag, 1, 0));
        ok(cuEventRecord(s.event, s.streams[1]));
        ok(cuStreamWaitEvent(s.streams[0], s.event, 0));
        let instance = launched(&s);
        let first = s.read(4);
        ok(cuMemsetD32Async(s.memory, 0, 2, s.streams[0]));
        ok(cuGraphLaunch(instance, s.streams[0]));
        ok(cuStreamSynchronize(s.streams[0]));
        format!("{first} {}", s.read(4))
    }
}

pub(super) fn destroyed() -> String {
    let s = Setup::new();
    s.capture(THREAD);
    let (mut graph, mut instance) = (null_mut(), null_mut());
    // SAFETY: write one handle each; the memory outlives the work.
    unsafe {
        ok(cuMemsetD32Async(s.memory, 5, 1, s.streams[0]));
        ok(cuStreamEndCapture(s.streams[0], &mut graph));
        ok(cuGraphInstantiateWithFlags(&mut instance, graph, 0));
        let graph = cuGraphDestroy(graph);
        s.shut(s.streams[0]);
        ok(cuGraphLaunch(instance, s.streams[0]));
        let instance = cuGraphExecDestroy(instance);
        s.open();
        ok(cuStreamSynchronize(s.streams[0]));
        format!("{} {}", texts([graph, instance]), s.read(0))
    }
}
