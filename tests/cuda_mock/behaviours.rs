//! What the mock assumes of a driver, as a table: a small program and its outcome. The same table
//! runs on a real driver where `SEQPAR_REAL_DRIVER` is set (a GPU is needed); what differs there
//! is printed, and the mock is to be changed. No code is loaded, so no kernel is needed.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys::*;

use crate::mock::on_mock;

type Program = fn() -> String;

const TABLE: &[(&str, Program, &str)] = &[
    ("initialisation with a flag", init_with_flag, "INVALID_VALUE"),
    ("a device that does not exist", no_device, "INVALID_DEVICE"),
    ("a call without a context", no_context, "INVALID_CONTEXT"),
    ("an allocation of nothing", allocate_nothing, "INVALID_VALUE"),
    ("alignment of allocations", alignment, "256"),
    ("freeing null, and freeing twice", free_twice, "SUCCESS SUCCESS INVALID_VALUE"),
    ("flags that do not exist", bad_flags, "INVALID_VALUE INVALID_VALUE"),
    ("priorities outside the range", priorities, "clamped"),
    ("an event never recorded: wait, query", unrecorded, "SUCCESS SUCCESS"),
    ("elapsed time: untimed, unrecorded", no_time, "INVALID_HANDLE INVALID_HANDLE"),
    ("behind a shut flag: stream, event, time", pending, "NOT_READY NOT_READY NOT_READY"),
    ("a wait is for the record made before it", wait_is_for_the_past, "SUCCESS"),
    ("work of a destroyed stream", destroyed_stream, "SUCCESS 7"),
    ("a pageable source changed after the call", pageable_source, "1"),
    ("a pinned source changed before the copy runs", pinned_source, "2"),
    ("a copy to pageable memory, at the return", pageable_target, "1"),
    ("a handle of the middle of an allocation, of its own process", own_handle, "INVALID_VALUE INVALID_CONTEXT"),
    ("an allocation by an address in it, by one beside it", ranges, "10 SUCCESS NOT_FOUND"),
    ("a flag at an odd address", odd_flag, "INVALID_VALUE"),
    ("capture: of the default stream", capture_default, "STREAM_CAPTURE_UNSUPPORTED"),
    ("capture: synchronise, then end", capture_sync, "STREAM_CAPTURE_UNSUPPORTED STREAM_CAPTURE_INVALIDATED"),
    ("capture: an event from outside", capture_outside, "STREAM_CAPTURE_ISOLATION STREAM_CAPTURE_INVALIDATED"),
    ("capture: query of an event inside", capture_query, "CAPTURED_EVENT"),
    ("capture: a stream that does not come back", capture_unjoined, "STREAM_CAPTURE_UNJOINED"),
    ("capture: the end on another stream", capture_unmatched, "STREAM_CAPTURE_UNMATCHED"),
    ("capture: allocation by this thread", capture_allocates, "STREAM_CAPTURE_UNSUPPORTED"),
    ("capture of a thread: allocation by another", capture_other_thread, "SUCCESS"),
    ("a captured fill, replayed twice", replay, "0 then 5 5"),
    ("a record for the outside: eager, captured, time", record_in_graph, "INVALID_VALUE SUCCESS SUCCESS"),
    ("tensor maps: good, odd address, wide box", tensor_maps, "SUCCESS INVALID_VALUE INVALID_VALUE"),
];

#[test]
fn the_mock_behaves_as_assumed() {
    on_mock(|mock| {
        for mode in ["late", "random", "eager"] {
            mock.reset(mode, 1);
            assert_eq!(differences(), Vec::<String>::new(), "{mode}");
        }
    });
}

#[test]
fn a_real_driver_behaves_as_assumed() {
    if std::env::var_os("SEQPAR_REAL_DRIVER").is_none() {
        eprintln!("skipped: SEQPAR_REAL_DRIVER is not set");
        return;
    }
    let differences = differences();
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

fn differences() -> Vec<String> {
    let mut found = Vec::new();
    // Before there is a context on this thread.
    for (name, program, assumed) in TABLE {
        // Each on a thread of its own: no context, no error is left over.
        let outcome = std::thread::spawn(program).join().unwrap_or_else(|_| "a panic".into());
        if outcome != *assumed {
            found.push(format!("{name}: {outcome}, assumed {assumed}"));
        }
    }
    found
}

fn text(result: CUresult) -> String {
    format!("{result:?}").trim_start_matches("CUDA_ERROR_").trim_start_matches("CUDA_").to_string()
}

fn texts<const N: usize>(results: [CUresult; N]) -> String {
    results.map(text).join(" ")
}

fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// The primary context, two streams, an event, pinned words and device memory; kept to the end of
/// the program.
struct Setup {
    streams: [CUstream; 2],
    event: CUevent,
    words: *mut u32,
    memory: u64,
}

impl Setup {
    fn new() -> Self {
        let (mut context, mut words, mut memory) = (null_mut(), null_mut(), 0);
        // SAFETY: each call writes one value.
        unsafe {
            ok(cuInit(0));
            ok(cuDevicePrimaryCtxRetain(&mut context, 0));
            ok(cuCtxSetCurrent(context));
            ok(cuMemHostAlloc(&mut words, 64, 2));
            ok(cuMemAlloc_v2(&mut memory, 64));
            words.cast::<u32>().write_bytes(0, 16);
            let setup = Self { streams: [stream(), stream()], event: event(2), words: words.cast(), memory };
            ok(cuMemsetD8Async(memory, 0, 64, setup.streams[0]));
            ok(cuStreamSynchronize(setup.streams[0]));
            setup
        }
    }

    /// Later work of the stream waits until [`Setup::open`].
    fn shut(&self, stream: CUstream) {
        // SAFETY: the word outlives the wait.
        ok(unsafe { cuStreamWaitValue32_v2(stream, self.words as u64, 1, 0) });
    }

    fn open(&self) {
        // SAFETY: the word is alive, and read by the device alone.
        unsafe { self.words.write_volatile(1) };
    }

    fn read(&self, at: u64) -> u32 {
        let mut value = 0u32;
        // SAFETY: within the memory; the copy ends before the call returns.
        unsafe {
            ok(cuMemcpyDtoHAsync_v2((&raw mut value).cast(), self.memory + at, 4, self.streams[1]));
            ok(cuStreamSynchronize(self.streams[1]));
        }
        value
    }

    fn capture(&self, mode: CUstreamCaptureMode_enum) {
        // SAFETY: the stream is alive.
        ok(unsafe { cuStreamBeginCapture_v2(self.streams[0], mode) });
    }

    fn end(&self, stream: CUstream) -> CUresult {
        let mut graph = null_mut();
        // SAFETY: writes one handle.
        unsafe { cuStreamEndCapture(stream, &mut graph) }
    }
}

const THREAD: CUstreamCaptureMode_enum = CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

fn stream() -> CUstream {
    let mut stream = null_mut();
    // SAFETY: writes one handle.
    ok(unsafe { cuStreamCreateWithPriority(&mut stream, 1, 0) });
    stream
}

fn event(flags: u32) -> CUevent {
    let mut event = null_mut();
    // SAFETY: writes one handle.
    ok(unsafe { cuEventCreate(&mut event, flags) });
    event
}

fn init_with_flag() -> String {
    // SAFETY: takes a number.
    text(unsafe { cuInit(1) })
}

fn no_device() -> String {
    let mut device = 0;
    // SAFETY: writes one number.
    unsafe {
        ok(cuInit(0));
        text(cuDeviceGet(&mut device, 999))
    }
}

fn no_context() -> String {
    let mut address = 0;
    // SAFETY: writes one number.
    unsafe {
        ok(cuInit(0));
        text(cuMemAlloc_v2(&mut address, 8))
    }
}

fn allocate_nothing() -> String {
    let (_setup, mut address) = (Setup::new(), 0);
    // SAFETY: writes one number.
    text(unsafe { cuMemAlloc_v2(&mut address, 0) })
}

fn alignment() -> String {
    let _setup = Setup::new();
    let addresses = [1, 300, 7].map(|bytes| {
        let mut address = 0;
        // SAFETY: writes one number.
        ok(unsafe { cuMemAlloc_v2(&mut address, bytes) });
        address
    });
    if addresses.iter().all(|a| a % 256 == 0) { "256".into() } else { format!("{addresses:x?}") }
}

fn free_twice() -> String {
    let (_setup, mut address) = (Setup::new(), 0);
    // SAFETY: frees what was allocated, then what is refused.
    unsafe {
        ok(cuMemAlloc_v2(&mut address, 8));
        texts([cuMemFree_v2(0), cuMemFree_v2(address), cuMemFree_v2(address)])
    }
}

fn bad_flags() -> String {
    let (_setup, mut stream, mut event) = (Setup::new(), null_mut(), null_mut());
    // SAFETY: write one handle each.
    unsafe { texts([cuStreamCreate(&mut stream, 64), cuEventCreate(&mut event, 64)]) }
}

fn priorities() -> String {
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

fn unrecorded() -> String {
    let s = Setup::new();
    // SAFETY: the handles are alive.
    unsafe { texts([cuStreamWaitEvent(s.streams[0], s.event, 0), cuEventQuery(s.event)]) }
}

fn no_time() -> String {
    let (s, timed, mut ms) = (Setup::new(), event(0), 0.0);
    // SAFETY: the handles are alive; writes one number.
    unsafe {
        ok(cuEventRecord(s.event, s.streams[0]));
        ok(cuStreamSynchronize(s.streams[0]));
        texts([cuEventElapsedTime_v2(&mut ms, s.event, s.event), cuEventElapsedTime_v2(&mut ms, timed, timed)])
    }
}

fn pending() -> String {
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

fn wait_is_for_the_past() -> String {
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

fn destroyed_stream() -> String {
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

fn pageable_source() -> String {
    let (s, mut source) = (Setup::new(), Box::new(1u32));
    // SAFETY: the source outlives the call, which is all that a pageable one needs.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(s.memory, (&raw const *source).cast(), 4, s.streams[0]));
        (&raw mut *source).write_volatile(2);
        ok(cuStreamSynchronize(s.streams[0]));
    }
    s.read(0).to_string()
}

fn pinned_source() -> String {
    let s = Setup::new();
    s.shut(s.streams[0]);
    // SAFETY: the words outlive the copy.
    unsafe {
        let source = s.words.add(4);
        source.write_volatile(1);
        ok(cuMemcpyHtoDAsync_v2(s.memory, source.cast(), 4, s.streams[0]));
        source.write_volatile(2);
        s.open();
        ok(cuStreamSynchronize(s.streams[0]));
    }
    s.read(0).to_string()
}

fn pageable_target() -> String {
    let (s, mut target) = (Setup::new(), Box::new(0u32));
    // SAFETY: the target outlives the copy.
    unsafe {
        ok(cuMemsetD32Async(s.memory, 1, 1, s.streams[0]));
        ok(cuMemcpyDtoHAsync_v2((&raw mut *target).cast(), s.memory, 4, s.streams[0]));
        (&raw const *target).read_volatile().to_string()
    }
}

fn own_handle() -> String {
    let (s, mut handle, mut address) = (Setup::new(), CUipcMemHandle { reserved: [0; 64] }, 0);
    // SAFETY: writes one handle, one address.
    unsafe {
        let middle = cuIpcGetMemHandle(&mut handle, s.memory + 16);
        ok(cuIpcGetMemHandle(&mut handle, s.memory));
        texts([middle, cuIpcOpenMemHandle_v2(&mut address, handle, 1)])
    }
}

fn ranges() -> String {
    let (s, mut base, mut bytes) = (Setup::new(), 0, 0);
    // SAFETY: writes an address and a length.
    unsafe {
        let inside = cuMemGetAddressRange_v2(&mut base, &mut bytes, s.memory + 16);
        let at = s.memory + 16 - base;
        texts([inside, cuMemGetAddressRange_v2(&mut base, &mut bytes, 64)])
            .replace("SUCCESS", &format!("{at:x} SUCCESS"))
    }
}

fn odd_flag() -> String {
    let s = Setup::new();
    // SAFETY: within the memory.
    text(unsafe { cuStreamWriteValue32_v2(s.streams[0], s.memory + 2, 1, 0) })
}

fn capture_default() -> String {
    let _setup = Setup::new();
    // SAFETY: the default stream always is there.
    text(unsafe { cuStreamBeginCapture_v2(null_mut(), THREAD) })
}

fn capture_sync() -> String {
    let s = Setup::new();
    s.capture(THREAD);
    // SAFETY: the stream is alive.
    let synchronised = unsafe { cuStreamSynchronize(s.streams[0]) };
    texts([synchronised, s.end(s.streams[0])])
}

fn capture_outside() -> String {
    let s = Setup::new();
    // SAFETY: the handles are alive.
    let waited = unsafe {
        ok(cuEventRecord(s.event, s.streams[1]));
        s.capture(THREAD);
        cuStreamWaitEvent(s.streams[0], s.event, 0)
    };
    texts([waited, s.end(s.streams[0])])
}

fn capture_query() -> String {
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

fn capture_unjoined() -> String {
    let s = Setup::new();
    forked(&s);
    text(s.end(s.streams[0]))
}

fn capture_unmatched() -> String {
    let s = Setup::new();
    forked(&s);
    let unmatched = s.end(s.streams[1]);
    s.end(s.streams[0]);
    text(unmatched)
}

fn capture_allocates() -> String {
    let (s, mut address) = (Setup::new(), 0);
    s.capture(THREAD);
    // SAFETY: writes one number.
    let allocated = unsafe { cuMemAlloc_v2(&mut address, 8) };
    s.end(s.streams[0]);
    text(allocated)
}

fn capture_other_thread() -> String {
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

fn replay() -> String {
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

fn record_in_graph() -> String {
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

fn tensor_maps() -> String {
    let s = Setup::new();
    let encode = |address: u64, rows: u32| {
        let (mut map, dims, strides) = (CUtensorMap { opaque: [0; 16] }, [16u64, 2], [32u64]);
        let (boxes, steps) = ([16u32, rows], [1u32, 1]);
        // SAFETY: the arrays have as many elements as the rank says; writes one map.
        unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_UINT16,
                2,
                address as usize as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_32B,
                CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
    };
    texts([encode(s.memory, 2), encode(s.memory + 8, 2), encode(s.memory, 257)])
}
