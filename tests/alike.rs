//! Ranks that are alike: what is checked and simulated of one of them is what all do.

use seqpar::dit::{Config, DitProblem, plan};
use seqpar::dtype::Dtype;
use seqpar::exec::sim::{Figures, SimMachine, SimOptions, World};
use seqpar::kernel::spec::{Kernel, RopePairs};
use seqpar::mesh::Mesh;
use seqpar::plan::lower::Gates;
use seqpar::plan::{Alike, Checked, Direction, OpKind, Plan, Tag, check, check_ranks, check_world};
use seqpar::shard::{IndexMap, Shard, Split, TextShard};
use seqpar::strategy::{AttentionProblem, LayerProblem, Options, Strategy, alike, attention, layer};

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

struct Case {
    name: String,
    problem: LayerProblem,
    strategy: Strategy,
    mesh: Mesh,
    options: Options,
}

impl Case {
    fn alike(&self) -> Alike {
        alike(&self.problem.attention, self.strategy, &self.mesh)
    }

    fn plans(&self) -> Vec<Plan> {
        layer(&self.problem, self.strategy, &self.mesh, &self.options).unwrap()
    }
}

/// Meshes, image and text tokens and head counts, some that no degree divides.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (u, r) in [(1, 2), (1, 5), (2, 3), (3, 1), (3, 4), (4, 2), (8, 1), (8, 5)] {
        for more in [0, 1, 2 * u + 1] {
            for text in [0, u * r, 3 * u * r, u + 1] {
                for (replicate, heads) in [(false, 2), (false, 6), (false, 16), (true, 16)] {
                    let ranks = u * r;
                    let tokens = 4 * ranks + more % ranks;
                    let shard = Shard::even(ranks, tokens, tokens, text, replicate).unwrap();
                    let strategy = match (u, r) {
                        (1, _) => Strategy::Ring,
                        (_, 1) => Strategy::Ulysses,
                        _ => Strategy::Usp,
                    };
                    let name = format!("{u} x {r}, {tokens} + {text} tokens, replicated {replicate}, {heads} heads");
                    let options = Options { head_groups: 1 + heads / 6, ..Options::default() };
                    let mesh = Mesh::new(u, r).unwrap();
                    cases.push(Case { name, problem: problem(shard, heads), strategy, mesh, options });
                }
            }
        }
    }
    cases
}

/// All that the law between ranks and time depend on, with the plan's ranks as `named`. Left out:
/// labels, which heads and which rows of a buffer are meant (but not how many), and of what.
fn essence(plan: &Checked<Plan>, named: impl Fn(u32) -> u32) -> String {
    let mut text = String::new();
    for id in plan.op_ids() {
        let op = plan.op(id);
        text += &format!("\n{:?} ", op.stream);
        match op.kind {
            OpKind::Kernel(i) => {
                let mut kernel = plan.kernels[i as usize].clone();
                if let Kernel::Attention(spec) = &mut kernel {
                    spec.keys.iter_mut().for_each(|key| key.base = 0);
                    (spec.first_head, spec.first_kv_head) = (0, 0);
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
            text += &format!(
                " {:?} {:?} {} {:?} {:?} {:?}",
                access.buffer,
                access.mode,
                access.operand,
                access.gate,
                access.region.extents(),
                access.shape
            );
        }
    }
    let buffers: Vec<_> = plan.buffers.iter().map(|b| (b.role, b.dtype, b.dims)).collect();
    text + &format!("\n{buffers:?}\n{:?}\n{:?}\n{:?}", plan.edges(), plan.memory(), plan.lowered(Gates::Flags))
}

/// Holds every rank's own plan to the law and to the plan of the rank that it is like; the number of
/// ranks that are like another.
fn hold_to_firsts(name: &str, alike: &Alike, plans: Vec<Plan>) -> usize {
    let plans: Vec<Checked<Plan>> = plans.into_iter().map(|plan| check(plan).unwrap()).collect();
    assert_eq!(plans.len(), alike.world(), "{name}");
    let mut shared = 0;
    for (rank, plan) in plans.iter().enumerate() {
        let (first, names) = (alike.first(rank), alike.names(rank));
        assert_eq!(names.of(first as u32), rank as u32, "{name}");
        let mut all: Vec<u32> = (0..alike.world() as u32).map(|rank| names.of(rank)).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..alike.world() as u32), "{name}: two ranks of one name");
        if first != rank {
            shared += 1;
            let theirs = essence(&plans[first], |rank| names.of(rank));
            assert_eq!(essence(plan, |rank| rank), theirs, "{name}, rank {rank} like {first}");
        }
    }
    shared
}

#[test]
fn ranks_that_are_alike_do_the_same_by_other_names() {
    let shared: usize = cases().iter().map(|case| hold_to_firsts(&case.name, &case.alike(), case.plans())).sum();
    assert!(shared > 900, "only {shared} ranks were like others");
}

#[test]
fn so_do_they_in_an_attention_alone_and_in_a_whole_model() {
    let mut shared = 0;
    for case in cases() {
        let Case { name, problem, strategy, mesh, options } = &case;
        let plans = attention(&problem.attention, *strategy, mesh, options).unwrap();
        shared += hold_to_firsts(&format!("attention, {name}"), &case.alike(), plans);
    }
    let config = Config { depth: 2, hidden: 48, heads: 6, mlp: 96, ..Config::small(2, 12) };
    for strategy in Strategy::ALL {
        for ranks in [2, 3, 6, 8] {
            let Ok(mesh) = strategy.mesh(ranks, None, None, config.heads, config.heads) else { continue };
            let image = Split::even(config.tokens(), ranks);
            let problem = DitProblem { config: config.clone(), dtype: Dtype::F32, batch: 2, image };
            let Ok(plans) = plan(&problem, strategy, &mesh, &Options::default()) else { continue };
            let alike = alike(&problem.attention().unwrap(), strategy, &mesh);
            shared += hold_to_firsts(&format!("model, {} over {ranks}", strategy.name()), &alike, plans);
        }
    }
    assert!(shared > 900, "only {shared} ranks were like others");
}

#[test]
fn a_world_of_which_one_of_a_kind_is_known_is_checked_and_simulated_as_the_whole_is() {
    let machines = ["h100x8-ib", "cpu"].map(|name| SimMachine::named(name).unwrap());
    for case in cases() {
        let alike = case.alike();
        let whole = check_world(case.plans()).unwrap();
        let part: Vec<Checked<Plan>> = alike.firsts().map(|rank| whole[rank].clone()).collect();
        check_ranks(&part, &alike).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for machine in machines.iter().filter(|machine| machine.ranks >= whole.len()) {
            let figures = |plans: &[Checked<Plan>], of: &dyn Fn(&World) -> Figures| {
                let mut world = World::new(machine, SimOptions::default());
                plans.iter().for_each(|plan| world.push(plan).unwrap());
                of(&world)
            };
            let of_part = figures(&part, &|world| world.figures_alike(&alike).unwrap());
            let of_whole = figures(&whole, &|world| world.figures().unwrap());
            assert_eq!(of_part, of_whole, "{} on {}", case.name, machine.name);
        }
    }
}

#[test]
fn who_is_alike() {
    let attention = |shard: Shard, heads: usize| problem(shard, heads).attention;
    let firsts = |attention: &AttentionProblem, strategy: Strategy, u: usize, r: usize| {
        alike(attention, strategy, &Mesh::new(u, r).unwrap()).firsts().collect::<Vec<usize>>()
    };
    let usp = |attention: &AttentionProblem| firsts(attention, Strategy::Usp, 2, 3);
    let whole: Vec<usize> = (0..6).collect();
    let even = |heads| attention(Shard::even(6, 24, 24, 0, false).unwrap(), heads);
    assert_eq!(usp(&even(8)), [0]);
    assert_eq!(firsts(&even(24), Strategy::Ulysses, 6, 1), [0]);
    assert_eq!(firsts(&even(8), Strategy::Ring, 1, 6), [0]);
    // Key heads that no degree divides.
    assert_eq!(usp(&even(6)), [0, 1]);
    // 5, 4 | 4, 4 | 4, 4 tokens: no two groups see the same sizes in turn.
    assert_eq!(usp(&attention(Shard::even(6, 25, 25, 0, false).unwrap(), 8)), [0, 1, 2, 4]);
    assert_eq!(usp(&attention(Shard::even(6, 24, 24, 2, false).unwrap(), 8)), [0, 2, 4]);
    assert_eq!(usp(&attention(Shard::even(6, 24, 24, 2, true).unwrap(), 8)), whole);
    assert_eq!(firsts(&even(8), Strategy::Fastseq, 6, 1), whole);
    let rows = Split::latent_rows(2, 6, 2, 6);
    assert_eq!(usp(&attention(Shard::new(rows, TextShard::None).unwrap(), 8)), whole);
    // Chunks in another order than the ranks: what a group holds is one run here, two there.
    let chunk = |i: usize| IndexMap::contiguous(4 * i..4 * i + 4);
    let shuffled = Split::from_maps(24, [0, 2, 1, 3, 4, 5].map(chunk).to_vec()).unwrap();
    assert_eq!(usp(&attention(Shard::new(shuffled, TextShard::None).unwrap(), 8)), whole);
    // Replicas are worlds of their own.
    let replicas = alike(&even(8), Strategy::Usp, &Mesh::with_replicas(2, 1, 2, 3).unwrap());
    assert_eq!(replicas, Alike::none(12));
}

#[test]
fn broken_parts_are_refused() {
    let shard = Shard::even(12, 48, 48, 0, false).unwrap();
    let mesh = Mesh::new(3, 4).unwrap();
    let problem = problem(shard, 8);
    let plans = layer(&problem, Strategy::Usp, &mesh, &Options::default()).unwrap();
    let alike = alike(&problem.attention, Strategy::Usp, &mesh);
    let part: Vec<Plan> = plans[..3].to_vec();
    let checked =
        |part: &[Plan]| -> Vec<Checked<Plan>> { part.iter().map(|plan| check(plan.clone()).unwrap()).collect() };
    let refused = |part: &[Plan]| check_ranks(&checked(part), &alike).unwrap_err().to_string();
    check_ranks(&checked(&part), &alike).unwrap();
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
    assert!(refused(&plans[..5]).contains("5 plans where 3 of 12 ranks have their own"));
    assert!(check_ranks(&[], &Alike::none(0)).is_ok(), "nobody owes anything");
    let machine = SimMachine::named("h100x8-ib").unwrap();
    let mut world = World::new(&machine, SimOptions::default());
    checked(&part[..2]).iter().for_each(|plan| world.push(plan).unwrap());
    assert!(world.figures_alike(&alike).unwrap_err().to_string().contains("2 plans of a world of 12"));
    assert!(world.push(&checked(&part)[1]).unwrap_err().to_string().contains("in order"));
}
