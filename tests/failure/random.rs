//! A16 and A17: random legal plans over several communicators on the executor, against a sequential
//! oracle (`explore.rs` runs them under adversarial schedules); the same plans with one rank's order
//! permuted, refused when they are checked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use seqpar::dtype::Dtype;
use seqpar::exec::host::{Faults, HostOptions, HostTensor, prepare, run_tensors};
use seqpar::plan::{
    Access, Builder, Checked, CommKind, Direction, OpId, OpKind, Placement, Plan, Role, View, check_world,
};
use seqpar::shard::IndexMap;

use super::plans::KINDS;

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

pub(super) type Row = [f32; COLS];

/// Rows by buffer and number.
pub(super) type Memory = HashMap<(u32, u32), Row>;

pub(super) fn place(access: &Access) -> (u32, u32) {
    (access.buffer.0, access.region.start[1])
}

pub(super) fn input(rank: usize) -> Row {
    std::array::from_fn(|col| (1 + rank * COLS + col) as f32)
}

/// A summed row: in group order, in f32.
pub(super) fn sum(parts: impl IntoIterator<Item = Row>) -> Row {
    let add = |a: Row, b: Row| std::array::from_fn(|i| a[i] + b[i]);
    parts.into_iter().reduce(add).unwrap()
}

/// Runs the plans one op after the other.
pub(super) fn oracle(plans: &[Plan]) -> Vec<Memory> {
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

pub(super) fn copy_row(plan: &Plan, op: OpId, memory: &mut Memory) {
    let [from, to] = plan.accesses(op) else { panic!("not a copy") };
    let row = *memory.get(&place(from)).expect("a row is read before it is written");
    memory.insert(place(to), row);
}

pub(super) fn legal(seed: u64) -> Vec<Checked<Plan>> {
    check_world(generate(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"))
}

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
