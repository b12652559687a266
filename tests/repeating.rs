//! Worlds that repeat: what is checked and simulated of a few ranks is what all ranks do.

use seqpar::dtype::Dtype;
use seqpar::exec::sim::{SimMachine, SimOptions, World};
use seqpar::kernel::spec::{Kernel, RopePairs};
use seqpar::mesh::Mesh;
use seqpar::plan::lower::Gates;
use seqpar::plan::{Checked, Direction, OpKind, Plan, Role, Tag, check, check_ranks, check_world};
use seqpar::shard::{Shard, Split, TextShard};
use seqpar::strategy::{AttentionProblem, LayerProblem, Options, Strategy, layer, period};

fn problem(shard: Shard, heads: usize) -> LayerProblem {
    LayerProblem {
        attention: AttentionProblem {
            dtype: Dtype::Bf16,
            batch: 2,
            heads,
            kv_heads: heads / 2,
            head_dim: 8,
            shard,
            key_mask: false,
            key_len: false,
        },
        hidden: 16,
        qkv_bias: true,
        proj_bias: false,
        text_weights: true,
        qk_norm: Some(1e-6),
        rope: Some(RopePairs::Halves),
        mlp: Some(24),
    }
}

/// Meshes, texts and head counts, some that no degree divides, whose plans repeat.
fn cases() -> Vec<(String, LayerProblem, Strategy, Mesh, Options)> {
    let mut cases = Vec::new();
    for (u, r) in [(1, 2), (1, 5), (2, 3), (3, 4), (4, 2), (8, 8)] {
        for text in [0, u * r, 3 * u * r] {
            for replicate in [false, true] {
                for heads in [2, 6, 16] {
                    let ranks = u * r;
                    let tokens = 4 * ranks;
                    let shard = Shard::even(ranks, tokens, tokens, text, replicate).unwrap();
                    let strategy = if u == 1 { Strategy::Ring } else { Strategy::Usp };
                    let options = Options { head_groups: 1 + heads / 6, ..Options::default() };
                    let name = format!("{u} x {r}, text {text} replicated {replicate}, {heads} heads");
                    cases.push((name, problem(shard, heads), strategy, Mesh::new(u, r).unwrap(), options));
                }
            }
        }
    }
    cases
}

/// All that the law and time depend on, with the plan's ranks as rank `shift` later sees them.
/// Left out: where rows of never written inputs stand, and labels.
fn essence(plan: &Checked<Plan>, shift: u32) -> String {
    let named = |rank: u32| (rank + shift) % plan.world;
    let mut text = String::new();
    for id in plan.op_ids() {
        let op = plan.op(id);
        text += &format!("\n{:?} ", op.stream);
        match op.kind {
            OpKind::Kernel(i) => {
                let mut kernel = plan.kernels[i as usize].clone();
                if let Kernel::Attention(spec) = &mut kernel {
                    spec.keys.iter_mut().for_each(|key| key.base = 0);
                }
                text += &format!("{kernel:?}");
            }
            OpKind::Comm(i) => {
                let comm = &plan.comms[i as usize];
                let mut group: Vec<u32> = plan.groups[comm.group as usize].iter().map(|&rank| named(rank)).collect();
                group.sort_unstable();
                let transfers: Vec<(u32, Direction)> =
                    comm.transfers.iter().map(|t| (named(t.peer), t.direction)).collect();
                text += &format!("{:?} {:?} {:?} {group:?} {transfers:?}", comm.kind, comm.tag, comm.dtype);
            }
            other => text += &format!("{other:?}"),
        }
        for access in plan.accesses(id) {
            let buffer = plan.buffer(access.buffer);
            let region = if buffer.role == Role::Input { None } else { Some(access.region) };
            text += &format!(
                " {:?} {:?} {} {:?} {region:?} {} {:?}",
                access.buffer,
                access.mode,
                access.operand,
                access.gate,
                access.region.elems(),
                access.shape
            );
        }
    }
    let buffers: Vec<_> = plan.buffers.iter().map(|b| (b.role, b.dtype, b.dims)).collect();
    text + &format!("\n{buffers:?}\n{:?}\n{:?}\n{:?}", plan.edges(), plan.memory(), plan.lowered(Gates::Flags))
}

#[test]
fn every_rank_does_what_the_rank_a_period_before_does_with_all_ranks_shifted() {
    for (name, problem, strategy, mesh, options) in cases() {
        let n = period(&problem.attention, strategy, &mesh);
        let whole = problem.attention.shard.text.is_replicated();
        assert_eq!(n, if whole { mesh.world() } else { mesh.ulysses }, "{name}");
        let plans: Vec<Checked<Plan>> =
            layer(&problem, strategy, &mesh, &options).unwrap().into_iter().map(|plan| check(plan).unwrap()).collect();
        for (rank, plan) in plans.iter().enumerate() {
            let first = &plans[rank % n];
            assert_eq!(essence(plan, 0), essence(first, (rank - rank % n) as u32), "{name}, rank {rank}");
        }
    }
}

#[test]
fn a_world_that_repeats_is_checked_and_simulated_as_the_whole_is() {
    let machine = SimMachine::named("h100x8-ib").unwrap();
    for (name, problem, strategy, mesh, options) in cases() {
        let whole = check_world(layer(&problem, strategy, &mesh, &options).unwrap()).unwrap();
        let part = whole[..period(&problem.attention, strategy, &mesh)].to_vec();
        check_ranks(&part).unwrap_or_else(|error| panic!("{name}: {error}"));
        let figures = |plans: &[Checked<Plan>]| {
            let mut world = World::new(&machine, SimOptions::default());
            plans.iter().for_each(|plan| world.push(plan).unwrap());
            world.figures().unwrap()
        };
        assert_eq!(figures(&part), figures(&whole), "{name}");
    }
}

#[test]
fn uneven_cuts_do_not_repeat() {
    let attention = |shard: Shard| problem(shard, 6).attention;
    let mesh = Mesh::new(2, 3).unwrap();
    let uneven = attention(Shard::even(6, 25, 25, 0, false).unwrap());
    assert_eq!(period(&uneven, Strategy::Usp, &mesh), 6);
    let rows = Split::latent_rows(2, 6, 2, 6);
    let scattered = attention(Shard::new(rows, TextShard::None).unwrap());
    assert_eq!(period(&scattered, Strategy::Usp, &mesh), 6);
    let even = attention(Shard::even(6, 24, 24, 0, false).unwrap());
    assert_eq!(period(&even, Strategy::Ulysses, &Mesh::new(6, 1).unwrap()), 6);
    // Replicas are worlds of their own.
    assert_eq!(period(&even, Strategy::Usp, &Mesh::with_replicas(2, 1, 2, 3).unwrap()), 12);
}

#[test]
fn broken_parts_are_refused() {
    let shard = Shard::even(12, 48, 48, 0, false).unwrap();
    let mesh = Mesh::new(3, 4).unwrap();
    let plans = layer(&problem(shard, 6), Strategy::Usp, &mesh, &Options::default()).unwrap();
    let part: Vec<Plan> = plans[..3].to_vec();
    let refused = |part: &[Plan]| {
        let checked: Vec<Checked<Plan>> = part.iter().map(|plan| check(plan.clone()).unwrap()).collect();
        check_ranks(&checked).unwrap_err().to_string()
    };
    // One rank's send goes two ranks of the ring on: nobody there waits for it.
    let mut astray = part.clone();
    let comm = astray[1].comms.iter_mut().find(|comm| comm.transfers.iter().any(|t| t.peer > 3)).unwrap();
    comm.transfers.iter_mut().filter(|t| t.direction == Direction::Send).for_each(|t| t.peer = (t.peer + 6) % 12);
    assert!(refused(&astray).contains("make both equal"), "{}", refused(&astray));
    // A tag that only one of three has.
    let mut own = part.clone();
    own[2].comms[0].tag = Tag(9999);
    assert!(refused(&own).contains("every rank of the group issues it"), "{}", refused(&own));
    assert!(refused(&part[1..]).contains("not of rank 0"));
    assert!(refused(&plans[..5]).contains("cannot repeat"));
    assert!(check_ranks(&[]).is_ok(), "nobody owes anything");
}
