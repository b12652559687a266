//! What kernels and copies really touch is what the plan's ops declare: the assumption under the
//! law. Whole layers run through the CUDA executor on the mock driver, which records every byte that
//! each operation touches; each op is held to its regions, byte by byte (strided regions have
//! gaps): all that it touches is declared, all that it declares as written is written, and without
//! masks and lengths all that it declares as read is read.
//!
//! Kernels alone, over all families and variants: `tests/emulated_accesses.rs` and the check in
//! `tests/emulation/kernels.rs` behind every emulated test.
#![cfg(feature = "cuda")]

mod emulation;
mod mock;
mod support;

use std::collections::HashMap;

use seqpar::cuda::{DeviceMemory, Priority, Stream};
use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{CudaOptions, Kernels, Prepared, prepare};
use seqpar::kernel::TensorView;
use seqpar::kernel::spec::{Mode, RopePairs};
use seqpar::plan::lower::Gates;
use seqpar::plan::{Access, BufferId, Checked, Direction, OpId, Plan, Region, Role, check_world};
use seqpar::strategy::{self, LayerProblem, Options};

use emulation::accesses::{Bytes, Declared, Touched};
use emulation::kernels::element;
use mock::workload::context;
use mock::{Mock, on_mock};
use support::Rng;
use support::cases::Case;
use support::worlds::{World, worlds};

/// Compute capability, what gates become, and whether the world is captured.
type Way = (u32, Gates, bool);

const WAYS: [Way; 4] =
    [(90, Gates::Flags, false), (90, Gates::Events, true), (80, Gates::Flags, true), (80, Gates::Events, false)];

fn layer(case: &Case, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: 48,
        qkv_bias: true,
        proj_bias: true,
        text_weights: case.mask,
        qk_norm: Some(1e-6),
        rope: Some(if case.mask { RopePairs::Halves } else { RopePairs::Interleaved }),
        mlp: (!case.mask).then_some(48),
    }
}

fn plans(case: &Case, world: &World, ranks: usize) -> Vec<Checked<Plan>> {
    let options = Options { gated: true, ..Options::default() };
    check_world(strategy::layer(&layer(case, ranks), world.strategy, &world.mesh, &options).unwrap()).unwrap()
}

/// Text and image without limits; grouped heads of 72 channels, masks, lengths, a replicated text.
fn cases() -> [Case; 2] {
    let limited =
        Case { batch: 2, text: 3, replicate: true, mask: true, lengths: true, ..Case::plain(Dtype::F16, 13, 4, 72) };
    [Case { text: 6, ..Case::plain(Dtype::Bf16, 22, 4, 64) }, Case { kv_heads: 2, ..limited }]
}

/// A run of a world: where its buffers lie and what each op touched.
struct Ran {
    plans: Vec<Plan>,
    addresses: Vec<Vec<u64>>,
    /// Arenas and bound buffers; what lies elsewhere is the executor's own.
    world: Bytes,
    touched: HashMap<(usize, OpId), Touched>,
    flags: HashMap<(usize, OpId), usize>,
}

fn run(mock: &Mock, plans: Vec<Checked<Plan>>, (capability, gates, graph): Way, what: &str) -> Ran {
    mock.reset("eager", 1);
    mock.configure(&format!("record=1 check=0 capability={capability}"));
    let context = context();
    // SAFETY: the mock does not read images.
    let kernels = unsafe { Kernels::load(&context, &[b"any image"]) }.unwrap();
    let mut options = CudaOptions::default();
    (options.gates, options.graph, options.poison) = (gates, graph, false);
    let mut flags: HashMap<(usize, OpId), usize> = HashMap::new();
    let mut world = Bytes::default();
    let own: Vec<Plan> = plans.iter().map(|plan| (**plan).clone()).collect();
    let offsets: Vec<_> = plans.iter().map(|plan| plan.memory().clone()).collect();
    for (rank, plan) in plans.iter().enumerate() {
        plan.lowered(gates).gates.iter().for_each(|gate| *flags.entry((rank, gate.op)).or_default() += 1);
    }
    let prepared = prepare(context, kernels, plans, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let stream = Stream::new(Priority::Low).unwrap();
    let memory = bound_memory(&prepared, &own, &stream);
    let of = |rank: usize, id: usize| memory[rank][id].as_ref().map(DeviceMemory::address);
    let bind: Vec<Vec<Option<u64>>> =
        own.iter().enumerate().map(|(rank, plan)| (0..plan.buffers.len()).map(|id| of(rank, id)).collect()).collect();
    let mut addresses = Vec::new();
    for (rank, plan) in own.iter().enumerate() {
        let temporary = |id: usize| prepared.temporary(rank, BufferId(id as u32));
        addresses.push((0..plan.buffers.len()).map(|id| of(rank, id).or(temporary(id)).unwrap()).collect::<Vec<u64>>());
        for (id, buffer) in plan.buffers.iter().enumerate() {
            match offsets[rank].offsets[id] {
                Some(offset) => world.add(addresses[rank][id] - offset as u64, offsets[rank].arena_bytes as u64),
                None => world.add(addresses[rank][id], buffer.bytes() as u64),
            }
        }
    }
    // SAFETY: `memory` outlives the run and is used by nothing else.
    let mut bound = unsafe { prepared.bind(&bind) }.unwrap_or_else(|e| panic!("{what}: {e}"));
    let launches = bound.launches();
    let before = mock.ran().len();
    bound.run(&stream).unwrap_or_else(|e| panic!("{what}: {e}"));
    bound.finish().unwrap_or_else(|e| panic!("{what}: {e}"));
    let ran = mock.ran().into_iter().skip(before);
    // Anything else is an event, a fill of the flags, a flag raised or waited for.
    let kernels = emulation::Emulator::shared().symbols();
    let moves: Vec<mock::Ran> = ran.filter(|ran| ran.label == "copy_DtoD" || kernels.contains(&ran.label)).collect();
    assert_eq!(moves.len(), launches.len(), "{what}");
    let mut touched: HashMap<(usize, OpId), Touched> = HashMap::new();
    launches.into_iter().zip(&moves).for_each(|(op, ran)| touched.entry(op).or_default().add_all(&ran.touched));
    mock.assert_clean(what);
    Ran { plans: own, addresses, world, touched, flags }
}

/// Inputs with values that suit their dtypes, outputs undefined.
fn bound_memory(prepared: &Prepared, plans: &[Plan], stream: &Stream) -> Vec<Vec<Option<DeviceMemory>>> {
    let mut rng = Rng(5);
    let mut memory = Vec::new();
    for (rank, plan) in plans.iter().enumerate() {
        assert_eq!(prepared.plans().nth(rank), Some(plan));
        let of = plan.buffers.iter().map(|buffer| {
            let of = DeviceMemory::new(buffer.bytes()).unwrap();
            if buffer.role == Role::Input {
                let value = |rng: &mut Rng| match buffer.dtype {
                    Dtype::U8 => rng.below(2) as f32,
                    Dtype::I32 => rng.below(20) as f32,
                    _ => rng.normal(),
                };
                let bytes: Vec<u8> = (0..buffer.elems()).flat_map(|_| element(buffer.dtype, value(&mut rng))).collect();
                of.write(0, &bytes, stream).unwrap();
            }
            (buffer.role != Role::Temp).then_some(of)
        });
        memory.push(of.collect());
    }
    stream.synchronize().unwrap();
    memory
}

impl Ran {
    fn bytes(&self, rank: usize, access: &Access, region: Region) -> Bytes {
        let buffer = self.plans[rank].buffer(access.buffer);
        let dims = buffer.dims;
        let mut bytes = Bytes::default();
        if !region.is_empty() {
            bytes.add_view(&TensorView {
                address: self.addresses[rank][access.buffer.0 as usize]
                    + (region.offset(dims) * buffer.dtype.bytes()) as u64,
                dtype: buffer.dtype,
                shape: region.extents(),
                strides: [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1],
            });
        }
        bytes
    }

    /// What an op declares; a receiver reads what its senders declare to send to it. `alter` may
    /// change the mode and region of an access.
    fn declared(&self, rank: usize, op: OpId, alter: impl Fn(usize, Mode, Region) -> (Mode, Region)) -> Declared {
        let plan = &self.plans[rank];
        let mut declared = Declared::default();
        for (i, access) in plan.accesses(op).iter().enumerate() {
            let (mode, region) = alter(i, access.mode, access.region);
            declared.add_bytes(mode, &self.bytes(rank, access, region));
        }
        let Some(comm) = plan.comm(op) else { return declared };
        for &sender in &plan.groups[comm.group as usize] {
            let sender = sender as usize;
            let of = &self.plans[sender];
            let mut ops = of.op_ids().filter(|id| of.comm(*id).is_some_and(|other| other.tag == comm.tag));
            let sends = ops.next().unwrap();
            for (transfer, access) in of.comm(sends).unwrap().transfers.iter().zip(of.accesses(sends)) {
                if (transfer.direction, transfer.peer as usize) == (Direction::Send, rank) && sender != rank {
                    declared.add_bytes(Mode::Read, &self.bytes(sender, access, access.region));
                }
            }
        }
        declared
    }

    /// Of what an op touched that which belongs to the world's buffers; the rest must be scratch
    /// that the op itself wrote, and flags.
    fn touched(&self, rank: usize, op: OpId) -> Touched {
        let all = self.touched.get(&(rank, op)).cloned().unwrap_or_default();
        let label = self.plans[rank].label(op);
        let scratch = all.reads.minus(&self.world).minus(&all.writes);
        assert!(scratch.is_empty(), "rank {rank} {label} reads scratch that it did not write: {:x?}", scratch.runs());
        let flags = self.flags.get(&(rank, op)).copied().unwrap_or(0) as u64;
        assert!(all.acquired.count() <= 4 * flags, "rank {rank} {label}: {flags} flags, {:x?}", all.acquired.runs());
        let acquired = all.acquired.and(&self.world);
        Touched {
            reads: all.reads.and(&self.world),
            writes: all.writes.and(&self.world),
            acquired,
            released: all.released,
        }
    }

    fn ops(&self) -> impl Iterator<Item = (usize, OpId)> + '_ {
        self.plans.iter().enumerate().flat_map(|(rank, plan)| plan.op_ids().map(move |op| (rank, op)))
    }
}

#[test]
fn ops_touch_what_they_declare_and_write_all_of_it() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let (mut ops, mut bytes) = (0, 0);
        for case in cases() {
            let all = (1..=4).flat_map(|ranks| worlds(ranks).into_iter().map(move |world| (ranks, world)));
            // Four ranks for what needs them.
            for (ranks, world) in all.filter(|(ranks, world)| *ranks < 4 || world.mesh.ulysses == 2) {
                for way in WAYS {
                    let what = format!("{} of {ranks}, {way:?}", world.name());
                    let ran = run(mock, plans(&case, &world, ranks), way, &what);
                    for (rank, op) in ran.ops() {
                        let (touched, declared) = (ran.touched(rank, op), ran.declared(rank, op, |_, m, r| (m, r)));
                        let label = ran.plans[rank].label(op);
                        let mut breaches = declared.breaches(&touched);
                        let idle = declared.reads.minus(&touched.reads);
                        let sent = ran.plans[rank].comm(op).is_some();
                        if !case.mask && !sent && !idle.is_empty() {
                            breaches.push(format!("declares reads that it does not: {:x?}", idle.runs()[0]));
                        }
                        assert!(breaches.is_empty(), "{what}, rank {rank}, {label}:\n{}", breaches.join("\n"));
                        ops += 1;
                        bytes += touched.reads.count() + touched.writes.count();
                    }
                }
            }
        }
        println!("{ops} ops touched {bytes} bytes, all of them declared");
        assert!(ops > 500, "{ops} ops");
    });
}

/// Each access of each op made smaller by an index, and each mode weakened: found.
#[test]
fn a_spec_that_declares_too_little_is_found() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = &cases()[0];
        let (mut found, mut tried) = (0, 0);
        for (at, world) in worlds(2).into_iter().enumerate() {
            let ran = run(mock, plans(case, &world, 2), WAYS[at % 4], &world.name());
            for (rank, op) in ran.ops() {
                let touched = ran.touched(rank, op);
                let sends = |i: usize| {
                    let transfer = ran.plans[rank].comm(op).and_then(|comm| comm.transfers.get(i));
                    transfer.is_some_and(|transfer| transfer.direction == Direction::Send)
                };
                // What is sent is read in the name of its receivers.
                for i in (0..ran.plans[rank].accesses(op).len()).filter(|i| !sends(*i)) {
                    for weaker in weakened(&ran.plans[rank].accesses(op)[i]) {
                        let alter = |j: usize, mode, region| if i == j { weaker } else { (mode, region) };
                        tried += 1;
                        let breaches = ran.declared(rank, op, alter).breaches(&touched);
                        let access = &ran.plans[rank].accesses(op)[i];
                        assert!(!breaches.is_empty(), "{}: {access:?} as {weaker:?}", ran.plans[rank].label(op));
                        found += 1;
                    }
                }
            }
        }
        println!("{found} of {tried} declarations of too little found");
        assert!(tried > 300, "{tried} declarations");
    });
}

fn weakened(access: &Access) -> Vec<(Mode, Region)> {
    let mut list = Vec::new();
    for dim in 0..4 {
        let (mut first, mut last) = (access.region, access.region);
        first.start[dim] += 1;
        last.end[dim] -= 1;
        list.extend([(access.mode, first), (access.mode, last)]);
    }
    match access.mode {
        Mode::Update => list.extend([(Mode::Read, access.region), (Mode::Write, access.region)]),
        Mode::Write => list.push((Mode::Read, access.region)),
        Mode::Read => {}
    }
    list
}
