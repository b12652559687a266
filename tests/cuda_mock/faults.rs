//! Every call of the driver fails once: an error that names it, no panic, no hang, no leak.

use std::collections::BTreeSet;

use seqpar::cuda::{
    Context, DeviceMemory, Event, MemoryHandle, PinnedMemory, Priority, Stream, allocation_of, capture, wait_value,
    write_value,
};
use seqpar::dtype::Dtype;
use seqpar::error::{Error, Result};
use seqpar::exec::cuda::Kernels;
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};

use crate::mock::operands::{Operands, run};
use crate::mock::workload::Ring;
use crate::mock::{MODES, Mock, on_mock};
use crate::support::Rng;
use crate::support::tensors::{Values, random_operands};

const DEEPEST: usize = 3;

/// A bit of everything that the wrappers do.
fn everything(kernel: &Kernel, inputs: &[Values]) -> Result<()> {
    let context = Context::primary(0)?;
    Context::current()?;
    let _current = context.enter()?;
    // SAFETY: the mock does not read images.
    let kernels = unsafe { Kernels::load(&context, &[b"any image"])? };
    let stream = Stream::new(Priority::Low)?;
    let operands = Operands::new(kernel, inputs, &stream)?;
    run(&kernels, &operands.launches(kernel, &kernels)?, &stream)?;
    operands.read(operands.views.len() - 1, &stream)?;
    let ring = Ring::new(3, 32)?;
    let inside = Event::new(true)?;
    let graph = capture(&ring.compute, || ring.run(None).and_then(|()| inside.record_in_graph(&ring.compute)))?;
    // SAFETY: the ring outlives the work.
    unsafe { graph.launch(&ring.compute)? };
    let (flag, pinned, timed) = (DeviceMemory::new(4)?, PinnedMemory::new(4)?, [Event::new(true)?, Event::new(true)?]);
    let (base, _) = allocation_of(flag.address())?;
    MemoryHandle::of(base)?;
    timed[0].record(&stream)?;
    // SAFETY: both words outlive the work.
    unsafe {
        write_value(flag.address(), 1, &stream)?;
        wait_value(flag.address(), 1, &ring.compute)?;
        write_value(pinned.address(), 1, &stream)?;
    }
    timed[1].record(&stream)?;
    context.synchronize()?;
    timed[1].milliseconds_since(&timed[0])?;
    timed[1].is_done()?;
    stream.is_done()?;
    stream.is_captured()?;
    ring.result().map(drop)
}

/// `cuMemAlloc_v2` is called `cuMemAlloc` by everybody.
fn plain(name: &str) -> &str {
    name.split_once("_v").map_or(name, |(plain, _)| plain).trim_end_matches("WithFlags").trim_end_matches("Async")
}

fn fail(mock: &Mock, name: &str, nth: usize, work: &dyn Fn() -> Result<()>) {
    mock.reset("late", 1);
    mock.configure(&format!("fail={name}:{nth}=999"));
    let error = work().err();
    let gives_up = ["Destroy", "Free", "Unload", "Release", "Close"].iter().any(|word| name.contains(word));
    match error {
        // A drop has nowhere to report to but the log.
        None => assert!(gives_up, "{name} failed at call {nth}, and nothing was said"),
        Some(Error::Cuda { call, code: 999, .. }) => assert_eq!(plain(call), plain(name), "call {nth}"),
        Some(error) => panic!("{name}, call {nth}: {error}"),
    }
    let leaks = mock.leaks();
    assert!(leaks.is_empty(), "{name}, call {nth}: {leaks:?}");
    mock.assert_clean(&format!("{name}, call {nth}"));
}

#[test]
fn every_call_fails_once() {
    on_mock(|mock| {
        let kernel = Kernel::Gemm(Gemm::linear(Dtype::Bf16, 1, 8, 16, 16, false, Epilogue::None));
        let inputs = random_operands(&kernel, &mut Rng(1));
        let work = || everything(&kernel, &inputs);
        mock.reset("late", 1);
        work().unwrap();
        mock.assert_clean("without a fault");
        assert_eq!(mock.leaks(), Vec::<String>::new());
        let calls = mock.calls();
        // The process has one driver: what loads it is done.
        let once = BTreeSet::from(["cuInit", "cuDriverGetVersion"]);
        let mut failed = 0;
        for (name, count) in calls.iter().filter(|(name, _)| !name.starts_with("run.") && !once.contains(&name[..])) {
            for nth in 1..=(*count).min(DEEPEST) {
                fail(mock, name, nth, &work);
                failed += 1;
            }
        }
        assert!(failed > 60, "only {failed} faults");
    });
}

/// Work that dies on the device: the wait for it says so, and everything after it, until nothing
/// is left of the context.
#[test]
fn an_operation_that_dies_ends_the_context() {
    on_mock(|mock| {
        for mode in MODES {
            let context = Context::primary(0).unwrap();
            mock.reset(mode, 1);
            let ring = Ring::new(4, 32).unwrap();
            mock.configure("fail=run.copy_DtoD:3=719");
            let error = ring.run(None).and_then(|()| ring.result().map(drop)).unwrap_err();
            assert!(matches!(error, Error::Cuda { code: 719, .. }), "{mode}: {error}");
            assert!(matches!(Event::new(false), Err(Error::Cuda { call: "cuEventCreate", code: 719, .. })), "{mode}");
            drop((ring, context));
            assert_eq!(mock.leaks(), Vec::<String>::new(), "{mode}");
            Context::primary(0).unwrap().synchronize().unwrap();
        }
    });
}
