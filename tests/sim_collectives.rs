//! Communication on GPU machines: closed forms, calibration data, shared ports, SMs.

use seqpar::dit::models::Model;
use seqpar::exec::Report;
use seqpar::exec::collective::Collective;
use seqpar::exec::sim::{Device, Gpu, Launch, SimMachine, SimOptions, Transport, World, simulate};
use seqpar::plan::check_world;
use seqpar::strategy::{Options, Strategy, layer};

const MIB: u64 = 1 << 20;

fn machine(name: &str) -> SimMachine {
    SimMachine::named(name).unwrap()
}

fn gpu(machine: &SimMachine) -> &Gpu {
    match &machine.device {
        Device::Gpu(gpu) => gpu,
        other => panic!("{} is {other:?}", machine.name),
    }
}

fn seconds(machine: &SimMachine, of: Collective, bytes: u64, ranks: usize, options: SimOptions) -> f64 {
    let mut world = World::new(machine, options);
    let plans = check_world(of.plans(bytes, ranks).unwrap()).unwrap();
    plans.iter().for_each(|plan| world.push(plan).unwrap());
    world.figures().unwrap().wall_ns as f64 / 1e9
}

/// Bus bandwidth, GB/s.
fn bus(machine: &SimMachine, of: Collective, bytes: u64, ranks: usize) -> f64 {
    bytes as f64 * of.bus_factor(ranks) / seconds(machine, of, bytes, ranks, SimOptions::default()) / 1e9
}

#[test]
fn calibration_rows_are_met() {
    let h100 = machine("h100x8");
    let gather = [(1, 29.0), (4, 78.0), (16, 179.0), (64, 275.0), (256, 322.0), (1024, 344.0), (2048, 352.0)];
    let ring = [(1, 30.0), (4, 58.0), (16, 71.0), (64, 76.0), (256, 250.0), (1024, 290.0), (2048, 292.0)];
    for (of, rows) in [(Collective::AllGather, gather), (Collective::SendRecvRing, ring)] {
        for (mib, measured) in rows {
            let predicted = bus(&h100, of, mib * MIB, 8);
            let error = predicted / measured - 1.0;
            println!("{:<15} {mib:>5} MiB  {predicted:>6.1} of {measured:>5} GB/s  {:+.1} %", of.name(), error * 1e2);
            assert!(error.abs() <= 0.12, "{} {mib} MiB: {predicted} of {measured} GB/s", of.name());
        }
    }
    // Asymptotes, on H200.
    let h200 = machine("h200x8");
    for (of, measured) in
        [(Collective::AllGather, 361.4), (Collective::ReduceScatter, 362.9), (Collective::AllReduce, 480.0)]
    {
        let predicted = bus(&h200, of, 15 << 30, 8);
        let error = predicted / measured - 1.0;
        println!("{:<15} 15 GiB  {predicted:>6.1} of {measured:>5} GB/s  {:+.1} %", of.name(), error * 1e2);
        assert!(error.abs() <= 0.02, "{}: {predicted} of {measured} GB/s", of.name());
    }
    // The floor of a small all-reduce: 26 to 30 us.
    let floor = seconds(&h100, Collective::AllReduce, 1024, 8, SimOptions::default()) * 1e6;
    println!("all-reduce      1 KiB   {floor:.1} us of 26 to 30");
    assert!((24.0..32.0).contains(&floor), "{floor} us");
}

/// What a ring collective costs by the tuner's formula, the fastest protocol.
fn ring_s(gpu: &Gpu, ranks: usize, bytes: f64, steps: f64) -> f64 {
    let rate = gpu.link.ring_bytes_per_s.min(gpu.link.pair_bytes_per_s * (ranks - 1) as f64);
    let time =
        |p: &seqpar::exec::sim::Protocol| p.base_s + steps * p.hop_s + bytes / (rate * p.rate).min(p.most_bytes_per_s);
    let used = gpu.link.protocols.iter().filter(|p| p.rate > 0.0);
    gpu.issue_s + gpu.link.kernel_s + used.map(time).fold(f64::INFINITY, f64::min)
}

fn near(name: &str, simulated: f64, expected: f64) {
    assert!((simulated / expected - 1.0).abs() < 1e-3, "{name}: {simulated} s, closed form {expected} s");
}

#[test]
fn collectives_cost_their_closed_forms() {
    for name in ["h100x8", "h100x4", "a100x8", "l40x8"] {
        let machine = machine(name);
        let gpu = gpu(&machine);
        for ranks in [2, 4, 8].into_iter().filter(|&ranks| ranks <= machine.ranks) {
            for bytes in [64 << 10, MIB, 16 * MIB, 256 * MIB] {
                let at = |of| seconds(&machine, of, bytes, ranks, SimOptions::default());
                let (n, s) = (ranks as f64, bytes as f64);
                let part = s * (n - 1.0) / n;
                let label = |of: Collective| format!("{name}, {} over {ranks}, {bytes} bytes", of.name());
                for of in [Collective::AllGather, Collective::ReduceScatter] {
                    near(&label(of), at(of), ring_s(gpu, ranks, part, n - 1.0));
                }
                let ring = ring_s(gpu, ranks, 2.0 * part, 2.0 * (n - 1.0));
                let switch = gpu.link.switch.filter(|_| ranks > 2);
                let switch = switch.map_or(ring, |(rate, wait)| gpu.issue_s + gpu.link.kernel_s + wait + s / rate);
                near(&label(Collective::AllReduce), at(Collective::AllReduce), ring.min(switch));
            }
        }
    }
}

#[test]
fn sends_climb_the_staircase_of_channels() {
    let h100 = machine("h100x8");
    let gpu = gpu(&h100);
    // 32 channels over the ranks, doubled above 16 MiB each.
    for (ranks, mib, channels) in [(8, 64, 4), (8, 128, 8), (8, 256, 16), (8, 512, 32), (4, 64, 8), (2, 64, 16)] {
        let rate = gpu.link.peer_bytes_per_s.iter().find(|(n, _)| *n as usize == channels).unwrap().1;
        let expected = gpu.issue_s + gpu.link.peer_s + (mib * MIB) as f64 / rate;
        let simulated = seconds(&h100, Collective::SendRecvRing, mib * MIB, ranks, SimOptions::default());
        near(&format!("{mib} MiB over {ranks}"), simulated, expected);
    }
    // All peers at once fill the port however few channels each has.
    let bytes = 64 * MIB;
    let expected = gpu.issue_s + gpu.link.peer_s + bytes as f64 * 7.0 / 8.0 / gpu.link.all_to_all_bytes_per_s;
    near("all-to-all", seconds(&h100, Collective::AllToAll, bytes, 8, SimOptions::default()), expected);
}

#[test]
fn copy_engines_and_graphs_save_what_they_save() {
    let h100 = machine("h100x8");
    let gpu = gpu(&h100);
    let copied = SimOptions { transport: Transport::CopyEngine, ..SimOptions::default() };
    let bytes = 64 * MIB;
    let (rate, fixed) = gpu.link.copy_engine;
    let expected = gpu.issue_s + fixed + bytes as f64 * 7.0 / 8.0 / rate;
    near("all-gather", seconds(&h100, Collective::AllGather, bytes, 8, copied), expected);
    // A sum needs SMs.
    let kernel = seconds(&h100, Collective::ReduceScatter, bytes, 8, SimOptions::default());
    assert_eq!(seconds(&h100, Collective::ReduceScatter, bytes, 8, copied), kernel);
    let graph = SimOptions { launch: Launch::Graph, ..SimOptions::default() };
    let saved = kernel - seconds(&h100, Collective::ReduceScatter, bytes, 8, graph);
    assert!((saved - (gpu.issue_s - gpu.gap_s)).abs() < 2e-9, "{saved} s");
}

#[test]
fn kernels_slow_down_under_communication_that_takes_sms() {
    let h100 = machine("h100x8");
    let model = Model::named("wan2.1-14b").unwrap();
    let problem = model.layer(&model.kinds[0], &model.sizes(), 4).unwrap();
    let mesh = Strategy::Ring.mesh(4, None, None, model.heads, model.kv_heads).unwrap();
    let plans = check_world(layer(&problem, Strategy::Ring, &mesh, &Options::default()).unwrap()).unwrap();
    let report = |transport| simulate(&plans, &h100, &SimOptions { transport, ..SimOptions::default() }).unwrap();
    let attention = |report: &Report| -> Vec<u64> {
        report.spans.iter().filter(|s| s.rank == 0 && s.op.contains("attention")).map(|s| s.ns()).collect()
    };
    let (kernels, copied) = (attention(&report(Transport::Nccl)), attention(&report(Transport::CopyEngine)));
    assert_eq!(kernels.len(), 4);
    // Two blocks arrive under the first step, the last one where the first has made room; nothing
    // moves under the rest.
    let slower: Vec<bool> = kernels.iter().zip(&copied).map(|(with, without)| with > without).collect();
    assert_eq!(slower, [true, false, true, false], "{kernels:?} {copied:?}");
    assert_eq!([kernels[1], kernels[3]], [copied[1], copied[3]]);
    // No more is lost than all channels of sends take of the SMs.
    let most = copied[0] as f64 / (1.0 - 32.0 / 132.0);
    assert!((kernels[0] as f64) < most, "{} ns, {} without, at most {most}", kernels[0], copied[0]);
}

#[test]
fn between_nodes_the_adapters_bind() {
    let ib = machine("h100x8-ib");
    let one_node = seconds(&ib, Collective::AllGather, 1 << 30, 8, SimOptions::default());
    assert_eq!(one_node, seconds(&machine("h100x8"), Collective::AllGather, 1 << 30, 8, SimOptions::default()));
    // A ring through two nodes of 8 uses all 8 adapters of each: NVLink still binds.
    let (n, bytes) = (16.0, (1u64 << 30) as f64);
    let two_nodes = bus(&ib, Collective::AllGather, 1 << 30, 16);
    assert!((300.0..362.0).contains(&two_nodes), "{two_nodes} GB/s");
    // Of an all-to-all over two nodes 8 of 15 messages pass the own adapter.
    let expected = bytes * (n - 1.0) / n * (8.0 / 15.0) / 48.5e9;
    let simulated = seconds(&ib, Collective::AllToAll, 1 << 30, 16, SimOptions::default());
    assert!((simulated / expected - 1.0).abs() < 0.01, "{simulated} s, {expected} s");
    // A ring of sends crosses only at the ends of a node, and is as slow as there.
    let ring = bus(&ib, Collective::SendRecvRing, 1 << 30, 16);
    assert!((48.0..48.5).contains(&ring), "{ring} GB/s");
}

#[test]
fn time_grows_with_bytes_and_falls_with_rate() {
    for name in ["h100x8", "l40x8", "a100x8", "cpu"] {
        let machine = machine(name);
        for of in Collective::ALL {
            let sizes = [MIB / 16, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 512 * MIB];
            let times = sizes.map(|bytes| seconds(&machine, of, bytes, 4, SimOptions::default()));
            // The staircase of sends may be as fast for more bytes, no faster.
            assert!(times.windows(2).all(|t| t[1] > t[0] * 0.8), "{name} {}: {times:?}", of.name());
            let fast = machine.with_links(2.0);
            let faster = seconds(&fast, of, 64 * MIB, 4, SimOptions::default());
            assert!(faster < times[4], "{name} {}", of.name());
        }
    }
}

#[test]
fn the_same_world_gives_the_same_report() {
    let machine = machine("l40x8");
    let plans = check_world(Collective::AllToAll.plans(MIB, 8).unwrap()).unwrap();
    let report = simulate(&plans, &machine, &SimOptions::default()).unwrap();
    assert_eq!(report, simulate(&plans, &machine, &SimOptions::default()).unwrap());
    assert_eq!(report.spans.len(), 8);
}

#[test]
fn impossible_sizes_are_refused() {
    for (bytes, ranks, word) in [(64, 1, "at least 2"), (8, 4, "at least 16"), (1 << 40, 4, "15 GiB")] {
        let error = Collective::AllGather.plans(bytes, ranks).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!("all-gathr".parse::<Collective>().unwrap_err().to_string().contains("all-gather, all-to-all"));
}
