//! Every call of the driver that the executor makes, each time it makes it, fails once, on the mock driver: while a world is
//! prepared, bound, captured, run, waited for and dropped. An error that names the call, and the op
//! where one is concerned; no panic, no hang, no leak, nothing reported; a world prepared afterwards
//! gives the right bits.
#![cfg(feature = "cuda")]

mod emulation;
mod mock;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use seqpar::dtype::Dtype;
use seqpar::error::{Error, Result};
use seqpar::exec::cuda::{Kernels, prepare, run_tensors};

use mock::layers::{Way, layer, plans};
use mock::{Mock, on_mock};
use seqpar::cuda::Context;
use seqpar::plan::lower::Gates;
use support::cases::{Case, layer_inputs};
use support::worlds::{World, worlds};
use support::{Rng, Tensors, assert_same_bits};

/// Longest time that a failed run may take: a hang would be the deadline of a run, a minute.
const SOON: Duration = Duration::from_secs(20);

struct Subject {
    case: Case,
    world: World,
    way: Way,
    inputs: Tensors,
}

impl Subject {
    fn new(strategy: &str, way: Way) -> Self {
        let case = Case::plain(Dtype::Bf16, 10, 2, 64);
        let world = worlds(2).into_iter().find(|world| world.strategy.name() == strategy).unwrap();
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(9));
        Self { case, world, way, inputs }
    }

    fn reset(&self, mock: &Mock, mode: &str) {
        mock.reset(mode, 2);
        mock.configure(&format!("sms=4 check=0 capability={}", self.way.capability));
    }

    /// Everything that an embedding framework does.
    fn run(&self) -> Result<Tensors> {
        let context = Context::primary(0)?;
        // SAFETY: the mock does not read images.
        let kernels = unsafe { Kernels::load(&context, &[b"any image"]) }?;
        let mut options = self.way.options();
        options.timed = true;
        let prepared = prepare(context, kernels, plans(&self.case, &self.world, 2), options)?;
        Ok(run_tensors(&prepared, &self.inputs, 1 + usize::from(self.way.graph))?.0)
    }
}

fn subjects() -> Vec<Subject> {
    let of = |capability, gates, graph| Way { capability, gates, graph };
    vec![
        Subject::new("fastseq", of(90, Gates::Flags, false)),
        Subject::new("fastseq", of(80, Gates::Flags, true)),
        Subject::new("fastseq", of(80, Gates::Flags, false)),
        Subject::new("megatron", of(90, Gates::Events, true)),
        Subject::new("megatron", of(80, Gates::Events, false)),
    ]
}

/// `cuMemAlloc_v2` is called `cuMemAlloc` by everybody.
fn plain(name: &str) -> &str {
    name.split_once("_v").map_or(name, |(plain, _)| plain).trim_end_matches("WithFlags").trim_end_matches("Async")
}

/// Calls that a run makes for an op.
const OF_AN_OP: [&str; 7] = [
    "cuLaunchKernelEx",
    "cuMemcpyDtoDAsync",
    "cuStreamWriteValue32",
    "cuStreamWaitValue32",
    "cuTensorMapEncodeTiled",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
];

fn fail(mock: &Mock, subject: &Subject, name: &str, nth: usize, want: &Tensors) {
    let what = format!("{} {:?}: {name}, call {nth}", subject.world.name(), subject.way);
    subject.reset(mock, "late");
    mock.configure(&format!("fail={name}:{nth}=999"));
    let begin = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| subject.run()));
    let result = result.unwrap_or_else(|_| panic!("{what}: a panic"));
    assert!(begin.elapsed() < SOON, "{what}: {:?}", begin.elapsed());
    let gives_up = ["Destroy", "Free", "Unload", "Release"].iter().any(|word| name.contains(word));
    match result.err() {
        // A drop has nowhere to report to but the log. Whether a run has ended is asked first, and again if
        // another question than that was answered so.
        None => assert!(gives_up || name == "cuEventQuery" && nth > 1, "{what}: nothing was said"),
        Some(Error::Cuda { call, code: 999, .. }) => {
            assert_eq!(plain(call), plain(name), "{what}");
            assert!(!OF_AN_OP.iter().any(|of| plain(name) == plain(of)), "{what}: the error names no op");
        }
        Some(Error::Rank { op, why, .. }) => {
            assert!(!op.is_empty() && why.contains(plain(name)) && why.contains("999"), "{what}: {why}");
        }
        Some(error) => panic!("{what}: {error}"),
    }
    // What a failed run left half enqueued passes its gates without what they stood for.
    let worthless = |report: &String| subject.way.gates == Gates::Flags && report.starts_with("RACE");
    let reports: Vec<String> = mock.reports().into_iter().filter(|report| !worthless(report)).collect();
    assert!(reports.is_empty(), "{what}:\n{}", reports.join("\n"));
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
    let seen = mock.reports();
    let again = subject.run().unwrap_or_else(|e| panic!("{what}, and then: {e}"));
    assert_same_bits(&what, &again, want);
    assert_eq!(mock.reports(), seen, "{what}, and then");
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}, and then");
}

#[test]
fn every_call_of_the_executor_fails_once() {
    on_mock(|mock| {
        // The process has one driver: what loads it is done.
        let once = BTreeSet::from(["cuInit", "cuDriverGetVersion"]);
        let mut failed: BTreeMap<String, usize> = BTreeMap::new();
        for subject in subjects() {
            subject.reset(mock, "late");
            let want = subject.run().unwrap();
            mock.assert_clean("without a fault");
            assert_eq!(mock.leaks(), Vec::<String>::new());
            let calls = mock.calls();
            for (name, count) in calls.iter().filter(|(name, _)| !name.starts_with("run.") && !once.contains(&name[..]))
            {
                for nth in 1..=*count {
                    fail(mock, &subject, name, nth, &want);
                    *failed.entry(name.clone()).or_default() += 1;
                }
            }
        }
        let total: usize = failed.values().sum();
        println!("{total} faults of {} functions: {failed:?}", failed.len());
        assert!(failed.len() > 30 && total > 150, "{total} faults of {} functions", failed.len());
    });
}

/// Work that dies on the device: an error from the run, and a context that is no use any more until
/// it is given back.
#[test]
fn an_op_that_dies_ends_the_run() {
    on_mock(|mock| {
        for subject in subjects() {
            subject.reset(mock, "late");
            let want = subject.run().unwrap();
            let ran = mock.calls();
            let labels = ran.iter().filter_map(|(name, count)| Some((name.strip_prefix("run.")?, *count)));
            for (label, count) in labels.filter(|(label, _)| !label.contains("HtoD") && !label.contains("DtoH")) {
                let what = format!("{} {:?}: {label}", subject.world.name(), subject.way);
                subject.reset(mock, "random");
                mock.configure(&format!("fail=run.{label}:{}=719", count.div_ceil(2)));
                let error =
                    catch_unwind(AssertUnwindSafe(|| subject.run())).unwrap_or_else(|_| panic!("{what}: a panic"));
                let error = error.err().unwrap_or_else(|| panic!("{what}: nothing was said"));
                assert!(error.to_string().contains("719"), "{what}: {error}");
                assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
                subject.reset(mock, "late");
                let again = subject.run().unwrap_or_else(|e| panic!("{what}, and then: {e}"));
                assert_same_bits(&what, &again, &want);
            }
        }
    });
}
