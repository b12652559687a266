//! What the CUDA executor enqueues, as data: the steps of a world on one device, and of one rank
//! that meets the others through a communication library. No driver is asked.
#![cfg(feature = "cuda")]

mod support;

use std::collections::{BTreeMap, HashMap};

use seqpar::dtype::Dtype;
use seqpar::exec::collective::Collective;
use seqpar::exec::cuda::Agreement;
use seqpar::exec::cuda::program::{Action, GroupCall, Part, Place, Program, alone, world};
use seqpar::plan::lower::Gates;
use seqpar::plan::{Builder, Checked, CommKind, Direction, OpId, Plan, Role, View, check, check_world};
use seqpar::strategy::{self, LayerProblem, Options};

use support::cases::Case;
use support::worlds::worlds;

fn layers(ranks: usize) -> Vec<(String, Vec<Checked<Plan>>)> {
    let case = Case { text: 3, ..Case::plain(Dtype::Bf16, 13, 4, 32) };
    let layer = LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: 32,
        qkv_bias: false,
        proj_bias: false,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    };
    let plans = |strategy, mesh| {
        check_world(strategy::layer(&layer, strategy, mesh, &Options { gated: true, ..Options::default() }).unwrap())
    };
    worlds(ranks).iter().map(|world| (world.name(), plans(world.strategy, &world.mesh).unwrap())).collect()
}

fn programs(plans: &[Checked<Plan>], native_sums: bool) -> Vec<Program> {
    let agreement = Agreement::of(plans, native_sums).unwrap();
    plans.iter().map(|plan| alone(plan, &plan.lowered(Gates::Events), &agreement).unwrap()).collect()
}

/// (op, group, calls) of every group of a program.
fn groups(program: &Program) -> Vec<(OpId, usize, &[GroupCall])> {
    let group = |action| match action {
        &Action::Group { op, group, ref calls } => Some((op, group, calls.as_slice())),
        _ => None,
    };
    program.steps.iter().filter_map(|step| group(&step.action)).collect()
}

fn elems(plan: &Plan, part: Part) -> usize {
    plan.accesses(part.op)[part.access].region.elems()
}

/// Every event is recorded once, before anything waits for it.
fn assert_ordered(what: &str, program: &Program) {
    let mut recorded = vec![false; program.events];
    for step in &program.steps {
        match step.action {
            Action::Record(event) => assert!(!std::mem::replace(&mut recorded[event], true), "{what}"),
            Action::Wait(event) => assert!(recorded[event], "{what}: waits before the record"),
            _ => {}
        }
    }
}

#[test]
fn every_message_of_a_rank_meets_one_of_its_peer() {
    for ranks in 1..=4 {
        for (name, plans) in layers(ranks) {
            let programs = programs(&plans, false);
            // (tag, group, from, to) to the elements of the messages, in order.
            let (mut sent, mut received) = (BTreeMap::new(), BTreeMap::new());
            for (plan, program) in plans.iter().zip(&programs) {
                assert_ordered(&name, program);
                let mut ops: Vec<u32> = Vec::new();
                for (op, group, calls) in groups(program) {
                    let comm = plan.comm(op).unwrap();
                    ops.push(op.0);
                    let ranks = &plan.groups[group];
                    for call in calls {
                        let (all, from, to, elems) = match *call {
                            GroupCall::Send { peer, from } => (&mut sent, plan.rank, ranks[peer], elems(plan, from)),
                            GroupCall::Recv { peer, to: Place::Part(to) } => {
                                (&mut received, ranks[peer], plan.rank, elems(plan, to))
                            }
                            GroupCall::Recv { peer, to: Place::Scratch(slot) } => {
                                (&mut received, ranks[peer], plan.rank, elems(plan, program.scratch[slot]))
                            }
                            ref other => panic!("{name}: {other:?}"),
                        };
                        all.entry((comm.tag, ranks.clone(), from, to)).or_insert_with(Vec::new).push(elems);
                    }
                }
                // One group an op at most, in plan order: all ranks issue alike.
                assert!(ops.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {ops:?}");
                assert_eq!(ops.is_empty(), ranks == 1, "{name}");
            }
            assert_eq!(sent, received, "{name}");
        }
    }
}

#[test]
fn a_rank_sums_in_group_order_whoever_it_is() {
    let plans = check_world(Collective::ReduceScatter.plans(4 * 22, 4).unwrap()).unwrap();
    for (rank, program) in programs(&plans, false).iter().enumerate() {
        let sums: Vec<_> = program.steps.iter().filter(|step| matches!(step.action, Action::Sum { .. })).collect();
        let Action::Sum { from, .. } = &sums[0].action else { unreachable!() };
        assert_eq!((sums.len(), from.len()), (1, 4));
        let [(_, _, calls)] = groups(program)[..] else { panic!() };
        for (place, addend) in from.iter().enumerate() {
            if place == rank {
                assert!(matches!(addend, Place::Part(part) if part.rank == rank));
            } else {
                assert!(calls.contains(&GroupCall::Recv { peer: place, to: *addend }), "rank {rank}, from {place}");
            }
        }
    }
}

#[test]
fn a_library_sums_only_where_it_is_asked_to() {
    for (collective, fits) in [(Collective::AllReduce, true), (Collective::ReduceScatter, true)] {
        // 24 elements over 4 ranks: equal slots.
        let plans = check_world(collective.plans(4 * 24, 4).unwrap()).unwrap();
        let native = |call: &GroupCall| matches!(call, GroupCall::AllReduce { .. } | GroupCall::ReduceScatter { .. });
        for (asked, program) in
            [false, true].into_iter().flat_map(|asked| programs(&plans, asked).into_iter().map(move |p| (asked, p)))
        {
            let calls: Vec<_> = groups(&program).into_iter().flat_map(|(.., calls)| calls.to_vec()).collect();
            assert_eq!(calls.iter().any(native), asked && fits, "{collective:?}");
            assert_eq!(program.steps.iter().any(|step| matches!(step.action, Action::Sum { .. })), !asked);
        }
    }
    // Slots that differ are no library's.
    let plans = check_world(Collective::ReduceScatter.plans(4 * 22, 4).unwrap()).unwrap();
    for program in programs(&plans, true) {
        assert!(groups(&program).iter().all(|(.., calls)| calls.len() == 6));
    }
}

/// An all-gather of rows of `y [1, 1, 1, all]` whose own row is in place, or outside and free.
fn gather(rank: usize, slots: &[usize], in_place: bool, touched: bool) -> Plan {
    let mut b = Builder::new(rank, slots.len());
    let stream = b.stream("comm");
    let starts: Vec<usize> = (0..=slots.len()).map(|i| slots[..i].iter().sum()).collect();
    let y = b.temp("y", Dtype::Bf16, [1, 1, 1, starts[slots.len()]]);
    let slot = |i: usize| y.cols(starts[i]..starts[i + 1]);
    let x = b.buffer("x", Role::Input, Dtype::Bf16, [1, 1, 1, slots[rank]], None);
    let own = if in_place { slot(rank) } else { x };
    if in_place || touched {
        b.copy(stream, "fill", x, slot(rank));
    }
    let others = (0..slots.len()).filter(|&other| other != rank);
    let transfers: Vec<(Direction, usize, View)> =
        others.flat_map(|other| [(Direction::Send, other, own), (Direction::Recv, other, slot(other))]).collect();
    let (tag, group) = (b.tag(), (0..slots.len()).collect::<Vec<_>>());
    b.comm(stream, "gather", CommKind::AllGather, tag, &group, Dtype::Bf16, &transfers);
    b.finish()
}

#[test]
fn a_gather_is_the_librarys_where_every_rank_has_equal_slots_in_order() {
    let is_native = |plans: Vec<Plan>| {
        let plans = check_world(plans).unwrap();
        let native = |call: &GroupCall| matches!(call, GroupCall::AllGather { .. });
        let native: Vec<bool> =
            programs(&plans, false).iter().map(|program| groups(program)[0].2.iter().all(native)).collect();
        assert!(native.windows(2).all(|pair| pair[0] == pair[1]), "the ranks do not agree: {native:?}");
        native[0]
    };
    let all = |slots: &[usize], in_place, touched| -> Vec<Plan> {
        (0..slots.len()).map(|rank| gather(rank, slots, in_place, touched)).collect()
    };
    assert!(is_native(all(&[8, 8, 8], true, false)));
    assert!(is_native(all(&[8, 8, 8], false, false)), "the own place is free");
    assert!(!is_native(all(&[8, 8, 8], false, true)), "the own place holds something else");
    assert!(!is_native(all(&[8, 8, 7], true, false)), "slots differ");
    // One rank whose place is taken decides for all.
    let mut plans = all(&[8, 8, 8], true, false);
    plans[1] = gather(1, &[8, 8, 8], false, true);
    assert!(!is_native(plans));
}

/// Ranks 0 to 3 in pairs both ways, on a stream for each way.
fn crossed(rank: usize, first: u32) -> Plan {
    let mut b = Builder::new(rank, 4);
    let x = b.buffer("x", Role::Input, Dtype::Bf16, [1, 1, 1, 8], None);
    let mut tags = [b.tag(), b.tag()];
    if first == 1 {
        tags.swap(0, 1);
    }
    for (stream, peer, tag) in [("rows", rank ^ 1, tags[0]), ("columns", rank ^ 2, tags[1])] {
        let stream = b.stream(stream);
        let y = b.temp(format!("y{peer}"), Dtype::Bf16, [1, 1, 1, 8]);
        let group = [rank.min(peer), rank.max(peer)];
        let transfers = [(Direction::Send, peer, x), (Direction::Recv, peer, y)];
        b.comm(stream, format!("with {peer}"), CommKind::SendRecv, tag, &group, Dtype::Bf16, &transfers);
    }
    b.finish()
}

#[test]
fn groups_are_split_off_in_rounds_of_disjoint_ones() {
    let plans = check_world((0..4).map(|rank| crossed(rank, 0)).collect()).unwrap();
    let agreement = Agreement::of(&plans, false).unwrap();
    let rounds = Agreement::rounds(agreement.groups.iter().cloned());
    assert_eq!(rounds, [[vec![0, 1], vec![2, 3]], [vec![0, 2], vec![1, 3]]]);
    for (_, plans) in layers(4) {
        let agreement = Agreement::of(&plans, false).unwrap();
        for round in Agreement::rounds(agreement.groups.iter().cloned()) {
            let mut ranks: Vec<u32> = round.into_iter().flatten().collect();
            let all = ranks.len();
            ranks.sort_unstable();
            ranks.dedup();
            assert_eq!(ranks.len(), all, "a rank in two groups of a round");
        }
    }
}

#[test]
fn groups_on_two_streams_run_one_after_the_other() {
    let plans = check_world((0..4).map(|rank| crossed(rank, 0)).collect()).unwrap();
    for program in programs(&plans, false) {
        assert_ordered("crossed", &program);
        let at = |wanted: fn(&Action) -> bool| program.steps.iter().position(|step| wanted(&step.action)).unwrap();
        let (record, wait) = (at(|a| matches!(a, Action::Record(_))), at(|a| matches!(a, Action::Wait(_))));
        let second = program.steps.iter().rposition(|step| matches!(step.action, Action::Group { .. })).unwrap();
        let first = at(|a| matches!(a, Action::Group { .. }));
        assert!(first < record && record < wait && wait < second);
        assert_eq!(program.steps[record].stream, program.steps[first].stream);
        assert_eq!(program.steps[wait].stream, program.steps[second].stream);
    }
}

#[test]
fn tags_that_do_not_ascend_are_refused() {
    let plan = check(crossed(2, 1)).unwrap();
    let plans: Vec<_> = (0..4).map(|rank| check(crossed(rank, 1)).unwrap()).collect();
    let agreement = Agreement::of(&plans, false).unwrap();
    let error = alone(&plan, &plan.lowered(Gates::Events), &agreement).unwrap_err().to_string();
    assert!(error.contains("rank 2, op \"with 0\"") && error.contains("tags in issue order"), "{error}");
}

#[test]
fn loopback_makes_every_message_once_where_it_is_received() {
    for ranks in 1..=4 {
        for (name, plans) in layers(ranks) {
            let (plain, lowered): (Vec<&Plan>, Vec<_>) =
                plans.iter().map(|plan| (&**plan, plan.lowered(Gates::Events))).unzip();
            let program = world(&plain, &lowered.iter().collect::<Vec<_>>()).unwrap();
            assert_ordered(&name, &program);
            let mut bytes: HashMap<usize, u64> = HashMap::new();
            for step in &program.steps {
                let read: Vec<Part> = match &step.action {
                    Action::Message { from, to } if to.rank == step.rank => vec![*from],
                    Action::Sum { from, to } if to.rank == step.rank => {
                        from.iter().map(|place| if let Place::Part(part) = place { *part } else { panic!() }).collect()
                    }
                    Action::Message { .. } | Action::Sum { .. } | Action::Group { .. } => panic!("{name}: {step:?}"),
                    _ => Vec::new(),
                };
                for part in read.iter().filter(|part| part.rank != step.rank) {
                    let plan = &plans[part.rank];
                    *bytes.entry(part.rank).or_default() +=
                        plan.access_bytes(&plan.accesses(part.op)[part.access]) as u64;
                }
            }
            for plan in &plans {
                assert_eq!(bytes.get(&(plan.rank as usize)).copied().unwrap_or(0), plan.bytes_sent(), "{name}");
            }
        }
    }
}
