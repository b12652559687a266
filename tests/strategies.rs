//! Every strategy's plans: lawful for random problems, refused once they are mutated, of the
//! bytes that the papers promise, and run with exactly the bytes and memory that they state.

mod support;

use seqpar::Error;
use seqpar::dit::{self, Config, DitProblem};
use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostOptions, prepare, run_tensors};
use seqpar::mesh::Mesh;
use seqpar::plan::lower::{Command, Gates, Lowered};
use seqpar::plan::{BufferId, Checked, Direction, OpId, Plan, Role, check_lowered, check_world};
use seqpar::shard::Split;
use seqpar::strategy::{self, AttentionProblem, LayerProblem, Options, Strategy};
use support::cases::{Case, layer_inputs, random_options, random_split};
use support::worlds::{World, random_inputs, worlds};
use support::{Rng, Tensors, options, seed};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

fn fresh() -> Rng {
    let seed = seed();
    eprintln!("SEQPAR_TEST_SEED={seed}");
    Rng(seed)
}

/// A random attention or layer of a random strategy, with what describes it.
fn random_plans(rng: &mut Rng) -> (String, Vec<Plan>) {
    let ranks = rng.within(1, 8);
    let all = worlds(ranks);
    let world = all[rng.below(all.len())];
    let replicas = [1, 1, 2][rng.below(3)];
    let mesh = Mesh::with_replicas(replicas, rng.within(1, 2), world.mesh.ulysses, world.mesh.ring).unwrap();
    let dtype = DTYPES[rng.below(3)];
    let strategy_options = random_options(rng);
    let plain_attention = !world.strategy.needs_weights() && rng.chance(50);
    let cross = plain_attention && rng.chance(50);
    let case = Case::random(rng, dtype, ranks, cross);
    let shard = case.cut(rng, ranks, cross);
    let (what, plans) = if plain_attention {
        ("attention", strategy::attention(&case.problem(shard), world.strategy, &mesh, &strategy_options))
    } else {
        ("layer", strategy::layer(&case.layer(rng, shard), world.strategy, &mesh, &strategy_options))
    };
    let name = format!("{what}, {} {mesh:?} {strategy_options:?} {case:?}", world.name());
    let plans = plans.unwrap_or_else(|error| panic!("{name}: {error}"));
    (name, plans)
}

#[test]
fn random_plans_are_lawful_however_gates_are_lowered() {
    let mut rng = fresh();
    for _ in 0..150 {
        let (name, plans) = random_plans(&mut rng);
        let checked = check_world(plans).unwrap_or_else(|error| panic!("{name}: {error}"));
        for plan in &checked {
            for gates in [Gates::Flags, Gates::Events] {
                check_lowered(plan, &plan.lowered(gates)).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
}

#[test]
fn denoisers_are_lawful_under_every_strategy() {
    let mut rng = fresh();
    for ranks in [1, 2, 3, 4, 8] {
        for world in worlds(ranks) {
            let mesh = Mesh::with_replicas(2, 2, world.mesh.ulysses, world.mesh.ring).unwrap();
            let plans = small_dit(random_split(&mut rng, 16, ranks, 1), world.strategy, &mesh);
            check_world(plans).unwrap_or_else(|error| panic!("{} over {ranks}: {error}", world.name()));
        }
    }
}

fn small_dit(image: Split, strategy: Strategy, mesh: &Mesh) -> Vec<Plan> {
    let config = Config {
        depth: 2,
        hidden: 24,
        heads: 4,
        mlp: 40,
        patch: 2,
        channels: 4,
        out_channels: 8,
        input_size: 8,
        classes: 10,
        frequencies: 16,
    };
    let problem = DitProblem { config, dtype: Dtype::F32, batch: 2, image };
    dit::plan(&problem, strategy, mesh, &Options { gated: true, ..Options::default() }).unwrap()
}

/// Lawful plans of several ranks, one per strategy, to be mutated.
fn victims() -> Vec<(String, Vec<Checked<Plan>>)> {
    let mut list = Vec::new();
    for world in worlds(4).into_iter().chain(worlds(3)) {
        for gated in [false, true] {
            let mut case = Case::plain(Dtype::F32, 24, 8, 8);
            case.text = 12;
            let layer = LayerProblem {
                attention: case.problem(case.even(world.mesh.sequence())),
                hidden: 16,
                qkv_bias: true,
                proj_bias: true,
                text_weights: false,
                qk_norm: Some(1e-6),
                rope: None,
                mlp: Some(24),
            };
            let strategy_options = Options { gated, ..Options::default() };
            let plans = strategy::layer(&layer, world.strategy, &world.mesh, &strategy_options).unwrap();
            list.push((format!("{} gated {gated}", world.name()), check_world(plans).unwrap()));
        }
    }
    list
}

fn plans_of(world: &[Checked<Plan>]) -> Vec<Plan> {
    world.iter().map(|plan| Plan::clone(plan)).collect()
}

/// The op that an error of the law names.
fn named_op<T>(what: &str, result: Result<T, Error>) -> String {
    match result {
        Err(Error::Law { op, .. }) => op,
        Err(other) => panic!("{what}: refused, but not by the law: {other}"),
        Ok(_) => panic!("{what}: accepted"),
    }
}

#[test]
fn a_lost_wait_is_refused_and_named() {
    for (name, world) in victims() {
        for plan in &world {
            for gates in [Gates::Flags, Gates::Events] {
                let lowered = plan.lowered(gates);
                for (what, mutant, loser) in without_each_wait(plan, &lowered) {
                    let op = named_op(&format!("{name} rank {}: {what}", plan.rank), check_lowered(plan, &mutant));
                    // The op that lost its wait, or a later one of its stream that relied on it.
                    let stream = plan.op(loser).stream;
                    let mut later = plan.op_ids().filter(|&id| id >= loser && plan.op(id).stream == stream);
                    assert!(later.any(|id| plan.label(id) == op), "{name}: {what} names \"{op}\"");
                }
            }
        }
    }
}

/// The lowered form with one wait or one gate less, and the op that lost it.
fn without_each_wait(plan: &Plan, lowered: &Lowered) -> Vec<(String, Lowered, OpId)> {
    let mut mutants = Vec::new();
    for (stream, commands) in lowered.streams.iter().enumerate() {
        for (i, command) in commands.iter().enumerate().filter(|(_, command)| matches!(command, Command::Wait(_))) {
            let next = commands[i..].iter().find_map(|c| if let Command::Run(id) = c { Some(*id) } else { None });
            let Some(loser) = next else { continue };
            let mut mutant = lowered.clone();
            mutant.streams[stream].remove(i);
            mutants.push((format!("without {command:?} before \"{}\"", plan.label(loser)), mutant, loser));
        }
    }
    for (i, gate) in lowered.gates.iter().enumerate() {
        let mut mutant = lowered.clone();
        mutant.gates.remove(i);
        mutants.push((format!("without {gate:?}"), mutant, gate.op));
    }
    mutants
}

#[test]
fn swapped_collectives_of_one_size_are_refused_and_named() {
    let mut swapped = 0;
    for (name, world) in victims() {
        for rank in 0..world.len() {
            for (a, b) in alike(&world[rank]) {
                let mut plans = plans_of(&world);
                let plan = &mut plans[rank];
                let (i, j) = (comm_index(plan, a), comm_index(plan, b));
                let tag = plan.comms[i].tag;
                plan.comms[i].tag = plan.comms[j].tag;
                plan.comms[j].tag = tag;
                // One of the two, or one between them that no longer has its place in the order.
                let labels: Vec<String> = (a.0..=b.0).map(|id| plan.label(OpId(id)).to_string()).collect();
                let op = named_op(&format!("{name} rank {rank}: {labels:?}, ends swapped"), check_world(plans));
                assert!(labels.contains(&op), "{name}: {labels:?}, ends swapped, names \"{op}\"");
                swapped += 1;
            }
        }
    }
    assert!(swapped > 20, "only {swapped} pairs were alike");
}

fn comm_index(plan: &Plan, id: OpId) -> usize {
    plan.comms.iter().position(|comm| Some(comm.tag) == plan.comm(id).map(|c| c.tag)).unwrap()
}

/// Pairs of communications that nothing but their tags tells apart.
fn alike(plan: &Plan) -> Vec<(OpId, OpId)> {
    let shape = |id: OpId| {
        let comm = plan.comm(id)?;
        let bytes = plan.accesses(id).iter().map(|access| plan.access_bytes(access));
        let ends: Vec<_> = comm.transfers.iter().map(|t| (t.peer, t.direction)).zip(bytes).collect();
        Some((comm.kind, comm.group, comm.dtype, ends))
    };
    let comms: Vec<OpId> = plan.op_ids().filter(|&id| plan.comm(id).is_some()).collect();
    let mut pairs = Vec::new();
    for (i, &a) in comms.iter().enumerate() {
        pairs.extend(comms[i + 1..].iter().filter(|&&b| shape(a) == shape(b)).map(|&b| (a, b)));
    }
    pairs
}

#[test]
fn a_changed_count_is_refused_and_named() {
    let mut changed = 0;
    for (name, world) in victims() {
        for rank in 0..world.len() {
            for id in world[rank].op_ids().filter(|&id| world[rank].comm(id).is_some()) {
                let comm = world[rank].comm(id).unwrap();
                // The sum of a reduction has no count of its own that a peer could contradict.
                let to_others = |i: &usize| comm.transfers[*i].peer as usize != rank;
                for i in (0..comm.transfers.len()).filter(to_others) {
                    let mut plans = plans_of(&world);
                    let at = world[rank].op(id).first_access as usize + i;
                    let access = &mut plans[rank].accesses[at];
                    let extents = access.region.extents();
                    let Some(dim) = (0..4).find(|&dim| extents[dim] > 1) else { continue };
                    access.region.end[dim] -= 1;
                    access.shape = access.region.extents();
                    let label = world[rank].label(id);
                    let op = named_op(&format!("{name} rank {rank}: \"{label}\" one less"), check_world(plans));
                    // A smaller receive also leaves what its reader needs unwritten.
                    let received = comm.transfers[i].direction == Direction::Recv;
                    let buffer = world[rank].accesses(id)[i].buffer;
                    let readers = world[rank].op_ids().filter(|&r| touches(&world[rank], r, buffer));
                    let known = op == label || received && readers.into_iter().any(|r| world[rank].label(r) == op);
                    assert!(known, "{name}: \"{label}\" one less names \"{op}\"");
                    changed += 1;
                }
            }
        }
    }
    assert!(changed > 100, "only {changed} counts were changed");
}

fn touches(plan: &Plan, id: OpId, buffer: BufferId) -> bool {
    plan.accesses(id).iter().any(|access| access.buffer == buffer)
}

#[test]
fn a_read_outside_what_was_written_is_refused_and_named() {
    let mut moved = 0;
    for (name, world) in victims() {
        for plan in &world {
            for id in plan.op_ids() {
                for (i, access) in plan.accesses(id).iter().enumerate() {
                    let in_temp = plan.buffer(access.buffer).role == Role::Temp;
                    if !in_temp || !access.mode.reads() {
                        continue;
                    }
                    let mut plans = plans_of(&world);
                    let mutant = &mut plans[plan.rank as usize];
                    // Room that nobody writes, behind everything that is written.
                    let depth = mutant.buffers[access.buffer.0 as usize].dims[0] as u32;
                    mutant.buffers[access.buffer.0 as usize].dims[0] *= 2;
                    let read = &mut mutant.accesses[plan.op(id).first_access as usize + i];
                    read.region.start[0] += depth;
                    read.region.end[0] += depth;
                    let what = format!("{name} rank {}: \"{}\" reads beyond", plan.rank, plan.label(id));
                    assert_eq!(named_op(&what, check_world(plans)), plan.label(id), "{what}");
                    moved += 1;
                }
            }
        }
    }
    assert!(moved > 100, "only {moved} reads were moved");
}

/// Even sizes: the closed forms of the papers, in bytes, with V = B·N·C·e.
#[test]
fn bytes_are_those_of_the_closed_forms() {
    for (dtype, kv_heads) in [(Dtype::F32, 24), (Dtype::Bf16, 24), (Dtype::F16, 48)] {
        let (batch, tokens, heads, d, e) = (2, 48, 48, 4, dtype.bytes());
        let v = (batch * tokens * heads * d * e) as f64;
        let shared = kv_heads as f64 / heads as f64;
        for ranks in [1usize, 2, 3, 4, 6, 8] {
            for World { strategy, mesh } in worlds(ranks) {
                let case = Case { batch, kv_heads, ..Case::plain(dtype, tokens, heads, d) };
                let attention: AttentionProblem = case.problem(case.even(ranks));
                let layer = LayerProblem {
                    attention: attention.clone(),
                    hidden: heads * d,
                    qkv_bias: false,
                    proj_bias: true,
                    text_weights: false,
                    qk_norm: None,
                    rope: None,
                    mlp: Some(4 * heads * d),
                };
                let (p, u, r) = (ranks as f64, mesh.ulysses as f64, mesh.ring as f64);
                let want = match strategy {
                    Strategy::Single => 0.0,
                    Strategy::Fastseq => v * (p - 1.0) / p + v * (p - 1.0) / (p * p),
                    Strategy::Ulysses => (2.0 + 2.0 * shared) * v * (p - 1.0) / (p * p),
                    Strategy::Ring | Strategy::KvGather => 2.0 * v * (p - 1.0) / p * shared,
                    Strategy::Usp => v / p * ((2.0 + 2.0 * shared) * (u - 1.0) / u + 2.0 * (r - 1.0) * shared),
                    // Two gathers in the storage type, two reductions in f32.
                    Strategy::Megatron => 2.0 * v * (p - 1.0) / p * (1.0 + 4.0 / e as f64),
                    other => panic!("no closed form of {} yet: add it", other.name()),
                };
                for head_groups in [1, 4] {
                    let strategy_options = Options { head_groups, ..Options::default() };
                    let plans = strategy::layer(&layer, strategy, &mesh, &strategy_options).unwrap();
                    for plan in plans {
                        let name = format!("{} {u}x{r} {dtype} rank {}", strategy.name(), plan.rank);
                        assert_eq!(plan.bytes_sent() as f64, want.round(), "{name}");
                    }
                    if !strategy.needs_weights() {
                        let plans = strategy::attention(&attention, strategy, &mesh, &strategy_options).unwrap();
                        assert!(plans.iter().all(|plan| plan.bytes_sent() as f64 == want.round()));
                    }
                }
            }
        }
    }
}

/// Runs the world and compares what it reports with what its plans state.
fn states_its_bytes_and_memory(name: &str, plans: Vec<Plan>, inputs: &Tensors, host: HostOptions) {
    let checked = check_world(plans).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bytes: Vec<u64> = checked.iter().map(|plan| plan.bytes_sent()).collect();
    let peaks: Vec<usize> = checked.iter().map(|plan| plan.memory().peak_bytes).collect();
    let mut prepared = prepare(checked, host).unwrap();
    for _ in 0..2 {
        let (_, report) = run_tensors(&mut prepared, inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(report.bytes_sent, bytes, "{name}: bytes sent");
        assert_eq!(report.peak_bytes, peaks, "{name}: peak bytes");
    }
}

#[test]
fn runs_send_the_bytes_and_use_the_memory_of_their_plans() {
    let mut rng = fresh();
    for ranks in [1, 2, 4, 8] {
        for world in worlds(ranks) {
            for replicate in [false, true] {
                let mut case = Case::plain(DTYPES[rng.below(3)], 4 * ranks + rng.within(1, 3), 6, 8);
                case.text = 7;
                case.replicate = replicate;
                case.batch = 2;
                let shard = case.cut(&mut rng, ranks, false);
                let layer = case.layer(&mut rng, shard);
                let inputs = layer_inputs(&case, &layer, &mut rng);
                let plans = strategy::layer(&layer, world.strategy, &world.mesh, &random_options(&mut rng)).unwrap();
                states_its_bytes_and_memory(&world.name(), plans, &inputs, options(1));
            }
            let plans = small_dit(Split::even(16, ranks), world.strategy, &world.mesh);
            let inputs = random_inputs(&plans, &mut rng, 11);
            states_its_bytes_and_memory(&format!("dit {}", world.name()), plans, &inputs, options(2));
        }
    }
}
