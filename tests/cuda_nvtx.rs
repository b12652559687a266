//! What a profiler is told: a library that NVTX would load writes it down. Ranges nest, each op has
//! one around its issue, streams have the plan's names; the executor runs on the mock driver.
#![cfg(all(feature = "cuda", feature = "nvtx"))]

mod emulation;
mod mock;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use libloading::Library;
use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{prepare, run_tensors};
use seqpar::plan::OpKind;
use seqpar::plan::lower::Gates;

use emulation::compile::compiler;
use mock::layers::{Way, kernels, layer, plans};
use mock::on_mock;
use mock::workload::context;
use support::Rng;
use support::cases::{Case, layer_inputs};
use support::worlds::worlds;

fn built() -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("liblistener-{}.so", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvtx/listener.c");
    let output = Command::new(compiler())
        .args(["-x", "c", "-std=c99", "-Wall", "-Werror", "-fPIC", "-shared", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

struct Listener(Library);

impl Listener {
    /// Loaded before the crate loads it: one library, one log.
    fn new() -> Self {
        let path = built();
        // SAFETY: the library of this test, without initialisers.
        let library = unsafe { Library::new(&path) }.unwrap();
        // SAFETY: no other thread of this process reads the environment now.
        unsafe { std::env::set_var("NVTX_INJECTION64_PATH", &path) };
        Self(library)
    }

    fn told(&self) -> Vec<String> {
        let mut text = vec![0u8; 1 << 20];
        // SAFETY: the type of the function; writes at most that many bytes.
        let bytes = unsafe {
            let f = self.0.get::<unsafe extern "C" fn(*mut u8, usize) -> usize>(b"listener_told\0").unwrap();
            f(text.as_mut_ptr(), text.len())
        };
        String::from_utf8_lossy(&text[..bytes]).lines().map(|line| line.trim_end().to_string()).collect()
    }
}

/// Texts of the ranges in the order in which they open, each with its depth; fails if they do not nest.
fn ranges(told: &[String]) -> Vec<(usize, String)> {
    let mut open = 0;
    let mut list = Vec::new();
    for line in told {
        match line.split_once(' ') {
            Some(("push", label)) => {
                list.push((open, label.to_string()));
                open += 1;
            }
            None if line == "pop" => open -= 1,
            _ => panic!("{line}"),
        }
    }
    assert_eq!(open, 0);
    list
}

#[test]
fn a_profiler_sees_runs_and_ops_by_their_labels() {
    on_mock(|mock| {
        let listener = Listener::new();
        let case = Case::plain(Dtype::Bf16, 16, 2, 64);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
        let world = worlds(2).into_iter().find(|world| world.strategy.name() == "fastseq").unwrap();
        for (i, graph) in [false, true].into_iter().enumerate() {
            mock.reset("eager", 1);
            mock.configure("sms=4 check=0");
            let context = context();
            let kernels = kernels(&context);
            let plans = plans(&case, &world, 2);
            let working = |kind: OpKind| !matches!(kind, OpKind::Mark);
            let labels: BTreeSet<String> = plans
                .iter()
                .flat_map(|plan| plan.op_ids().filter(|op| working(plan.op(*op).kind)).map(|op| plan.label(op).into()))
                .collect();
            let rows: Vec<String> = (0..2)
                .flat_map(|rank| plans[rank].streams.iter().map(move |name| format!("stream rank {rank} {name}")))
                .collect();
            let way = Way { capability: 90, gates: Gates::Events, graph };
            let prepared = prepare(context, kernels, plans, way.options()).unwrap();
            let told = listener.told();
            let told = if i == 0 {
                assert_eq!(told[..2], ["attached".to_string(), "domain seqpar".to_string()]);
                &told[2..]
            } else {
                &told[..]
            };
            assert_eq!(told, rows);
            run_tensors(&prepared, &inputs, 2).unwrap();
            let ranges = ranges(&listener.told());
            let runs: Vec<usize> = (0..ranges.len()).filter(|&i| ranges[i].1 == "seqpar run").collect();
            assert_eq!(runs.len(), 2);
            assert!(runs.iter().all(|&i| ranges[i].0 == 0));
            let within = |from: usize, to: usize| -> BTreeSet<String> {
                assert!(ranges[from..to].iter().all(|(depth, _)| *depth == 1));
                ranges[from..to].iter().map(|(_, label)| label.clone()).collect()
            };
            assert_eq!(within(runs[0] + 1, runs[1]), labels);
            // A graph is issued once: its second launch has no ops.
            let again = within(runs[1] + 1, ranges.len());
            assert_eq!(again, if graph { BTreeSet::new() } else { labels });
        }
    });
}

#[test]
fn without_a_profiler_nothing_is_loaded() {
    if std::env::var_os("NVTX_INJECTION64_PATH").is_none() {
        assert!(seqpar::cuda::nvtx::domain().is_none());
    }
}
