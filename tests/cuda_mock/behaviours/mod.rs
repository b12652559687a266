//! What the mock assumes of a driver, as a table: a small program and its outcome. The same table
//! runs on a real driver where `SEQPAR_REAL_DRIVER` is set (a GPU is needed); what differs there
//! is printed, and the mock is to be changed. The only code that is loaded is PTX of an empty kernel,
//! so nothing needs to be compiled. With `--nocapture` the table is printed with the functions that
//! each row is about; every function that the crate calls is in one.

mod capture;
mod code;
mod context;
mod memory;
mod streams;

use std::collections::BTreeSet;
use std::ptr::null_mut;

use cudarc::driver::sys::*;

use crate::mock::{Mock, on_mock};

type Program = fn() -> String;

const TABLE: &[(&str, Program, &str)] = &[
    ("initialisation with a flag", context::init_with_flag, "INVALID_VALUE"),
    ("a device that does not exist", context::no_device, "INVALID_DEVICE"),
    ("a call without a context", context::no_context, "INVALID_CONTEXT"),
    ("the device: a name, an identity, memory, capability, SMs", context::device, "all"),
    ("the driver: 12.1 or newer, the name of an error", context::driver, "new CUDA_ERROR_INVALID_VALUE"),
    ("a context retained twice: one, current, of its device", context::retained_twice, "one current 0"),
    ("work of the whole context, at its synchronisation", context::synchronised, "7 7"),
    ("an allocation of nothing", memory::allocate_nothing, "INVALID_VALUE"),
    ("alignment of allocations", memory::alignment, "256"),
    ("freeing null, and freeing twice", memory::free_twice, "SUCCESS SUCCESS INVALID_VALUE"),
    ("flags that do not exist", streams::bad_flags, "INVALID_VALUE INVALID_VALUE"),
    ("priorities outside the range", streams::priorities, "clamped"),
    ("an event never recorded: wait, query", streams::unrecorded, "SUCCESS SUCCESS"),
    ("elapsed time: untimed, unrecorded", streams::no_time, "INVALID_HANDLE INVALID_HANDLE"),
    ("behind a shut flag: stream, event, time", streams::pending, "NOT_READY NOT_READY NOT_READY"),
    ("a wait is for the record made before it", streams::wait_is_for_the_past, "SUCCESS"),
    ("work of a destroyed stream", streams::destroyed_stream, "SUCCESS 7"),
    ("a pageable source changed after the call", memory::pageable_source, "1"),
    ("a pinned source changed before the copy runs", memory::pinned_source, "2"),
    ("a copy to pageable memory, at the return", memory::pageable_target, "1"),
    (
        "a handle of the middle of an allocation, of its own process",
        memory::own_handle,
        "INVALID_VALUE INVALID_CONTEXT",
    ),
    ("an allocation by an address in it, by one beside it", memory::ranges, "10 SUCCESS NOT_FOUND"),
    ("bytes filled, a part copied within the device", memory::fills_and_copies, "a5a5a5a5 a5a50000"),
    ("pinned memory has one address for both sides", memory::pinned_from_the_device, "5"),
    ("freeing what work under way uses: device, pinned", memory::freed_while_used, "SUCCESS SUCCESS done"),
    ("a mapped handle closed that was never opened", memory::closed_unopened, "INVALID_VALUE"),
    ("access to itself as a peer, to the own context", memory::own_peer, "0 INVALID_CONTEXT"),
    ("a flag at an odd address", streams::odd_flag, "INVALID_VALUE"),
    (
        "a flag: below the value, at it, beyond it, half the numbers beyond it",
        streams::flag_values,
        "shut open open shut",
    ),
    ("a flag is raised behind what stands before it", streams::flag_after_data, "7"),
    ("an event destroyed while a stream waits for it", streams::destroyed_event, "SUCCESS 7"),
    ("an event recorded again: the time of the last", streams::recorded_again, "SUCCESS later"),
    ("a stream of its own beside a shut default stream", streams::beside_the_default, "SUCCESS"),
    ("capture: of the default stream", capture::default, "STREAM_CAPTURE_UNSUPPORTED"),
    ("capture: synchronise, then end", capture::sync, "STREAM_CAPTURE_UNSUPPORTED STREAM_CAPTURE_INVALIDATED"),
    ("capture: asked for before, within, after its end", capture::asked, "NONE ACTIVE NONE"),
    ("capture: an event from outside", capture::outside, "STREAM_CAPTURE_ISOLATION STREAM_CAPTURE_INVALIDATED"),
    ("capture: query of an event inside", capture::query, "CAPTURED_EVENT"),
    ("capture: a stream that does not come back", capture::unjoined, "STREAM_CAPTURE_UNJOINED"),
    ("capture: the end on another stream", capture::unmatched, "STREAM_CAPTURE_UNMATCHED"),
    ("capture: allocation by this thread", capture::allocates, "STREAM_CAPTURE_UNSUPPORTED"),
    ("capture of a thread: allocation by another", capture::other_thread, "SUCCESS"),
    ("a captured fill, replayed twice", capture::replay, "0 then 5 5"),
    ("a record for the outside: eager, captured, time", capture::record_in_graph, "INVALID_VALUE SUCCESS SUCCESS"),
    ("capture: time of an event that was an edge", capture::time_of_an_edge, "INVALID_HANDLE"),
    ("capture: streams after its end", capture::streams_afterwards, "SUCCESS SUCCESS"),
    ("capture: a flag raised on one stream, waited for on another", capture::flags, "5 5"),
    ("a graph destroyed after it was instantiated, an instance in flight", capture::destroyed, "SUCCESS SUCCESS 5"),
    ("tensor maps: good, odd address, wide box", code::tensor_maps, "SUCCESS INVALID_VALUE INVALID_VALUE"),
    ("a kernel that the module has not", code::no_kernel, "NOT_FOUND"),
    (
        "shared memory: what a device has not, what was not allowed, what was",
        code::shared_memory,
        "INVALID_VALUE INVALID_VALUE SUCCESS SUCCESS",
    ),
    ("a launch without blocks, with too many threads", code::sizes, "INVALID_VALUE INVALID_VALUE"),
    ("a dependent launch behind another", code::dependent, "SUCCESS SUCCESS"),
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

/// Names of the functions that were called since the last reset.
fn called(mock: &Mock) -> BTreeSet<String> {
    mock.calls().into_iter().map(|(name, _)| name).filter(|name| !name.starts_with("run.")).collect()
}

#[test]
fn every_function_that_the_crate_calls_is_in_the_table() {
    on_mock(|mock| {
        mock.reset("eager", 1);
        let of_all = std::thread::spawn(|| {
            Setup::new();
        })
        .join()
        .map(|()| called(mock))
        .unwrap();
        let mut called_by_rows = BTreeSet::new();
        for (name, program, outcome) in TABLE {
            mock.reset("eager", 1);
            std::thread::spawn(program).join().unwrap();
            let own = called(mock);
            let about: Vec<&str> = own.difference(&of_all).map(String::as_str).collect();
            println!("{name:<72} | {outcome:<56} | {}", about.join(" "));
            called_by_rows.extend(own);
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
        let mut missing = BTreeSet::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for at in text.match_indices("sys::cu").map(|(at, _)| at + 5) {
                let name: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !called_by_rows.contains(&name) {
                    missing.insert(name);
                }
            }
        }
        // Texts are not counted as calls; the row of the driver asks for them.
        missing.retain(|name| !name.starts_with("cuGetError"));
        assert!(missing.is_empty(), "no row is about {missing:?}");
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
