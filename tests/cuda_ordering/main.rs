//! Each wait, record, gate and flag of the lowered form left out or moved, through the CUDA executor
//! on the mock driver: the mock reports a race, or an independent proof over happens-before
//! ([`order`]) shows that the copies of this transport order everything anyway. The two must agree
//! on each. No plan may hold a wait or gate that is needless without help of a transport: lowering
//! is safe and minimal.
#![cfg(feature = "cuda")]

mod change;
#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../mock/mod.rs"]
mod mock;
mod order;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{prepare_lowered, run_tensors};
use seqpar::plan::Plan;
use seqpar::plan::lower::{Gates, Lowered};
use seqpar::plan::memory::Memory;

use change::Change;
use mock::layers::{Way, kernels, layer, plans};
use mock::workload::context;
use mock::{MODES, Mock, on_mock};
use order::{Between, World};
use support::cases::{Case, layer_inputs};
use support::worlds::{self, worlds};
use support::{Rng, Tensors};

/// A world to be changed.
struct Subject {
    case: Case,
    world: worlds::World,
    ranks: usize,
    way: Way,
    inputs: Tensors,
    plans: Vec<Plan>,
    memory: Vec<Memory>,
    lowered: Vec<Lowered>,
}

impl Subject {
    fn new(world: worlds::World, ranks: usize, way: Way) -> Self {
        let case = Case { text: 4, ..Case::plain(Dtype::Bf16, 14, 4, 64) };
        let checked = plans(&case, &world, ranks);
        Self {
            inputs: layer_inputs(&case, &layer(&case, 1), &mut Rng(9)),
            case,
            world,
            ranks,
            way,
            memory: checked.iter().map(|plan| plan.memory().clone()).collect(),
            lowered: checked.iter().map(|plan| plan.lowered(way.gates)).collect(),
            plans: checked.into_iter().map(Plan::from).collect(),
        }
    }

    fn changed(&self, rank: usize, change: Change) -> Vec<Lowered> {
        let mut lowered = self.lowered.clone();
        change.apply(&mut lowered[rank]);
        lowered
    }

    /// What was found of a changed form, which may wait for ever: reports and errors.
    fn run(&self, mock: &Mock, lowered: &[Lowered], mode: &str, seed: u64, waits: bool) -> Vec<String> {
        mock.reset(mode, seed);
        let (deadlock_s, deadline_s) = if waits { (0.05, 0.1) } else { (60.0, 60.0) };
        mock.configure(&format!("check=0 deadlock_s={deadlock_s} capability={}", self.way.capability));
        let context = context();
        let kernels = kernels(&context);
        let mut options = self.way.options();
        options.deadline = Duration::from_secs_f64(deadline_s);
        let checked = plans(&self.case, &self.world, self.ranks);
        let result = prepare_lowered(context, kernels, checked, lowered.to_vec(), options)
            .and_then(|prepared| run_tensors(&prepared, &self.inputs, 1).map(drop));
        let mut found = mock.reports();
        found.extend(result.err().map(|error| error.to_string()));
        found
    }
}

#[test]
fn what_is_left_out_is_reported_or_proven_needless() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for (ranks, world) in [2, 3].into_iter().flat_map(|ranks| worlds(ranks).into_iter().map(move |w| (ranks, w))) {
            for gates in [Gates::Events, Gates::Flags] {
                let plain = Subject::new(world, ranks, Way { capability: 90, gates, graph: false });
                if gates == Gates::Flags && plain.lowered.iter().all(|lowered| lowered.gates.is_empty()) {
                    continue;
                }
                let unknown = World::new(&plain.plans, &plain.memory, Between::Nothing);
                for rank in 0..ranks {
                    for change in Change::all(&plain.lowered[rank]) {
                        if !change.blocks() {
                            let broken = unknown.unordered(&plain.changed(rank, change)).is_some();
                            assert!(broken, "{}, rank {rank}: {change:?} is needless", world.name());
                        }
                    }
                }
                assert_eq!(unknown.unordered(&plain.lowered), None, "{}", world.name());
                for way in ways(gates) {
                    let subject = Subject::new(world, ranks, way);
                    let inside = gates == Gates::Flags && way.capability == 90;
                    let known = World::new(&subject.plans, &subject.memory, Between::Loopback { inside });
                    assert_eq!(known.unordered(&subject.lowered), None, "{}", world.name());
                    for rank in 0..ranks {
                        for change in Change::all(&subject.lowered[rank]) {
                            let what = format!("{} of {ranks}, {way:?}, rank {rank}, {change:?}", world.name());
                            let count = counts.entry(change.kind()).or_default();
                            count[usize::from(!judge(mock, &subject, &known, rank, change, &what))] += 1;
                        }
                    }
                }
            }
        }
        for (kind, [found, needless]) in &counts {
            println!("{kind}: {found} found, {needless} proven needless beside the copies of this transport");
        }
        let found: usize = counts.values().map(|count| count[0]).sum();
        assert!(found > 100, "{found}");
    });
}

fn ways(gates: Gates) -> Vec<Way> {
    let of = |capability, graph| Way { capability, gates, graph };
    match gates {
        Gates::Events => vec![of(90, false), of(90, true)],
        Gates::Flags => vec![of(90, false), of(90, true), of(80, false), of(80, true)],
    }
}

/// True if it was found; fails if what was found is not what the proof says.
fn judge(mock: &Mock, subject: &Subject, known: &World<'_>, rank: usize, change: Change, what: &str) -> bool {
    let lowered = subject.changed(rank, change);
    if change.blocks() {
        let found = subject.run(mock, &lowered, "late", 3, true);
        assert!(!found.is_empty(), "{what}: nobody says that it waits for ever");
        return true;
    }
    let unordered = known.unordered(&lowered);
    let mut schedules = MODES.into_iter().flat_map(|mode| (0..3).map(move |seed| (mode, seed)));
    if unordered.is_none() {
        let (mode, seed) = schedules.next().unwrap_or(("late", 0));
        let found = subject.run(mock, &lowered, mode, seed, false);
        assert!(found.is_empty(), "{what}: all is ordered, and yet\n{}", found.join("\n"));
        return false;
    }
    let found = schedules.any(|(mode, seed)| {
        let found = subject.run(mock, &lowered, mode, seed, false);
        found.iter().any(|report| report.starts_with("RACE") || report.contains("UNINITIALISED"))
    });
    assert!(found, "{what}: {} are not ordered, and nothing was reported", unordered.unwrap_or_default());
    true
}
