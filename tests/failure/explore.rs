//! A16: random legal plans on the board of the executor, under adversarial schedules.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use seqpar::plan::lower::{Command, Gates, Lowered};
use seqpar::plan::{Checked, Direction, OpId, OpKind, Plan};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

use super::random::{Memory, Row, copy_row, input, legal, oracle, place, sum};
use super::sound::board::{Board, Key};

/// A world under the schedule explorer: streams are its threads, the board is the executor's.
struct World {
    plans: Vec<Checked<Plan>>,
    lowered: Vec<Lowered>,
    expected: Vec<Memory>,
    traces: Mutex<Vec<Vec<(usize, u32)>>>,
}

type Rows = Board<Row, (), &'static str>;

impl World {
    fn run(self: &Arc<Self>) {
        let events: Vec<usize> = self.lowered.iter().map(|lowered| lowered.events as usize).collect();
        let board = Arc::new(Rows::new(&events));
        let trace: Arc<Mutex<Vec<(usize, u32)>>> = Arc::default();
        let memories: Vec<Arc<Mutex<Memory>>> =
            (0..self.plans.len()).map(|rank| Arc::new(Mutex::new(Memory::from([((0, 0), input(rank))])))).collect();
        let mut threads = Vec::new();
        for (rank, memory) in memories.iter().enumerate() {
            for stream in 0..self.lowered[rank].streams.len() {
                let (world, board, memory, trace) = (self.clone(), board.clone(), memory.clone(), trace.clone());
                threads.push(shuttle::thread::spawn(move || world.stream(rank, stream, &board, &memory, &trace)));
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for (rank, (memory, expected)) in memories.iter().zip(&self.expected).enumerate() {
            assert_eq!(*memory.lock().unwrap(), *expected, "rank {rank}");
        }
        self.traces.lock().unwrap().push(std::mem::take(&mut *trace.lock().unwrap()));
    }

    fn stream(
        &self,
        rank: usize,
        stream: usize,
        board: &Rows,
        memory: &Mutex<Memory>,
        trace: &Mutex<Vec<(usize, u32)>>,
    ) {
        for command in &self.lowered[rank].streams[stream] {
            match command {
                Command::Wait(event) => board.wait_event(rank, event.0 as usize, 1, None).unwrap(),
                Command::Record(event) | Command::Raise(event) => board.record(rank, event.0 as usize, 1),
                Command::Run(op) => {
                    match self.plans[rank].op(*op).kind {
                        OpKind::Comm(_) => self.exchange(rank, *op, board, memory),
                        _ => copy_row(&self.plans[rank], *op, &mut memory.lock().unwrap()),
                    }
                    trace.lock().unwrap().push((rank, op.0));
                }
            }
        }
    }

    /// As the executor's transport does: post, take, confirm, wait for receipts.
    fn exchange(&self, rank: usize, op: OpId, board: &Rows, memory: &Mutex<Memory>) {
        let plan = &self.plans[rank];
        let comm = plan.comm(op).unwrap();
        let mut counts: HashMap<(u32, u32), u32> = HashMap::new();
        let mut key = |from: u32, to: u32| {
            let count = counts.entry((from, to)).or_default();
            *count += 1;
            Key { epoch: 1, tag: comm.tag.0, from, to, index: *count - 1 }
        };
        let own = rank as u32;
        let (mut posted, mut wanted, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let mut mine = None;
        for (transfer, access) in comm.transfers.iter().zip(plan.accesses(op)) {
            match transfer.direction {
                Direction::Send => {
                    let row = *memory.lock().unwrap().get(&place(access)).expect("a row is read before it is written");
                    if transfer.peer == own {
                        mine = Some(row);
                        continue;
                    }
                    let key = key(own, transfer.peer);
                    posted.push(key);
                    board.post(key, row);
                }
                Direction::Recv if comm.kind.reduces() => slots.push(place(access)),
                Direction::Recv => {
                    wanted.push(key(transfer.peer, own));
                    slots.push(place(access));
                }
            }
        }
        let group = &plan.groups[comm.group as usize];
        if comm.kind.reduces() {
            wanted = group.iter().filter(|&&from| from != own).map(|&from| key(from, own)).collect();
        }
        let mut open: Vec<usize> = (0..wanted.len()).collect();
        let mut arrived: Vec<Option<Row>> = vec![None; wanted.len()];
        while !open.is_empty() {
            let keys: Vec<Key> = open.iter().map(|&i| wanted[i]).collect();
            let (at, row) = board.take_any(rank, &keys, None).unwrap();
            let which = open.remove(at);
            arrived[which] = Some(row);
            if !comm.kind.reduces() {
                memory.lock().unwrap().insert(slots[which], row);
            }
            board.confirm(wanted[which], ());
        }
        if comm.kind.reduces() {
            let mut rows = arrived.into_iter().flatten();
            let parts = group.iter().map(|&from| if from == own { mine.unwrap() } else { rows.next().unwrap() });
            let row = sum(parts.collect::<Vec<Row>>());
            memory.lock().unwrap().insert(slots[0], row);
        }
        posted.into_iter().for_each(|key| board.wait_receipt(key, None).unwrap());
    }
}

/// One random and one priority-driven schedule of each seed's plans; deadlock is a panic.
fn explore(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let plans = legal(seed);
        let lowered = plans.iter().map(|plan| plan.lowered(Gates::Flags)).collect();
        let expected = oracle(&plans.iter().map(|plan| (**plan).clone()).collect::<Vec<Plan>>());
        let world = Arc::new(World { plans, lowered, expected, traces: Mutex::default() });
        let run = |name: &str, runner: &dyn Fn(Arc<World>)| {
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runner(world.clone())));
            said.unwrap_or_else(|_| panic!("seed {seed}, {name} schedule"));
        };
        let random = |world: Arc<World>| {
            Runner::new(RandomScheduler::new_from_seed(seed, 1), Config::new()).run(move || world.run());
        };
        run("random", &random);
        run("priority", &|world| {
            Runner::new(PctScheduler::new_from_seed(seed, 3, 1), Config::new()).run(move || world.run());
        });
        // The same seed is the same schedule.
        if seed % 10 == 0 {
            run("repeated", &random);
            let traces = world.traces.lock().unwrap();
            assert_eq!(traces[0], traces[2], "seed {seed}");
            let total: usize = world.plans.iter().map(|plan| plan.ops.len()).sum();
            assert_eq!(traces[0].len(), total, "seed {seed}");
        }
    }
}

#[test]
fn random_legal_plans_end_with_the_oracles_rows_under_any_schedule() {
    explore(0..500);
}

/// The nightly count. `cargo test --features nccl --test failure -- --ignored ten_thousand`
#[test]
#[ignore = "minutes"]
fn ten_thousand_random_legal_plans() {
    explore(500..10_500);
}

#[test]
fn schedules_differ_from_seed_to_seed() {
    let plans = legal(7);
    let lowered = plans.iter().map(|plan| plan.lowered(Gates::Flags)).collect();
    let expected = oracle(&plans.iter().map(|plan| (**plan).clone()).collect::<Vec<Plan>>());
    let world = Arc::new(World { plans, lowered, expected, traces: Mutex::default() });
    let other = world.clone();
    Runner::new(RandomScheduler::new_from_seed(1, 8), Config::new()).run(move || other.run());
    let traces: HashSet<Vec<(usize, u32)>> = world.traces.lock().unwrap().iter().cloned().collect();
    assert!(traces.len() > 4, "{} of 8 schedules differ", traces.len());
}

#[test]
fn a_lost_wait_or_a_swapped_op_is_found_by_the_explorer() {
    let mut found = (0, 0);
    for seed in 0..40 {
        let plans = legal(seed);
        let lowered: Vec<Lowered> = plans.iter().map(|plan| plan.lowered(Gates::Flags)).collect();
        let expected = oracle(&plans.iter().map(|plan| (**plan).clone()).collect::<Vec<Plan>>());
        let mut broken = Vec::new();
        // Every wait of rank 0 dropped.
        let mut less = lowered.clone();
        less[0].streams.iter_mut().for_each(|stream| stream.retain(|c| !matches!(c, Command::Wait(_))));
        broken.push((less != lowered, less));
        // Two neighbouring ops of a stream of rank 0 swapped.
        let mut swapped = lowered.clone();
        for stream in &mut swapped[0].streams {
            let runs: Vec<usize> = (0..stream.len()).filter(|&i| matches!(stream[i], Command::Run(_))).collect();
            if let [first, .., last] = runs[..] {
                stream.swap(first, last);
            }
        }
        broken.push((swapped != lowered, swapped));
        for (which, (is_broken, lowered)) in broken.into_iter().enumerate() {
            let world =
                Arc::new(World { plans: plans.clone(), lowered, expected: expected.clone(), traces: Mutex::default() });
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                Runner::new(RandomScheduler::new_from_seed(seed, 10), Config::new()).run(move || world.run());
            }));
            assert!(is_broken || said.is_ok());
            *(if which == 0 { &mut found.0 } else { &mut found.1 }) += usize::from(said.is_err());
        }
    }
    assert!(found.0 > 10 && found.1 > 10, "{found:?} of 40 found: the explorer is blind");
}
