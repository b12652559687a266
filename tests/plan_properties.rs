//! Random op graphs: derived order against a naive closure, lowered forms that lose nothing and
//! hold nothing needless, memory plans that hold, and executions in random order.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use seqpar::dtype::Dtype::F32;
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel, Mode};
use seqpar::plan::edges::{Edge, derive};
use seqpar::plan::lower::{Command, Gates, Lowered, lower};
use seqpar::plan::memory::{check_memory, place};
use seqpar::plan::order::HappensBefore;
use seqpar::plan::*;

/// One op: (kind, stream, up to three of (buffer, first row, rows, mode)).
type Gene = (u8, u8, Vec<(u8, u8, u8, u8)>);

fn genes() -> impl Strategy<Value = (u8, Vec<Gene>)> {
    let access = (0..4u8, 0..8u8, 1..5u8, 0..4u8);
    let op = (0..6u8, any::<u8>(), prop::collection::vec(access, 1..4));
    (1..5u8, prop::collection::vec(op, 1..22))
}

/// The plan that the genes describe: external ops on rows of three buffers, transfers into the
/// slots of a fourth, and kernels of two pieces that read slots, gated where a transfer on another
/// stream filled them. It need not be covered; order and lowering do not ask for that.
fn grow((streams, genes): &(u8, Vec<Gene>)) -> Plan {
    let mut b = Builder::new(0, 2);
    let streams: Vec<StreamId> = (0..*streams).map(|s| b.stream(&format!("s{s}"))).collect();
    let buffers: Vec<View> = (0..4).map(|i| b.temp(format!("b{i}"), F32, [1, 8 + 4 * i, 1, 1])).collect();
    let slot = |i: u8| buffers[3].rows(4 * (i as usize % 5)..4 * (i as usize % 5) + 4);
    let mut filled: Vec<Option<(OpId, StreamId)>> = vec![None; 5];
    for (index, (kind, stream, accesses)) in genes.iter().enumerate() {
        let stream = streams[*stream as usize % streams.len()];
        let label = format!("op{index}");
        let rows = |&(buffer, first, rows, _): &(u8, u8, u8, u8)| {
            let first = first as usize;
            buffers[buffer as usize].rows(first..(first + rows as usize).min(8))
        };
        match kind {
            0 | 1 => {
                let tag = b.tag();
                let slots: Vec<u8> = accesses.iter().map(|a| a.1 % 5).collect();
                let transfers: Vec<_> = slots.iter().map(|&i| (Direction::Recv, 1, slot(i))).collect();
                let id = b.comm(stream, label, CommKind::SendRecv, tag, &[0, 1], F32, &transfers);
                slots.iter().for_each(|&i| filled[i as usize] = Some((id, stream)));
            }
            2 | 3 => {
                let read = |at: usize| {
                    let (_, i, _, gate) = accesses[at % accesses.len()];
                    match filled[i as usize % 5] {
                        Some((id, on)) if gate > 0 && on != stream => slot(i).gated(id),
                        _ => slot(i),
                    }
                };
                let spec = Gemm::linear(F32, 1, 4, 1, 1, false, Epilogue::None);
                let kernel = Kernel::Gemm(Gemm { chunks: vec![4, 4], ..spec });
                let shared = if accesses.len() > 2 { vec![read(2)] } else { Vec::new() };
                let out = vec![rows(&accesses[0])];
                b.kernel(stream, label, kernel, &[shared, vec![read(0)], out, vec![read(1)]]);
            }
            _ => {
                let mode = |m: u8| [Mode::Read, Mode::Read, Mode::Write, Mode::Update][m as usize];
                let views: Vec<_> = accesses.iter().map(|a| (rows(a), mode(a.3))).collect();
                b.external(stream, label, &views);
            }
        }
    }
    b.finish()
}

/// A fixed number of cases from a fixed seed, shrunk on failure.
fn for_random_plans(cases: u32, test: impl Fn(Plan)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let case = |genes| {
        test(grow(&genes));
        Ok(())
    };
    runner.run(&genes(), case).unwrap();
}

/// What two ops owe each other: nothing, or an order that is a gate's only (true) or not.
fn owes(plan: &Plan, from: OpId, to: OpId) -> Option<bool> {
    let mut owed = None;
    for a in plan.accesses(from) {
        for b in plan.accesses(to) {
            let conflict = a.buffer == b.buffer && a.region.overlaps(&b.region);
            if conflict && (a.mode.writes() || b.mode.writes()) {
                // A gate's transfer fills the region: who wrote it before has ended before that.
                let gate = b.mode == Mode::Read && b.gate.is_some_and(|gate| from <= gate);
                owed = Some(owed.unwrap_or(true) && gate);
            }
        }
    }
    owed
}

/// `reach[a][b]` over starts (2·op) and ends (2·op + 1), by Floyd and Warshall.
fn closure(plan: &Plan) -> Vec<Vec<bool>> {
    let n = plan.ops.len();
    let mut reach = vec![vec![false; 2 * n]; 2 * n];
    for j in 0..n {
        reach[2 * j][2 * j + 1] = true;
        for i in 0..j {
            if plan.ops[i].stream == plan.ops[j].stream {
                reach[2 * i + 1][2 * j] = true;
            }
            if let Some(gate) = owes(plan, OpId(i as u32), OpId(j as u32)) {
                reach[2 * i + 1][2 * j + usize::from(gate)] = true;
            }
        }
    }
    for k in 0..2 * n {
        let through = reach[k].clone();
        for row in reach.iter_mut().filter(|row| row[k]) {
            row.iter_mut().zip(&through).for_each(|(reached, more)| *reached |= more);
        }
    }
    reach
}

#[test]
fn derived_order_is_the_naive_closure() {
    for_random_plans(400, |plan| {
        let order = HappensBefore::derived(&plan, &derive(&plan));
        let reach = closure(&plan);
        for a in plan.op_ids() {
            for b in plan.op_ids().filter(|&b| b != a) {
                let (end, to) = (2 * a.0 as usize + 1, 2 * b.0 as usize);
                assert_eq!(order.ends_before_start(a, b), reach[end][to], "{a:?} before the start of {b:?}");
                assert_eq!(order.ends_before_end(a, b), reach[end][to + 1], "{a:?} before the end of {b:?}");
            }
        }
    });
}

#[test]
fn edges_are_sorted_forward_and_one_a_pair() {
    for_random_plans(200, |plan| {
        let edges = derive(&plan);
        assert!(edges.windows(2).all(|pair| (pair[0].to, pair[0].from) < (pair[1].to, pair[1].from)));
        for Edge { from, to, gate } in edges {
            assert!(from < to);
            // A gate may hide an order that an overwriting op in between already gives.
            let owed = owes(&plan, from, to);
            assert!(owed.is_some_and(|only_gate| gate || !only_gate), "{from:?} to {to:?}: {gate}, {owed:?}");
        }
    });
}

#[test]
fn lowering_keeps_every_edge_with_the_fewest_waits() {
    for_random_plans(300, |plan| {
        for gates in [Gates::Flags, Gates::Events] {
            let lowered = lower(&plan, gates);
            check_lowered(&plan, &lowered).unwrap();
            let crossing = |e: &&Edge| plan.op(e.from).stream != plan.op(e.to).stream;
            let edges = derive(&plan);
            let events = edges.iter().filter(crossing).filter(|e| gates == Gates::Events || !e.gate).count();
            let mut waits = 0;
            for (s, commands) in lowered.streams.iter().enumerate() {
                for (i, command) in commands.iter().enumerate().filter(|(_, c)| !matches!(c, Command::Run(_))) {
                    waits += usize::from(matches!(command, Command::Wait(_)));
                    let mut less = lowered.clone();
                    less.streams[s].remove(i);
                    assert!(check_lowered(&plan, &less).is_err(), "{command:?} is needless");
                }
            }
            assert!(waits <= events, "{waits} waits for {events} edges");
            for i in 0..lowered.gates.len() {
                let mut less = lowered.clone();
                less.gates.remove(i);
                assert!(check_lowered(&plan, &less).is_err(), "{:?} is needless", lowered.gates[i]);
            }
            assert!(gates == Gates::Flags || lowered.gates.is_empty());
        }
    });
}

#[test]
fn memory_plans_hold_and_never_exceed_all_temporaries() {
    let shared = std::cell::Cell::new(0);
    for_random_plans(400, |mut plan| {
        // Every other buffer becomes eight of its own, so that there is something to share.
        for i in 0..plan.accesses.len() {
            let old = plan.accesses[i].buffer.0 as usize;
            let copy = plan.buffers[old].clone();
            if i % 2 == 0 {
                plan.buffers.push(copy);
                plan.accesses[i].buffer = BufferId(plan.buffers.len() as u32 - 1);
                plan.accesses[i].gate = None;
            }
        }
        let order = HappensBefore::derived(&plan, &derive(&plan));
        let memory = place(&plan, &order);
        check_memory(&plan, &order, &memory).unwrap();
        let all: usize = plan.buffers.iter().map(|b| b.bytes().next_multiple_of(64)).sum();
        assert!(memory.arena_bytes <= all);
        shared.set(shared.get() + usize::from(memory.arena_bytes < all));
        // Nothing ordered, checked naively.
        for a in 0..plan.buffers.len() {
            for b in 0..a {
                let bytes = |i: usize| memory.offsets[i].unwrap()..memory.offsets[i].unwrap() + plan.buffers[i].bytes();
                let touches = |i: usize| {
                    let of = move |id: &OpId, plan: &Plan| plan.accesses(*id).iter().any(|x| x.buffer.0 as usize == i);
                    plan.op_ids().filter(|id| of(id, &plan)).collect::<Vec<_>>()
                };
                let before =
                    |x: &[OpId], y: &[OpId]| x.iter().all(|x| y.iter().all(|y| order.ends_before_start(*x, *y)));
                if bytes(a).start < bytes(b).end && bytes(b).start < bytes(a).end {
                    assert!(before(&touches(a), &touches(b)) || before(&touches(b), &touches(a)));
                }
            }
        }
    });
    assert!(shared.get() > 100, "hardly any plan shared memory: the test is void");
}

/// Runs the commands with ops that take random time; returns (start, end) of every op.
fn execute(plan: &Plan, lowered: &Lowered, mut seed: u64) -> Vec<(usize, usize)> {
    let mut times = vec![(usize::MAX, usize::MAX); plan.ops.len()];
    let mut set = vec![false; lowered.events as usize];
    let mut next = vec![0; lowered.streams.len()];
    let total: usize = lowered.streams.iter().map(Vec::len).sum();
    let mut now = 0;
    while next.iter().sum::<usize>() < total {
        now += 1;
        assert!(now < 100_000, "the commands never end");
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let stream = (seed >> 33) as usize % lowered.streams.len();
        let Some(command) = lowered.streams[stream].get(next[stream]) else { continue };
        match command {
            Command::Wait(event) if !set[event.0 as usize] => continue,
            Command::Wait(_) => {}
            Command::Record(event) | Command::Raise(event) => set[event.0 as usize] = true,
            Command::Run(id) => {
                let time = &mut times[id.0 as usize];
                if time.0 == usize::MAX {
                    time.0 = now;
                    continue;
                }
                let mut gates = lowered.gates.iter().filter(|gate| gate.op == *id);
                if gates.any(|gate| !set[gate.flag.0 as usize]) {
                    continue;
                }
                time.1 = now;
            }
        }
        next[stream] += 1;
    }
    times
}

#[test]
fn executions_in_random_order_respect_every_conflict() {
    let overlapped = std::cell::Cell::new(0);
    for_random_plans(200, |plan| {
        for gates in [Gates::Flags, Gates::Events] {
            let lowered = lower(&plan, gates);
            for seed in 0..6 {
                let times = execute(&plan, &lowered, seed);
                for b in plan.op_ids() {
                    for a in plan.op_ids().take_while(|a| *a < b) {
                        let (a_time, b_time) = (times[a.0 as usize], times[b.0 as usize]);
                        match owes(&plan, a, b) {
                            Some(true) if gates == Gates::Flags => {
                                assert!(a_time.1 < b_time.1);
                                overlapped.set(overlapped.get() + usize::from(b_time.0 < a_time.1));
                            }
                            Some(_) => assert!(a_time.1 < b_time.0, "{a:?} and {b:?} collide"),
                            None => {}
                        }
                    }
                }
            }
        }
    });
    assert!(overlapped.get() > 100, "no gated kernel started early: the test is void");
}

#[test]
fn thousands_of_transfers_are_derived_in_linear_time() {
    let ranks = 4096;
    let mut b = Builder::new(0, ranks);
    let (main, comm) = (b.stream("main"), b.stream("comm"));
    let slots = b.temp("slots", F32, [ranks, 4, 1, 8]);
    b.external(main, "own", &[(slots.samples(0..1), Mode::Write)]);
    let group: Vec<usize> = (0..ranks).collect();
    let mut fills = Vec::new();
    for step in 1..ranks {
        let tag = b.tag();
        let (own, next) = (slots.samples(step - 1..step), slots.samples(step..step + 1));
        let moves = [(Direction::Send, 1, own), (Direction::Recv, ranks - 1, next)];
        fills.push(b.comm(comm, format!("step{step}"), CommKind::SendRecv, tag, &group, F32, &moves));
        b.external(main, format!("use{step}"), &[(next, Mode::Read)]);
    }
    b.external(main, "all", &[(slots, Mode::Read)]);
    let plan = b.finish();
    let begin = std::time::Instant::now();
    let edges = derive(&plan);
    // Step to step on one stream, step to use, and everything to the last.
    assert_eq!(edges.len(), 2 * (ranks - 1) + ranks);
    check(plan).unwrap();
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}
