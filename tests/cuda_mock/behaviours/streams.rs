//! Streams, events, flags.

use std::ptr::null_mut;
use std::time::Duration;

use cudarc::driver::sys::*;

use super::{Setup, event, ok, stream, text, texts};

pub(super) fn bad_flags() -> String {
    let (_setup, mut stream, mut event) = (Setup::new(), null_mut(), null_mut());
    // SAFETY: write one handle each.
    unsafe { texts([cuStreamCreate(&mut stream, 64), cuEventCreate(&mut event, 64)]) }
}

pub(super) fn priorities() -> String {
    let (_setup, mut stream, mut least, mut greatest, mut got) = (Setup::new(), null_mut(), 0, 0, [0; 2]);
    // SAFETY: write one value each.
    unsafe {
        ok(cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
        for (i, asked) in [greatest - 100, least + 100].into_iter().enumerate() {
            ok(cuStreamCreateWithPriority(&mut stream, 1, asked));
            ok(cuStreamGetPriority(stream, &mut got[i]));
        }
    }
    if least == 0 && greatest < 0 && got == [greatest, least] { "clamped".into() } else { format!("{got:?}") }
}

pub(super) fn unrecorded() -> String {
    let s = Setup::new();
    // SAFETY: the handles are alive.
    unsafe { texts([cuStreamWaitEvent(s.streams[0], s.event, 0), cuEventQuery(s.event)]) }
}

pub(super) fn no_time() -> String {
    let (s, timed, mut ms) = (Setup::new(), event(0), 0.0);
    // SAFETY: the handles are alive; writes one number.
    unsafe {
        ok(cuEventRecord(s.event, s.streams[0]));
        ok(cuStreamSynchronize(s.streams[0]));
        texts([cuEventElapsedTime_v2(&mut ms, s.event, s.event), cuEventElapsedTime_v2(&mut ms, timed, timed)])
    }
}

pub(super) fn pending() -> String {
    let (s, timed, mut ms) = (Setup::new(), event(0), 0.0);
    s.shut(s.streams[0]);
    // SAFETY: the handles are alive; writes one number.
    let seen = unsafe {
        ok(cuEventRecord(timed, s.streams[0]));
        [cuStreamQuery(s.streams[0]), cuEventQuery(timed), cuEventElapsedTime_v2(&mut ms, timed, timed)]
    };
    s.open();
    // SAFETY: as above.
    ok(unsafe { cuStreamSynchronize(s.streams[0]) });
    texts(seen)
}

pub(super) fn wait_is_for_the_past() -> String {
    let (s, shut) = (Setup::new(), stream());
    // SAFETY: the handles are alive.
    let waited = unsafe {
        ok(cuEventRecord(s.event, s.streams[0]));
        ok(cuStreamWaitEvent(s.streams[1], s.event, 0));
        s.shut(shut);
        ok(cuEventRecord(s.event, shut));
        cuStreamSynchronize(s.streams[1])
    };
    s.open();
    // SAFETY: as above.
    ok(unsafe { cuStreamSynchronize(shut) });
    text(waited)
}

pub(super) fn destroyed_stream() -> String {
    let (s, gone) = (Setup::new(), stream());
    s.shut(gone);
    // SAFETY: the memory outlives the work.
    let destroyed = unsafe {
        ok(cuMemsetD32Async(s.memory, 7, 1, gone));
        cuStreamDestroy_v2(gone)
    };
    s.open();
    // SAFETY: takes nothing.
    ok(unsafe { cuCtxSynchronize() });
    format!("{} {}", text(destroyed), s.read(0))
}

pub(super) fn odd_flag() -> String {
    let s = Setup::new();
    // SAFETY: within the memory.
    text(unsafe { cuStreamWriteValue32_v2(s.streams[0], s.memory + 2, 1, 0) })
}

pub(super) fn flag_values() -> String {
    let s = Setup::new();
    let seen = [0, 1, 2, 0x8000_0001].map(|value| {
        let waits = stream();
        // SAFETY: the words outlive the waits: each is opened in the end.
        unsafe {
            s.words.write_volatile(value);
            ok(cuStreamWaitValue32_v2(waits, s.words as u64, 1, 0));
            // Patience: an open one is passed within it.
            let mut open = false;
            for _ in 0..50 {
                open |= cuStreamQuery(waits) == CUresult::CUDA_SUCCESS;
                std::thread::sleep(Duration::from_micros(if open { 0 } else { 500 }));
            }
            s.open();
            ok(cuStreamSynchronize(waits));
            if open { "open" } else { "shut" }
        }
    });
    seen.join(" ")
}

pub(super) fn flag_after_data() -> String {
    let s = Setup::new();
    let flag = s.memory + 16;
    // SAFETY: within the memory.
    unsafe {
        ok(cuStreamWaitValue32_v2(s.streams[1], flag, 1, 0));
        ok(cuMemcpyDtoDAsync_v2(s.memory + 4, s.memory, 4, s.streams[1]));
        ok(cuMemsetD32Async(s.memory, 7, 1, s.streams[0]));
        ok(cuStreamWriteValue32_v2(s.streams[0], flag, 1, 0));
        ok(cuStreamSynchronize(s.streams[1]));
    }
    s.read(4).to_string()
}

pub(super) fn destroyed_event() -> String {
    let (s, gone) = (Setup::new(), event(2));
    s.shut(s.streams[0]);
    // SAFETY: the handle is alive until it is destroyed.
    let destroyed = unsafe {
        ok(cuMemsetD32Async(s.memory, 7, 1, s.streams[0]));
        ok(cuEventRecord(gone, s.streams[0]));
        ok(cuStreamWaitEvent(s.streams[1], gone, 0));
        ok(cuMemcpyDtoDAsync_v2(s.memory + 4, s.memory, 4, s.streams[1]));
        cuEventDestroy_v2(gone)
    };
    s.open();
    // SAFETY: takes nothing.
    ok(unsafe { cuCtxSynchronize() });
    format!("{} {}", text(destroyed), s.read(4))
}

pub(super) fn recorded_again() -> String {
    let (s, begin, end) = (Setup::new(), event(0), event(0));
    let mut ms = [0.0; 2];
    // SAFETY: the handles are alive; write one number each.
    unsafe {
        ok(cuEventRecord(begin, s.streams[0]));
        for ms in &mut ms {
            ok(cuMemsetD32Async(s.memory, 7, 1, s.streams[0]));
            ok(cuEventRecord(end, s.streams[0]));
            ok(cuStreamSynchronize(s.streams[0]));
            ok(cuEventElapsedTime_v2(ms, begin, end));
        }
        let done = text(cuEventQuery(end));
        format!("{done} {}", if ms[1] > ms[0] { "later" } else { "no later" })
    }
}

pub(super) fn beside_the_default() -> String {
    let s = Setup::new();
    s.shut(null_mut());
    // SAFETY: the memory outlives the work.
    let synchronised = unsafe {
        ok(cuMemsetD32Async(s.memory, 7, 1, s.streams[0]));
        cuStreamSynchronize(s.streams[0])
    };
    s.open();
    // SAFETY: takes nothing.
    ok(unsafe { cuCtxSynchronize() });
    text(synchronised)
}
