//! A16 and A17: random legal plans over several communicators, on the board under adversarial
//! schedules and on the executor itself, against a sequential oracle; the same plans with one
//! rank's order permuted, refused when they are checked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seqpar::dtype::Dtype;
use seqpar::exec::host::{Faults, HostOptions, HostTensor, prepare, run_tensors};
use seqpar::plan::lower::{Command, Gates, Lowered};
use seqpar::plan::{
    Access, Builder, Checked, CommKind, Direction, OpId, OpKind, Placement, Plan, Role, View, check_world,
};
use seqpar::shard::IndexMap;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

use super::plans::KINDS;
use super::sound::board::{Board, Key};

const COLS: usize = 2;

/// A small generator of numbers, the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// One rank's plan in the making, and the rows that it has written.
struct Rank {
    builder: Builder,
    rows: Vec<View>,
    temps: Vec<View>,
}

/// Legal plans of 2 to 16 ranks with three communicators; the streams of an op differ by rank.
fn generate(seed: u64) -> Vec<Plan> {
    let mut random = Random(seed ^ 0x9e37_79b9);
    let world = 2 + random.below(15);
    let everyone: Vec<usize> = (0..world).collect();
    let mut groups = vec![everyone.clone()];
    for _ in 0..2 {
        let mut group = everyone.clone();
        let size = 2 + random.below(world - 1);
        while group.len() > size {
            group.remove(random.below(group.len()));
        }
        groups.push(group);
    }
    let mut ranks: Vec<Rank> = everyone
        .iter()
        .map(|&rank| {
            let mut builder = Builder::new(rank, world);
            for stream in 0..3 {
                builder.stream(&format!("s{stream}"));
            }
            let index = [None, Some(IndexMap::contiguous(rank..rank + 1)), None, None];
            let place = Placement { tensor: "x".into(), dims: [1, world, 1, COLS], index };
            let x = builder.buffer("x", Role::Input, Dtype::F32, [1, 1, 1, COLS], Some(place));
            Rank { builder, rows: vec![x], temps: Vec::new() }
        })
        .collect();
    for op in 0..4 + random.below(8) {
        let group = random.pick(&groups);
        communicate(&mut ranks, &group, random.pick(&KINDS), op, &mut random);
        for rank in &mut ranks {
            copy(rank, op, &mut random);
        }
    }
    ranks.into_iter().map(|rank| rank.builder.finish()).collect()
}

fn communicate(ranks: &mut [Rank], group: &[usize], kind: CommKind, op: usize, random: &mut Random) {
    let root = random.pick(group);
    let distances: Vec<usize> = (0..1 + random.below(3)).map(|_| 1 + random.below(group.len() - 1)).collect();
    for (place, &rank) in group.iter().enumerate() {
        let own = &mut ranks[rank];
        let others = || group.iter().copied().filter(|&other| other != rank);
        let (to, from): (Vec<usize>, Vec<usize>) = match kind {
            CommKind::AllGather | CommKind::AllToAll => (others().collect(), others().collect()),
            CommKind::ReduceScatter | CommKind::AllReduce => (group.to_vec(), vec![rank]),
            CommKind::Broadcast if rank == root => (others().collect(), Vec::new()),
            CommKind::Broadcast => (Vec::new(), vec![root]),
            CommKind::SendRecv => {
                let at = |step: usize| group[(place + step) % group.len()];
                let to = distances.iter().map(|&d| at(d)).collect();
                (to, distances.iter().map(|&d| at(group.len() - d)).collect())
            }
        };
        let one = random.pick(&own.rows);
        let is_alike = matches!(kind, CommKind::AllGather | CommKind::AllReduce | CommKind::Broadcast);
        let mut transfers: Vec<(Direction, usize, View)> = Vec::new();
        for peer in to {
            transfers.push((Direction::Send, peer, if is_alike { one } else { random.pick(&own.rows) }));
        }
        if !from.is_empty() {
            let dims = [1, from.len(), 1, COLS];
            let place = Placement { tensor: format!("op{op} rank{rank}"), dims, index: [const { None }; 4] };
            let inbox = own.builder.buffer(format!("in{op}"), Role::Output, Dtype::F32, dims, Some(place));
            for (i, peer) in from.into_iter().enumerate() {
                transfers.push((Direction::Recv, peer, inbox.rows(i..i + 1)));
                own.rows.push(inbox.rows(i..i + 1));
            }
        }
        let stream = own.builder.stream(&format!("s{}", random.below(3)));
        let tag = seqpar::plan::Tag(op as u32);
        own.builder.comm(stream, format!("op {op}"), kind, tag, group, Dtype::F32, &transfers);
    }
}

/// Now and then a row goes to a temporary, a new one or one that others may still read.
fn copy(rank: &mut Rank, op: usize, random: &mut Random) {
    if random.below(3) > 0 {
        return;
    }
    let from = random.pick(&rank.rows);
    let to = match rank.temps.is_empty() || random.below(2) == 0 {
        true => rank.builder.temp(format!("t{op}"), Dtype::F32, [1, 1, 1, COLS]),
        false => random.pick(&rank.temps),
    };
    if (from.buffer, from.region) == (to.buffer, to.region) {
        return;
    }
    let stream = rank.builder.stream(&format!("s{}", random.below(3)));
    rank.builder.copy(stream, format!("copy {op}"), from, to);
    if !rank.temps.contains(&to) {
        rank.temps.push(to);
        rank.rows.push(to);
    }
}

type Row = [f32; COLS];

/// Rows by buffer and number.
type Memory = HashMap<(u32, u32), Row>;

fn place(access: &Access) -> (u32, u32) {
    (access.buffer.0, access.region.start[1])
}

fn input(rank: usize) -> Row {
    std::array::from_fn(|col| (1 + rank * COLS + col) as f32)
}

/// A summed row: in group order, in f32.
fn sum(parts: impl IntoIterator<Item = Row>) -> Row {
    let add = |a: Row, b: Row| std::array::from_fn(|i| a[i] + b[i]);
    parts.into_iter().reduce(add).unwrap()
}

/// Runs the plans one op after the other.
fn oracle(plans: &[Plan]) -> Vec<Memory> {
    let mut memories: Vec<Memory> = (0..plans.len()).map(|rank| Memory::from([((0, 0), input(rank))])).collect();
    let mut next = vec![0; plans.len()];
    let tags: HashSet<u32> = plans.iter().flat_map(|plan| plan.comms.iter().map(|comm| comm.tag.0)).collect();
    for tag in 0..=tags.into_iter().max().unwrap() {
        // What is sent, before anything of the op arrives.
        let mut sent: HashMap<(u32, u32), Vec<Row>> = HashMap::new();
        let mut here = Vec::new();
        for (rank, plan) in plans.iter().enumerate() {
            while let Some(op) = plan.op_ids().nth(next[rank]) {
                match plan.comm(op) {
                    Some(comm) if comm.tag.0 != tag => break,
                    Some(comm) => {
                        for (transfer, access) in comm.transfers.iter().zip(plan.accesses(op)) {
                            if transfer.direction == Direction::Send {
                                let pair = (rank as u32, transfer.peer);
                                sent.entry(pair).or_default().push(memories[rank][&place(access)]);
                            }
                        }
                        here.push((rank, op));
                        next[rank] += 1;
                        break;
                    }
                    None => copy_row(plan, op, &mut memories[rank]),
                }
                next[rank] += 1;
            }
        }
        for (rank, op) in here {
            let plan = &plans[rank];
            let comm = plan.comm(op).unwrap();
            for (transfer, access) in comm.transfers.iter().zip(plan.accesses(op)) {
                if transfer.direction == Direction::Recv {
                    let row = match comm.kind.reduces() {
                        true => sum(plan.groups[comm.group as usize].iter().map(|&r| sent[&(r, rank as u32)][0])),
                        false => sent.get_mut(&(transfer.peer, rank as u32)).unwrap().remove(0),
                    };
                    memories[rank].insert(place(access), row);
                }
            }
        }
    }
    for (rank, plan) in plans.iter().enumerate() {
        plan.op_ids().skip(next[rank]).for_each(|op| copy_row(plan, op, &mut memories[rank]));
    }
    memories
}

fn copy_row(plan: &Plan, op: OpId, memory: &mut Memory) {
    let [from, to] = plan.accesses(op) else { panic!("not a copy") };
    let row = *memory.get(&place(from)).expect("a row is read before it is written");
    memory.insert(place(to), row);
}

// ---- on the board ----

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

fn legal(seed: u64) -> Vec<Checked<Plan>> {
    check_world(generate(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"))
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

// ---- on the executor ----

#[test]
fn random_legal_plans_give_the_oracles_rows_on_the_executor() {
    for seed in 0..60 {
        let plans = legal(seed);
        let expected = oracle(&plans.iter().map(|plan| (**plan).clone()).collect::<Vec<Plan>>());
        let world = plans.len();
        let faults = Faults { jitter_s: if seed % 2 == 0 { 0.0 } else { 0.002 }, seed, ..Faults::default() };
        let options = HostOptions {
            deadline: Duration::from_secs(20),
            check_leases: true,
            poison: true,
            faults,
            ..HostOptions::default()
        };
        let names: Vec<Plan> = plans.iter().map(|plan| (**plan).clone()).collect();
        let mut prepared = prepare(plans, options).unwrap();
        let values: Vec<f32> = (0..world).flat_map(input).collect();
        let x = HostTensor::from_f32(Dtype::F32, [1, world, 1, COLS], &values).unwrap();
        let (out, _) = run_tensors(&mut prepared, &BTreeMap::from([("x".to_string(), x)])).unwrap();
        for (plan, memory) in names.iter().zip(&expected) {
            for (id, buffer) in plan.buffers.iter().enumerate().filter(|(_, buffer)| buffer.role == Role::Output) {
                let got = out[&buffer.placement.as_ref().unwrap().tensor].to_f32();
                let rows = (0..buffer.dims[1] as u32).flat_map(|row| memory[&(id as u32, row)]);
                assert_eq!(got, rows.collect::<Vec<f32>>(), "seed {seed}, {} of rank {}", buffer.name, plan.rank);
            }
        }
    }
}

#[test]
fn one_ranks_order_permuted_is_refused_within_a_millisecond_a_plan() {
    let (mut refused, mut plans_checked, mut time) = (0, 0, Duration::ZERO);
    for seed in 0..500 {
        let mut plans = generate(seed);
        let mut random = Random(seed);
        // Two ops of one rank that share another rank as well.
        let rank = random.below(plans.len());
        let plan = &plans[rank];
        let comms: Vec<usize> =
            (0..plan.ops.len()).filter(|&op| matches!(plan.ops[op].kind, OpKind::Comm(_))).collect();
        let group = |op: usize| &plan.groups[plan.comm(OpId(op as u32)).unwrap().group as usize];
        let share = |a: usize, b: usize| group(a).iter().filter(|member| group(b).contains(member)).count() > 1;
        let pairs: Vec<(usize, usize)> = comms
            .iter()
            .flat_map(|&a| comms.iter().filter(move |&&b| b > a).map(move |&b| (a, b)))
            .filter(|&(a, b)| share(a, b))
            .collect();
        if pairs.is_empty() {
            continue;
        }
        let (a, b) = random.pick(&pairs);
        plans[rank].ops.swap(a, b);
        plans_checked += plans.len();
        let begin = Instant::now();
        let said = check_world(plans);
        time += begin.elapsed();
        let error = said.err().unwrap_or_else(|| panic!("seed {seed}: rank {rank} swapped ops {a} and {b} unnoticed"));
        assert!(matches!(error, seqpar::Error::Law { .. }), "seed {seed}: {error}");
        refused += 1;
    }
    assert!(refused > 400, "only {refused} plans could be permuted");
    let each = time / plans_checked as u32;
    println!("{refused} worlds refused, {each:?} a plan");
    assert!(each < Duration::from_millis(1), "{each:?} a plan");
}
