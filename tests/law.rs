//! The law, rule by rule: each broken plan is refused by an error that names the op.
//! (design: drop a wait, swap two collectives, change one count, move a region …)

use seqpar::dtype::Dtype::{self, F32};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel, Mode, Pack};
use seqpar::plan::lower::{Command, EventId, Gates, Lowered, lower};
use seqpar::plan::memory::check_memory;
use seqpar::plan::*;
use seqpar::{Error, Result};

const ROWS: [usize; 4] = [1, 4, 1, 8];

/// A pack kernel that copies `[1, 4, 1, 8]`.
fn pack() -> Kernel {
    Kernel::Pack(Pack { src_dtype: F32, dst_dtype: F32, copies: vec![ROWS] })
}

fn input(b: &mut Builder, name: &str) -> View {
    b.buffer(name, Role::Input, F32, ROWS, None)
}

fn output(b: &mut Builder, name: &str) -> View {
    b.buffer(name, Role::Output, F32, ROWS, None)
}

/// The error of a refused plan, which names `op` and says `what`.
#[track_caller]
fn refused<T>(result: Result<T>, op: &str, what: &str) {
    match result {
        Ok(_) => panic!("accepted; expected op {op:?} to be refused with {what:?}"),
        Err(Error::Law { op: named, why, .. }) => {
            assert_eq!(named, op, "{why}");
            assert!(why.contains(what), "{why:?} does not say {what:?}");
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// One rank: x is packed to a, read from two streams, joined, packed to y.
fn diamond() -> Plan {
    let mut b = Builder::new(0, 1);
    let (main, side) = (b.stream("main"), b.stream("side"));
    let (x, y) = (input(&mut b, "x"), output(&mut b, "y"));
    let [a, c, d, e] = ["a", "c", "d", "e"].map(|name| b.temp(name, F32, ROWS));
    b.kernel(main, "load", pack(), &[vec![x], vec![a]]);
    b.kernel(main, "left", pack(), &[vec![a], vec![c]]);
    b.kernel(side, "right", pack(), &[vec![a], vec![d]]);
    b.kernel(side, "right2", pack(), &[vec![d], vec![e]]);
    let halves = |v: View, i: usize| v.rows(2 * i..2 * i + 2);
    b.kernel(main, "join", pack(), &[vec![halves(c, 0), halves(e, 1)], vec![y]]);
    b.finish()
}

#[test]
fn a_diamond_is_lawful_and_its_waits_are_the_fewest() {
    let plan = check(diamond()).unwrap();
    let lowered = plan.lowered(Gates::Flags);
    let waits: usize = lowered.streams.iter().flatten().filter(|c| matches!(c, Command::Wait(_))).count();
    assert_eq!((waits, lowered.events), (2, 2));
    assert_eq!(plan.memory().arena_bytes, 4 * 128);
}

fn gemm(chunks: usize) -> Kernel {
    let spec = Gemm::linear(F32, 1, 4, 8, 8, false, Epilogue::None);
    Kernel::Gemm(Gemm { chunks: vec![4; chunks], ..spec })
}

/// Rank `rank` of 2: its rows travel to the other rank, and one gated projection reads both.
fn gathered(rank: usize) -> Plan {
    let mut b = Builder::new(rank, 2);
    let (main, comm) = (b.stream("main"), b.stream("comm"));
    let x = input(&mut b, "x");
    let w = b.buffer("w", Role::Input, F32, [1, 8, 1, 8], None);
    let y = b.buffer("y", Role::Output, F32, [2, 4, 1, 8], None);
    let slots = b.temp("slots", F32, [2, 4, 1, 8]);
    let slot = |r: usize| slots.samples(r..r + 1);
    let tag = b.tag();
    b.kernel(main, "norm", pack(), &[vec![x], vec![slot(rank)]]);
    let other = 1 - rank;
    let transfers = [(Direction::Send, other, slot(rank)), (Direction::Recv, other, slot(other))];
    let gather = b.comm(comm, "gather", CommKind::AllGather, tag, &[0, 1], F32, &transfers);
    let out = |r: usize| vec![y.samples(r..r + 1)];
    let operands = [vec![w], vec![slot(rank)], out(rank), vec![slot(other).gated(gather)], out(other)];
    b.kernel(main, "project", gemm(2), &operands);
    b.finish()
}

fn command_at(lowered: &Lowered, wanted: fn(&Command) -> bool) -> Vec<(usize, usize)> {
    let at = |(s, commands): (usize, &Vec<Command>)| {
        commands.iter().enumerate().filter(|(_, c)| wanted(c)).map(|(i, _)| (s, i)).collect::<Vec<_>>()
    };
    lowered.streams.iter().enumerate().flat_map(at).collect()
}

#[test]
fn a_gate_is_a_flag_and_no_event() {
    let plans = check_world(vec![gathered(1), gathered(0)]).unwrap();
    assert_eq!(plans[0].rank, 0);
    let edges: Vec<(u32, u32, bool)> = plans[0].edges().iter().map(|e| (e.from.0, e.to.0, e.gate)).collect();
    assert_eq!(edges, [(0, 1, false), (0, 2, false), (1, 2, true)]);
    let flags = plans[0].lowered(Gates::Flags);
    assert_eq!(flags.gates.iter().map(|g| (g.op, g.piece)).collect::<Vec<_>>(), [(OpId(2), 1)]);
    assert_eq!(command_at(&flags, |c| matches!(c, Command::Raise(_))).len(), 1);
    assert_eq!(command_at(&flags, |c| matches!(c, Command::Wait(_))).len(), 1);
    let events = plans[0].lowered(Gates::Events);
    assert!(events.gates.is_empty());
    assert_eq!(command_at(&events, |c| matches!(c, Command::Wait(_))).len(), 2);
    // The end of the gated kernel implies the end of the transfer, its start does not.
    assert!(!plans[0].order().ends_before_start(OpId(1), OpId(2)));
    assert!(plans[0].order().ends_before_end(OpId(1), OpId(2)));
}

#[test]
fn a_lost_wait_record_raise_or_gate_is_found() {
    let plan = diamond();
    for (wanted, is) in [("left", "load"), ("right", "load"), ("join", "right2")] {
        assert!(plan.labels.iter().any(|l| l == wanted) && plan.labels.iter().any(|l| l == is));
    }
    let good = lower(&plan, Gates::Flags);
    check_lowered(&plan, &good).unwrap();
    let ops = [("right", "load"), ("join", "right2")];
    let mut found = Vec::new();
    for (s, i) in command_at(&good, |c| matches!(c, Command::Wait(_) | Command::Record(_))) {
        let mut bad = good.clone();
        bad.streams[s].remove(i);
        let Err(Error::Law { op, why, .. }) = check_lowered(&plan, &bad) else { panic!("accepted") };
        assert!(ops.iter().any(|(to, from)| op == *to && why.contains(&format!("\"{from}\""))), "{op}: {why}");
        found.push(op);
    }
    assert_eq!(found.len(), 4);

    let plan = gathered(0);
    let good = lower(&plan, Gates::Flags);
    let (s, i) = command_at(&good, |c| matches!(c, Command::Raise(_)))[0];
    let mut bad = good.clone();
    bad.streams[s].remove(i);
    refused(check_lowered(&plan, &bad), "project", "piece 1 no longer waits for \"gather\"");
    let mut bad = good.clone();
    bad.gates[0].piece = 0;
    refused(check_lowered(&plan, &bad), "project", "piece 1 no longer waits for \"gather\"");
    let mut bad = good.clone();
    bad.gates[0].piece = 2;
    refused(check_lowered(&plan, &bad), "project", "in a piece that it has not");
}

#[test]
fn lowered_commands_run_every_op_once_in_plan_order() {
    let plan = diamond();
    let good = lower(&plan, Gates::Flags);
    let mut bad = good.clone();
    bad.streams[1].retain(|c| *c != Command::Run(OpId(2)));
    refused(check_lowered(&plan, &bad), "right2", "out of plan order");
    let mut bad = good.clone();
    bad.streams[1].retain(|c| *c != Command::Run(OpId(3)));
    refused(check_lowered(&plan, &bad), "right2", "never run");
    let mut bad = good.clone();
    bad.streams[0].push(Command::Run(OpId(0)));
    refused(check_lowered(&plan, &bad), "load", "runs twice");
    let mut bad = good.clone();
    bad.streams[0].push(Command::Record(EventId(99)));
    refused(check_lowered(&plan, &bad), "join", "out of range");
    let mut bad = good.clone();
    bad.events += 1;
    let extra = EventId(bad.events - 1);
    bad.streams[0].insert(0, Command::Wait(extra));
    refused(check_lowered(&plan, &bad), "load", "nobody records");
    bad.streams[0].push(Command::Record(extra));
    refused(check_lowered(&plan, &bad), "load", "waits for something that waits for it");
}

/// The diamond, changed before it is checked.
fn changed(change: impl FnOnce(&mut Plan)) -> Result<Checked<Plan>> {
    let mut plan = diamond();
    change(&mut plan);
    check(plan)
}

#[test]
fn ids_regions_and_shapes_are_in_range() {
    refused(changed(|p| p.accesses[0].buffer = BufferId(99)), "load", "buffer 99");
    refused(changed(|p| p.accesses[0].region.end[1] = 5), "load", "leaves the buffer");
    refused(changed(|p| p.accesses[0].shape[1] = 3), "load", "its shape");
    refused(changed(|p| p.ops[1].stream = StreamId(7)), "left", "stream 7");
    refused(changed(|p| p.ops[1].kind = OpKind::Kernel(77)), "left", "the plan has not");
    refused(changed(|p| p.ops[1].first_access = 1 << 31), "left", "the plan has not");
    refused(changed(|p| p.ops[1].label = 99), "plan", "label");
    refused(changed(|p| p.rank = 1), "plan", "world of 1");
    refused(changed(|p| p.buffers[0].dims = [usize::MAX; 4]), "plan", "address space");
    // Half of the columns of two rows are two runs: they have no other shape.
    let strided = |p: &mut Plan| {
        let a = &mut p.accesses[0];
        a.region = Region { start: [0; 4], end: [1, 2, 1, 4] };
        a.shape = [1, 1, 1, 8];
    };
    refused(changed(strided), "load", "not one run");
}

#[test]
fn reads_are_covered_inputs_kept_and_outputs_whole() {
    // Moved outside what was written: the load fills half of a only.
    let half = |p: &mut Plan| {
        let Kernel::Pack(spec) = &mut p.kernels[0] else { panic!() };
        spec.copies[0][1] = 2;
        for access in &mut p.accesses[..2] {
            access.region = access.region.slice(1, 0..2);
            access.shape[1] = 2;
        }
    };
    refused(changed(half), "left", "reads a[0:1, 0:4, 0:1, 0:8], of which nothing earlier wrote a[0:1, 2:4, 0:1, 0:8]");
    refused(changed(|p| p.ops.swap(2, 3)), "right2", "nothing earlier wrote");
    refused(changed(|p| p.accesses[1].buffer = p.accesses[0].buffer), "load", "at once");
    let mut other_input = diamond();
    other_input.buffers[2].role = Role::Input;
    refused(check(other_input), "load", "an input");
    let unwritten = |p: &mut Plan| {
        p.ops.pop();
    };
    refused(changed(unwritten), "end of plan", "an output is whole");
    let twice = |p: &mut Plan| p.accesses[3].buffer = p.accesses[2].buffer;
    refused(changed(twice), "left", "at once");
}

#[test]
fn kernels_get_their_operands() {
    refused(changed(|p| p.accesses[1].mode = Mode::Update), "load", "the kernel needs a Write");
    refused(changed(|p| p.buffers[0].dtype = Dtype::F16), "load", "f16, the kernel needs f32");
    refused(changed(|p| p.accesses[1].operand = 4), "load", "operand 4 of 2");
    let fewer_rows = |p: &mut Plan| {
        p.accesses[0].region.end[1] = 3;
        p.accesses[0].shape[1] = 3;
    };
    refused(changed(fewer_rows), "load", "is given 3 rows");
    let narrow = |p: &mut Plan| {
        p.accesses[0].region.end[3] = 4;
        p.accesses[0].shape[3] = 4;
    };
    refused(changed(narrow), "load", "is seen as [1, 4, 1, 4]");
    refused(changed(|p| p.ops[1].access_count = 1), "left", "dst [1, 4, 1, 8] of pack_f32 is given 0 rows");
    // A row must be one run: half the columns of each of two heads are not.
    let mut b = Builder::new(0, 1);
    let main = b.stream("main");
    let x = b.buffer("x", Role::Input, F32, [1, 4, 2, 8], None);
    let y = output(&mut b, "y");
    b.kernel(main, "cut", pack(), &[vec![x.cols(0..4)], vec![y]]);
    refused(check(b.finish()), "cut", "columns of several heads");
}

#[test]
fn copies_agree_in_shape_and_dtype() {
    let copy = |dtype: Dtype, dims: [usize; 4]| {
        let mut b = Builder::new(0, 1);
        let main = b.stream("main");
        let x = input(&mut b, "x");
        let y = b.buffer("y", Role::Output, dtype, dims, None);
        b.copy(main, "copy", x, y);
        check(b.finish())
    };
    copy(F32, ROWS).unwrap();
    refused(copy(F32, [1, 8, 1, 4]), "copy", "shapes and dtypes must agree");
    refused(copy(Dtype::F16, ROWS), "copy", "shapes and dtypes must agree");
}

#[test]
fn memory_is_shared_only_by_ordered_ops() {
    let plan = check(diamond()).unwrap();
    check_memory(&plan, plan.order(), plan.memory()).unwrap();
    let temps: Vec<usize> = (0..plan.buffers.len()).filter(|&i| plan.buffers[i].role == Role::Temp).collect();
    let mut bad = plan.memory().clone();
    bad.offsets[temps[1]] = bad.offsets[temps[2]];
    refused(check_memory(&plan, plan.order(), &bad), "left", "share bytes");
    let mut bad = plan.memory().clone();
    bad.offsets[temps[0]] = Some(bad.arena_bytes);
    refused(check_memory(&plan, plan.order(), &bad), "load", "leaves the arena");
    let mut bad = plan.memory().clone();
    bad.offsets[temps[0]] = None;
    refused(check_memory(&plan, plan.order(), &bad), "load", "temporaries have an offset");
}

#[test]
fn a_chain_reuses_memory() {
    let mut b = Builder::new(0, 1);
    let main = b.stream("main");
    let (x, y) = (input(&mut b, "x"), output(&mut b, "y"));
    let mut last = x;
    for i in 0..10 {
        let next = b.temp(format!("t{i}"), F32, ROWS);
        b.kernel(main, format!("op{i}"), pack(), &[vec![last], vec![next]]);
        last = next;
    }
    b.kernel(main, "end", pack(), &[vec![last], vec![y]]);
    let plan = check(b.finish()).unwrap();
    assert_eq!(plan.memory().arena_bytes, 2 * 128);
    assert_eq!(plan.memory().peak_bytes, 4 * 128);
}

#[test]
fn gates_name_an_earlier_transfer_that_fills_the_region() {
    let gate = |change: fn(&mut Plan)| {
        let mut plan = gathered(0);
        change(&mut plan);
        check(plan)
    };
    let set = |p: &mut Plan, to: u32| {
        p.accesses.iter_mut().filter(|a| a.gate.is_some()).for_each(|a| a.gate = Some(OpId(to)))
    };
    gate(|_| {}).unwrap();
    refused(
        gate(|p| p.accesses.iter_mut().filter(|a| a.gate.is_some()).for_each(|a| a.gate = Some(OpId(2)))),
        "project",
        "this op or a later",
    );
    let mut on_kernel = gathered(0);
    set(&mut on_kernel, 0);
    refused(check(on_kernel), "project", "no communication");
    refused(gate(|p| p.ops[1].stream = StreamId(0)), "project", "its own stream");
    refused(gate(|p| p.accesses[2].gate = Some(OpId(0))), "gather", "only a kernel's read");
    // The gate names a transfer that fills another region.
    refused(gate(|p| p.accesses[5].gate = Some(OpId(1))), "project", "does not fill slots[0:1");
}

#[test]
fn a_gate_does_not_need_another_kernel_that_may_starve() {
    let mut b = Builder::new(0, 2);
    let (main, side, comm) = (b.stream("main"), b.stream("side"), b.stream("comm"));
    let x = input(&mut b, "x");
    let w = b.buffer("w", Role::Input, F32, [1, 8, 1, 8], None);
    let y = output(&mut b, "y");
    let (mine, theirs) = (b.temp("mine", F32, ROWS), b.temp("theirs", F32, ROWS));
    let tag = b.tag();
    b.kernel(side, "prepare", pack(), &[vec![x], vec![mine]]);
    let transfers = [(Direction::Send, 1, mine), (Direction::Recv, 1, theirs)];
    let swap = b.comm(comm, "swap", CommKind::SendRecv, tag, &[0, 1], F32, &transfers);
    b.kernel(main, "project", gemm(1), &[vec![w], vec![theirs.gated(swap)], vec![y]]);
    refused(check(b.finish()), "project", "needs \"prepare\"");
}

/// A rank of a world whose ops are communications of whole buffers, `(stream, kind, tag, group,
/// transfers)`; a transfer sends input rows or fills a temporary.
struct Traffic {
    builder: Builder,
    x: View,
}

impl Traffic {
    fn new(rank: usize, world: usize) -> Self {
        let mut builder = Builder::new(rank, world);
        let x = input(&mut builder, "x");
        Self { builder, x }
    }

    fn op(
        &mut self,
        stream: &str,
        label: &str,
        kind: CommKind,
        tag: u32,
        group: &[usize],
        moves: &[(Direction, usize, usize)],
    ) {
        let stream = self.builder.stream(stream);
        let mut transfers = Vec::new();
        for &(direction, peer, rows) in moves {
            let view = match direction {
                Direction::Send => self.x,
                Direction::Recv => self.builder.temp(format!("{label} from {peer}"), F32, ROWS),
            };
            transfers.push((direction, peer, view.rows(0..rows)));
        }
        self.builder.comm(stream, label, kind, Tag(tag), group, F32, &transfers);
    }

    /// An exchange of all rows with every other rank of a group.
    fn exchange(&mut self, stream: &str, label: &str, tag: u32, group: &[usize]) {
        let me = self.builder.rank();
        let others: Vec<usize> = group.iter().copied().filter(|&rank| rank != me).collect();
        let moves: Vec<_> =
            others.iter().flat_map(|&peer| [(Direction::Send, peer, 4), (Direction::Recv, peer, 4)]).collect();
        self.op(stream, label, CommKind::AllToAll, tag, group, &moves);
    }

    fn plan(self) -> Plan {
        self.builder.finish()
    }
}

fn one(kind: CommKind, group: &[usize], moves: &[(Direction, usize, usize)]) -> Result<Checked<Plan>> {
    let mut traffic = Traffic::new(0, 3);
    traffic.op("comm", "it", kind, 0, group, moves);
    check(traffic.plan())
}

#[test]
fn every_collective_has_its_shape() {
    use CommKind::*;
    use Direction::{Recv, Send};
    let all = [0, 1, 2];
    one(AllGather, &all, &[(Send, 1, 4), (Send, 2, 4), (Recv, 2, 1)]).unwrap();
    refused(one(AllGather, &all, &[(Send, 1, 4), (Send, 2, 3)]), "it", "every other rank is sent the same");
    refused(one(AllGather, &all, &[(Send, 1, 4)]), "it", "every other rank is sent the same");
    one(Broadcast, &all, &[(Recv, 2, 4)]).unwrap();
    one(Broadcast, &all, &[(Send, 1, 4), (Send, 2, 4)]).unwrap();
    refused(one(Broadcast, &all, &[(Recv, 1, 4), (Recv, 2, 4)]), "it", "one root");
    refused(one(Broadcast, &all, &[(Send, 1, 4), (Recv, 2, 4)]), "it", "root only sends");
    one(ReduceScatter, &all, &[(Send, 0, 4), (Send, 1, 2), (Send, 2, 3), (Recv, 0, 4)]).unwrap();
    refused(one(ReduceScatter, &all, &[(Send, 0, 3), (Recv, 0, 4)]), "it", "as many elements");
    refused(one(ReduceScatter, &all, &[(Send, 1, 4), (Recv, 0, 4)]), "it", "as many elements");
    refused(one(ReduceScatter, &all, &[(Send, 0, 4), (Recv, 1, 4)]), "it", "received from oneself");
    one(AllReduce, &all, &[(Send, 0, 4), (Send, 1, 4), (Send, 2, 4), (Recv, 0, 4)]).unwrap();
    refused(one(AllReduce, &all, &[(Send, 0, 4), (Send, 1, 4), (Recv, 0, 4)]), "it", "oneself included");
    refused(one(SendRecv, &all, &[(Send, 0, 4)]), "it", "sent to oneself");
    refused(one(SendRecv, &[0, 1], &[(Send, 2, 4)]), "it", "not in the group");
    refused(one(SendRecv, &[1, 2], &[(Send, 2, 4)]), "it", "rank 0 is not one of them");
    refused(one(SendRecv, &[0, 1, 1], &[]), "it", "twice");
    refused(one(SendRecv, &[0, 9], &[]), "it", "outside the world");
}

#[test]
fn communication_touches_contiguous_runs_of_its_dtype() {
    let mut plan = gathered(0);
    plan.accesses[2].region = Region { start: [0; 4], end: [1, 4, 1, 4] };
    plan.accesses[2].shape = [1, 4, 1, 4];
    refused(check(plan), "gather", "not one run of memory");
    let mut plan = gathered(0);
    plan.comms[0].dtype = Dtype::Bf16;
    refused(check(plan), "gather", "is f32, the communication is in bf16");
    let mut plan = gathered(0);
    plan.accesses[2].region = plan.accesses[3].region;
    refused(check(plan), "gather", "at once");
    let mut plan = gathered(0);
    plan.comms[0].transfers.pop();
    refused(check(plan), "gather", "1 transfers but 2 regions");
    let mut plan = gathered(0);
    plan.comms[0].transfers.swap(0, 1);
    refused(check(plan), "gather", "sends what it reads");
    // One tag for two ops.
    let mut traffic = Traffic::new(0, 2);
    traffic.exchange("comm", "first", 0, &[0, 1]);
    traffic.exchange("comm", "second", 0, &[0, 1]);
    refused(check(traffic.plan()), "second", "has tag 0, as has \"first\"");
}

#[test]
fn the_ranks_of_a_world_are_whole() {
    refused(check_world(vec![gathered(0)]), "plan", "one plan a rank");
    refused(check_world(vec![gathered(0), gathered(0)]), "plan", "one plan a rank");
    check_world(Vec::new()).unwrap();
}

/// Stream, tag and group.
type Exchange<'a> = (&'a str, u32, &'a [usize]);

/// A world of exchanges, for each rank in issue order.
fn world(ranks: &[&[Exchange]]) -> Vec<Plan> {
    let plan = |(rank, ops): (usize, &&[Exchange])| {
        let mut traffic = Traffic::new(rank, ranks.len());
        ops.iter().for_each(|(stream, tag, group)| traffic.exchange(stream, &format!("op{tag}"), *tag, group));
        traffic.plan()
    };
    ranks.iter().enumerate().map(plan).collect()
}

#[test]
fn tags_kinds_groups_and_counts_agree() {
    let both: &[usize] = &[0, 1];
    let change = |change: fn(&mut Plan)| {
        let mut plans = world(&[&[("s", 5, both)], &[("s", 5, both)]]);
        change(&mut plans[1]);
        check_world(plans)
    };
    change(|_| {}).unwrap();
    refused(change(|p| p.comms[0].tag = Tag(6)), "op5", "rank 1 of its group has no such op");
    refused(change(|p| p.comms[0].kind = CommKind::SendRecv), "op5", "another kind");
    refused(
        change(|p| p.groups[0] = vec![1, 0]),
        "op5",
        "rank 1 of its group has no such op with tag 5 and this group",
    );
    let dtype = |p: &mut Plan| {
        p.comms[0].dtype = Dtype::I32;
        p.buffers.iter_mut().for_each(|b| b.dtype = Dtype::I32);
    };
    refused(change(dtype), "op5", "another dtype");
    // One count: rank 1 sends three rows where rank 0 awaits four.
    let count = |p: &mut Plan| {
        p.accesses[0].region.end[1] = 3;
        p.accesses[0].shape[1] = 3;
    };
    refused(change(count), "op5", "from rank 1 to rank 0 has 24 elements where it is sent and 32 where it is received");
}

#[test]
fn a_sum_takes_a_slot_of_its_size_from_every_rank() {
    use Direction::{Recv, Send};
    let plans = |rows: usize| {
        let plan = |rank: usize| {
            let mut traffic = Traffic::new(rank, 2);
            let to = |peer: usize| if peer == 1 { 0 } else { 4 };
            let stray = if rank == 1 { rows } else { to(0) };
            let moves = [(Send, 0, stray), (Send, 1, to(1)), (Recv, rank, to(rank))];
            traffic.op("s", "sum", CommKind::ReduceScatter, 0, &[0, 1], &moves);
            traffic.plan()
        };
        check_world(vec![plan(0), plan(1)])
    };
    // Rank 1 has no rows of its own and still gives rank 0 its part.
    plans(4).unwrap();
    refused(plans(3), "sum", "24 elements where it is sent and 32");
    refused(plans(0), "sum", "0 elements where it is sent and 32");
}

#[test]
fn swapped_collectives_are_refused_even_on_two_streams() {
    let both: &[usize] = &[0, 1];
    let (a, b) = (("s", 0, both), ("s", 1, both));
    check_world(world(&[&[a, b], &[a, b]])).unwrap();
    refused(check_world(world(&[&[a, b], &[b, a]])), "op1", "one order");
    let c = ("t", 1, both);
    refused(check_world(world(&[&[a, c], &[c, a]])), "op1", "one order");
    // Any order does if every rank keeps it; and groups that share one rank only are free.
    check_world(world(&[&[b, a], &[b, a]])).unwrap();
    // Two groups that share ranks 0 and 1.
    let (all, pair): (&[usize], &[usize]) = (&[0, 1, 2], &[0, 1]);
    let (x, y) = (("s", 0, all), ("t", 1, pair));
    refused(check_world(world(&[&[x, y], &[y, x], &[x]])), "op1", "one order");
}

#[test]
fn a_deadlock_is_refused_with_its_cycle() {
    let (ab, bc, ca): (&[usize], &[usize], &[usize]) = (&[0, 1], &[1, 2], &[2, 0]);
    let (a, b, c) = (("s", 0, ab), ("s", 1, bc), ("s", 2, ca));
    check_world(world(&[&[a, c], &[a, b], &[b, c]])).unwrap();
    // No two ranks share two tags, yet each waits for the next one round the triangle.
    let plans = world(&[&[a, c], &[b, a], &[c, b]]);
    let Err(Error::Law { why, .. }) = check_world(plans) else { panic!("accepted") };
    for who in ["\"op0\" on rank 0", "\"op1\" on rank 1", "\"op2\" on rank 2"] {
        assert!(why.contains(who), "{why}");
    }
    // On streams of their own nothing waits.
    let c = ("t", 2, ca);
    check_world(world(&[&[a, c], &[b, a], &[c, b]])).unwrap();
}

#[test]
fn a_thousand_ranks_are_checked_in_seconds() {
    // usp 8 × 128: contiguous groups of 8, strided groups of 128, twenty ops each.
    let (inner, outer) = (8, 128);
    let plans = (0..inner * outer).map(|rank| {
        let near: Vec<usize> = (0..inner).map(|i| rank / inner * inner + i).collect();
        let far: Vec<usize> = (0..outer).map(|j| j * inner + rank % inner).collect();
        let at = rank / inner;
        let mut traffic = Traffic::new(rank, inner * outer);
        for step in 0..20u32 {
            traffic.exchange("near", &format!("near{step}"), 3 * step, &near);
            let moves =
                [(Direction::Send, far[(at + 1) % outer], 4), (Direction::Recv, far[(at + outer - 1) % outer], 4)];
            traffic.op("far", &format!("far{step}"), CommKind::SendRecv, 3 * step + 1, &far, &moves);
        }
        traffic.exchange("far", "gather", 90, &far);
        traffic.plan()
    });
    let plans: Vec<Plan> = plans.collect();
    let begin = std::time::Instant::now();
    assert_eq!(check_world(plans).unwrap().len(), inner * outer);
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    eprintln!("{:?}", begin.elapsed());
}
