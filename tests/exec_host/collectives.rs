//! Every kind of communication moves the right bytes, counted as the plan counts them.

use seqpar::dtype::{Dtype, round_to};
use seqpar::exec::host::HostTensor;
use seqpar::plan::{Builder, CommKind, Direction, Plan, Role, View};

use super::plans::{all_gather, counting, lawful, options, rows, run};

fn counts(world: usize) -> Vec<usize> {
    // Uneven, and empty on one rank where there is more than one.
    (0..world).map(|rank| if rank == 1 { 0 } else { 1 + rank * 2 % 5 }).collect()
}

fn sent(plans: &[Plan]) -> Vec<u64> {
    plans.iter().map(Plan::bytes_sent).collect()
}

#[test]
fn all_gather_with_uneven_and_empty_slots() {
    for world in 1..=8 {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let counts = counts(world);
            let plans = all_gather(&counts, 3, dtype);
            let expected = sent(&plans);
            let x = counting([1, counts.iter().sum(), 1, 3], dtype);
            let mut prepared = lawful(plans, options());
            for _ in 0..3 {
                let (out, report) = run(&mut prepared, &[("x", x.clone())]);
                assert_eq!(out["y"], x);
                assert_eq!(report.bytes_sent, expected);
            }
        }
    }
}

/// Rank r holds columns [rank][slot] of `x [1, world, 1, world·k]`; the transposed blocks are `y`.
fn all_to_all(world: usize, k: usize) -> Vec<Plan> {
    let everyone: Vec<usize> = (0..world).collect();
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, world);
        let comm = b.stream("comm");
        let dims = [1, 1, world, k];
        let place = |name: &str| seqpar::plan::Placement {
            tensor: name.into(),
            dims: [1, world, world, k],
            index: [None, Some(seqpar::shard::IndexMap::contiguous(rank..rank + 1)), None, None],
        };
        let x = b.buffer("x", Role::Input, Dtype::F32, dims, Some(place("x")));
        let y = b.buffer("y", Role::Output, Dtype::F32, dims, Some(place("y")));
        let tag = b.tag();
        let others = everyone.iter().filter(|&&r| r != rank);
        let transfers: Vec<(Direction, usize, View)> = others
            .flat_map(|&r| [(Direction::Send, r, x.heads(r..r + 1)), (Direction::Recv, r, y.heads(r..r + 1))])
            .collect();
        b.comm(comm, "transpose", CommKind::AllToAll, tag, &everyone, Dtype::F32, &transfers);
        b.copy(comm, "own", x.heads(rank..rank + 1), y.heads(rank..rank + 1));
        b.finish()
    };
    everyone.iter().map(|&rank| plan(rank)).collect()
}

#[test]
fn all_to_all_transposes_blocks() {
    for world in 1..=8 {
        let k = 5;
        let plans = all_to_all(world, k);
        let expected = sent(&plans);
        let x = counting([1, world, world, k], Dtype::F32);
        let (out, report) = run(&mut lawful(plans, options()), &[("x", x.clone())]);
        let (x, y) = (x.to_f32(), out["y"].to_f32());
        for i in 0..world {
            for j in 0..world {
                assert_eq!(y[(i * world + j) * k..][..k], x[(j * world + i) * k..][..k]);
            }
        }
        assert_eq!(report.bytes_sent, expected);
        assert_eq!(report.bytes_sent, vec![(4 * k * (world - 1)) as u64; world]);
    }
}

/// Rank r holds row r of `x`; `y` is the sum of all rows, in slots or whole on every rank.
fn reduction(kind: CommKind, counts: &[usize], dtype: Dtype) -> Vec<Plan> {
    let world = counts.len();
    let total: usize = counts.iter().sum();
    let everyone: Vec<usize> = (0..world).collect();
    let start = |rank: usize| counts[..rank].iter().sum::<usize>();
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, world);
        let comm = b.stream("comm");
        let x = b.buffer("x", Role::Input, dtype, [1, 1, 1, total], Some(rows("x", world, total, rank, 1)));
        let scatter = kind == CommKind::ReduceScatter;
        let own = if scatter { start(rank)..start(rank) + counts[rank] } else { 0..total };
        let place = seqpar::plan::Placement {
            tensor: "y".into(),
            dims: [1, 1, 1, total],
            index: [None, None, None, Some(seqpar::shard::IndexMap::contiguous(own.clone()))],
        };
        let y = b.buffer("y", Role::Output, dtype, [1, 1, 1, own.len()], Some(place));
        let tag = b.tag();
        let slot = |r: usize| if scatter { x.cols(start(r)..start(r) + counts[r]) } else { x };
        let mut transfers: Vec<(Direction, usize, View)> =
            everyone.iter().map(|&r| (Direction::Send, r, slot(r))).collect();
        transfers.push((Direction::Recv, rank, y));
        b.comm(comm, "sum", kind, tag, &everyone, dtype, &transfers);
        b.finish()
    };
    everyone.iter().map(|&rank| plan(rank)).collect()
}

#[test]
fn reductions_sum_in_group_order_and_round_once() {
    for kind in [CommKind::ReduceScatter, CommKind::AllReduce] {
        for world in 1..=8 {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                let counts = counts(world);
                let total: usize = counts.iter().sum();
                // Values whose sum depends on its order.
                let values: Vec<f32> =
                    (0..world * total).map(|i| (i as f32 * 1.7).sin() * 10f32.powi((i % 5) as i32 - 2)).collect();
                let x = HostTensor::from_f32(dtype, [1, world, 1, total], &values).unwrap();
                let stored = x.to_f32();
                let plans = reduction(kind, &counts, dtype);
                let expected = sent(&plans);
                let (out, report) = run(&mut lawful(plans, options()), &[("x", x)]);
                let sum = |col: usize| (1..world).fold(stored[col], |sum, r| sum + stored[r * total + col]);
                let sums: Vec<f32> = (0..total).map(|col| round_to(dtype, sum(col))).collect();
                assert_eq!(out["y"].to_f32(), sums, "{kind:?} {world} {dtype}");
                assert_eq!(report.bytes_sent, expected);
            }
        }
    }
}

#[test]
fn broadcast_and_a_ring_of_send_recv() {
    for world in 2..=8 {
        let everyone: Vec<usize> = (0..world).collect();
        let plan = |rank: usize| {
            let mut b = Builder::new(rank, world);
            let comm = b.stream("comm");
            let own = rows("x", world, 4, rank, 1);
            let x = b.buffer("x", Role::Input, Dtype::F32, [1, 1, 1, 4], Some(own));
            let y = b.buffer("y", Role::Output, Dtype::F32, [1, 1, 1, 4], Some(rows("y", world, 4, rank, 1)));
            let z = b.buffer("z", Role::Output, Dtype::F32, [1, 1, 1, 4], Some(rows("z", 1, 4, 0, 1)));
            let t = b.temp("t", Dtype::F32, [1, 1, 1, 4]);
            // Two hops to the next rank, in one order of messages each.
            for (step, (from, to)) in [(x, t), (t, y)].into_iter().enumerate() {
                let tag = b.tag();
                let (next, previous) = ((rank + 1) % world, (rank + world - 1) % world);
                let transfers = [
                    (Direction::Send, next, from.cols(0..1)),
                    (Direction::Recv, previous, to.cols(0..1)),
                    (Direction::Send, next, from.cols(1..4)),
                    (Direction::Recv, previous, to.cols(1..4)),
                ];
                b.comm(comm, format!("hop {step}"), CommKind::SendRecv, tag, &everyone, Dtype::F32, &transfers);
            }
            let tag = b.tag();
            if rank == 0 {
                let sends: Vec<_> = (1..world).map(|r| (Direction::Send, r, x)).collect();
                b.comm(comm, "broadcast", CommKind::Broadcast, tag, &everyone, Dtype::F32, &sends);
                b.copy(comm, "own", x, z);
            } else {
                let receive = [(Direction::Recv, 0, z)];
                b.comm(comm, "broadcast", CommKind::Broadcast, tag, &everyone, Dtype::F32, &receive);
            }
            b.finish()
        };
        let plans: Vec<Plan> = everyone.iter().map(|&rank| plan(rank)).collect();
        let expected = sent(&plans);
        let x = counting([1, world, 1, 4], Dtype::F32);
        let (out, report) = run(&mut lawful(plans, options()), &[("x", x.clone())]);
        let (x, y, z) = (x.to_f32(), out["y"].to_f32(), out["z"].to_f32());
        for rank in 0..world {
            assert_eq!(y[4 * ((rank + 2) % world)..][..4], x[4 * rank..][..4]);
        }
        assert_eq!(z, x[..4]);
        assert_eq!(report.bytes_sent, expected);
    }
}

#[test]
fn five_hundred_runs_give_one_answer() {
    let counts = [3, 0, 2, 5];
    let x = counting([1, 10, 1, 64], Dtype::F32);
    let mut prepared = lawful(all_gather(&counts, 64, Dtype::F32), options());
    let mut bindings = prepared.bindings();
    bindings.set("x", &x).unwrap();
    for _ in 0..500 {
        prepared.run(&mut bindings).unwrap();
        assert_eq!(bindings.gather().unwrap()["y"], x);
    }
}

#[test]
fn a_sender_may_not_reuse_its_slot_before_it_is_taken() {
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, 2);
        let (dims, comm) = ([1, 1, 1, 4], b.stream("comm"));
        let (first, second) = (b.tag(), b.tag());
        if rank == 0 {
            let x = b.buffer("x", Role::Input, Dtype::F32, [1, 2, 1, 4], Some(rows("x", 2, 4, 0, 2)));
            let t = b.temp("t", Dtype::F32, dims);
            for (row, tag) in [(0, first), (1, second)] {
                b.copy(comm, "fill", x.rows(row..row + 1), t);
                b.comm(comm, "send", CommKind::SendRecv, tag, &[0, 1], Dtype::F32, &[(Direction::Send, 1, t)]);
            }
        } else {
            let y = b.buffer("y", Role::Output, Dtype::F32, [1, 2, 1, 4], Some(rows("y", 2, 4, 0, 2)));
            b.external(comm, "late", &[]);
            for (row, tag) in [(0, first), (1, second)] {
                let receive = [(Direction::Recv, 0, y.rows(row..row + 1))];
                b.comm(comm, "receive", CommKind::SendRecv, tag, &[0, 1], Dtype::F32, &receive);
            }
        }
        b.finish()
    };
    let mut prepared = lawful(vec![plan(0), plan(1)], options());
    prepared.external(
        "late",
        std::sync::Arc::new(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            Ok(())
        }),
    );
    let x = counting([1, 2, 1, 4], Dtype::F32);
    assert_eq!(run(&mut prepared, &[("x", x.clone())]).0["y"], x);
}
