//! What fastseq, ulysses and ring hide of their communication.
//!
//! Measured is the part of a layer that a strategy overlaps: fastseq's AllGather with the
//! projection to q, k, v; ulysses' whole layer; ring's attention. Per strategy and rank count, in
//! ms: T_gemm (the same plan, nothing takes time to arrive), T_comm (the same transfers, nothing
//! computed), T_seq = T_comm + T_gemm and T_ovl (both at once). The link is chosen so that T_comm
//! is about T_gemm, where hiding is hardest. Two figures condense them:
//!
//! - hidden fraction H = (T_seq − T_ovl) / min(T_comm, T_gemm): 1 where all is hidden;
//! - regret R = T_ovl / T_lb − 1. For fastseq and ring T_lb is the arrival bound, the largest over
//!   the P chunks i of arrival_i plus the compute of chunks i and later, with chunk i there after
//!   i/(P − 1) of T_comm; for ulysses the larger of T_gemm and T_comm.
//!
//! Two ranks run real kernels, one thread a rank; more ranks than cores run paced.
//! `cargo bench --bench overlap -- [--quick] [--json PATH]`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use seqpar::dtype::Dtype;
use seqpar::exec::host::{Clock, HostOptions, HostTensor, Link, prepare, run_tensors};
use seqpar::machine::Machine;
use seqpar::mesh::Mesh;
use seqpar::plan::{Builder, Comm, Direction, OpId, OpKind, Placement, Plan, Role, View, check_world};
use seqpar::shard::Shard;
use seqpar::strategy::{AttentionProblem, LayerProblem, Options, Strategy, attention, layer};
use seqpar::{Error, Result};

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    let runs = if arguments.quick { 3 } else { 9 };
    println!("f32, [1, N, C], 16 heads, forward; medians of {runs} runs");
    println!(
        "{:<9} {:<9} {:>2} {:<6} {:>5} {:>5} {:>11} {:>10} {:>10} {:>10} {:>10} {:>6} {:>6}",
        "strategy",
        "part",
        "P",
        "clock",
        "N",
        "C",
        "bytes/rank",
        "T_gemm ms",
        "T_comm ms",
        "T_seq ms",
        "T_ovl ms",
        "H",
        "R"
    );
    let mut rows = Vec::new();
    for ranks in [2, 4, 8] {
        for strategy in [Strategy::Fastseq, Strategy::Ulysses, Strategy::Ring] {
            let row = measure(strategy, ranks, runs, arguments.quick)?;
            row.print();
            rows.push(row);
        }
    }
    if let Some(path) = arguments.json {
        let json = format!("[\n{}\n]\n", rows.iter().map(Row::json).collect::<Vec<_>>().join(",\n"));
        std::fs::write(&path, json).map_err(|error| Error::Data(format!("--json {path}: {error}")))?;
    }
    Ok(())
}

struct Arguments {
    quick: bool,
    json: Option<String>,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut parsed = Self { quick: false, json: None };
        let mut list = std::env::args().skip(1);
        while let Some(argument) = list.next() {
            match argument.as_str() {
                "--quick" => parsed.quick = true,
                "--json" => {
                    let path = list.next();
                    parsed.json = Some(path.ok_or_else(|| Error::Unsupported("--json needs a path".into()))?);
                }
                // Cargo's own, and the filters it passes on.
                "--bench" | "--test" => {}
                other => {
                    return Err(Error::Unsupported(format!("unknown option \"{other}\": use --quick, --json PATH")));
                }
            }
        }
        Ok(parsed)
    }
}

struct Row {
    strategy: &'static str,
    part: &'static str,
    ranks: usize,
    clock: &'static str,
    tokens: usize,
    hidden: usize,
    bytes: u64,
    flops: f64,
    gemm: f64,
    comm: f64,
    overlapped: f64,
}

impl Row {
    fn sequential(&self) -> f64 {
        self.comm + self.gemm
    }

    fn hidden_fraction(&self) -> f64 {
        (self.sequential() - self.overlapped) / self.comm.min(self.gemm)
    }

    fn bound(&self) -> f64 {
        if self.part == "layer" {
            return self.gemm.max(self.comm);
        }
        let chunks = self.ranks as f64;
        let arrived = |i: f64| self.comm * i / (chunks - 1.0) + self.gemm * (chunks - i) / chunks;
        (0..self.ranks).map(|i| arrived(i as f64)).fold(0.0, f64::max)
    }

    fn regret(&self) -> f64 {
        self.overlapped / self.bound() - 1.0
    }

    fn print(&self) {
        println!(
            "{:<9} {:<9} {:>2} {:<6} {:>5} {:>5} {:>11} {:>10.2} {:>10.2} {:>10.2} {:>10.2} {:>6.2} {:>6.2}",
            self.strategy,
            self.part,
            self.ranks,
            self.clock,
            self.tokens,
            self.hidden,
            self.bytes,
            self.gemm * 1e3,
            self.comm * 1e3,
            self.sequential() * 1e3,
            self.overlapped * 1e3,
            self.hidden_fraction(),
            self.regret()
        );
    }

    fn json(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{{\"strategy\":\"{}\",\"part\":\"{}\",\"ranks\":{},\"clock\":\"{}\",\"tokens\":{},\"hidden\":{},\"bytes_per_rank\":{},\
             \"flops_per_rank\":{:e},\"t_gemm_s\":{:.6},\"t_comm_s\":{:.6},\"t_seq_s\":{:.6},\"t_ovl_s\":{:.6},\
             \"h\":{:.4},\"r\":{:.4}}}",
            self.strategy,
            self.part,
            self.ranks,
            self.clock,
            self.tokens,
            self.hidden,
            self.bytes,
            self.flops,
            self.gemm,
            self.comm,
            self.sequential(),
            self.overlapped,
            self.hidden_fraction(),
            self.regret()
        );
        out
    }
}

/// The transfers of a run take as long as its kernels.
fn measure(strategy: Strategy, ranks: usize, runs: usize, quick: bool) -> Result<Row> {
    let real = ranks <= 2;
    let (tokens, heads, head_dim) = match (real, quick) {
        (true, true) => (768, 16, 48),
        (true, false) => (2048, 16, 72),
        (false, _) => (16 * ranks, 16, 8),
    };
    let hidden = heads * head_dim;
    let problem = LayerProblem {
        attention: AttentionProblem {
            dtype: Dtype::F32,
            batch: 1,
            heads,
            kv_heads: heads,
            head_dim,
            shard: Shard::even(ranks, tokens, tokens, 0, false)?,
            key_mask: false,
            key_len: false,
        },
        hidden,
        qkv_bias: false,
        proj_bias: false,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    };
    let mesh = if strategy == Strategy::Ring { Mesh::new(1, ranks)? } else { Mesh::new(ranks, 1)? };
    let (part, plans) = match strategy {
        Strategy::Fastseq => {
            let plans = layer(&problem, strategy, &mesh, &Options::default())?;
            ("AG+QKV", plans.into_iter().map(projection_alone).collect())
        }
        Strategy::Ring => ("attention", attention(&problem.attention, strategy, &mesh, &Options::default())?),
        _ => ("layer", layer(&problem, strategy, &mesh, &Options::default())?),
    };
    let (bytes, flops) = (plans[0].bytes_sent(), plans[0].flops());
    let given = inputs(&plans)?;
    let seconds = if quick { 0.1 } else { 0.2 };
    let clock = if real { Clock::Real } else { Clock::Paced(machine(flops / seconds)) };
    let host = |link: Option<Link>| HostOptions {
        threads: ranks,
        link,
        clock: clock.clone(),
        deadline: Duration::from_secs(60),
        check_leases: false,
        poison: false,
        ..HostOptions::default()
    };
    let gemm = median(&plans, &given, host(None), runs)?;
    let link = Some(Link { bytes_per_s: bytes as f64 / gemm, latency_s: 0.0 });
    let alone: Vec<Plan> = plans.iter().map(transfers_alone).collect();
    let comm = median(&alone, &inputs(&alone)?, host(link), runs)?;
    let overlapped = median(&plans, &given, host(link), runs)?;
    let clock = if real { "real" } else { "paced" };
    Ok(Row { strategy: strategy.name(), part, ranks, clock, tokens, hidden, bytes, flops, gemm, comm, overlapped })
}

/// Only its rates matter; copies and small kernels cost what their flops say.
fn machine(flops: f64) -> Machine {
    Machine { f32_flops: flops, half_flops: flops, memory_bytes_per_s: 1e12, launch_s: 0.0, ..Machine::cpu() }
}

/// Median wall time, in seconds, after one run to warm up.
fn median(plans: &[Plan], inputs: &BTreeMap<String, HostTensor>, host: HostOptions, runs: usize) -> Result<f64> {
    let mut prepared = prepare(check_world(plans.to_vec())?, host)?;
    let mut times = Vec::new();
    for run in 0..=runs {
        let (_, report) = run_tensors(&mut prepared, inputs)?;
        let end = report.spans.iter().map(|span| span.end_ns).max().unwrap_or(0);
        let begin = report.spans.iter().map(|span| span.begin_ns).min().unwrap_or(0);
        if run > 0 {
            times.push((end - begin) as f64 / 1e9);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The plan up to its last projection.
fn projection_alone(mut plan: Plan) -> Plan {
    let last = plan.op_ids().filter(|&id| plan.label(id).starts_with("project ")).last();
    plan.ops.truncate(last.map_or(0, |id| id.0 as usize + 1));
    // What nobody writes any more is no output.
    let outputs = plan.buffers.iter_mut().filter(|buffer| buffer.role == Role::Output);
    outputs.for_each(|buffer| buffer.role = Role::Temp);
    let kept: Vec<u32> =
        plan.ops.iter().filter_map(|op| if let OpKind::Comm(i) = op.kind { Some(i) } else { None }).collect();
    plan.comms.truncate(kept.iter().max().map_or(0, |&i| i as usize + 1));
    plan
}

/// The communications of a plan, in order, and nothing else: all is sent from one input and
/// received into one temporary.
fn transfers_alone(plan: &Plan) -> Plan {
    let mut b = Builder::new(plan.rank as usize, plan.world as usize);
    let stream = b.stream("comm");
    let comms = || plan.op_ids().filter_map(|id| Some((id, plan.comm(id)?)));
    let elems = |wanted: Direction| {
        let of = |(id, comm): (OpId, &Comm)| -> usize {
            let transfers = comm.transfers.iter().zip(plan.accesses(id));
            transfers.filter(|(t, _)| t.direction == wanted).map(|(_, access)| access.region.elems()).sum()
        };
        [1, 1, 1, comms().map(of).max().unwrap_or(0)]
    };
    let dims = elems(Direction::Send);
    let placement = Placement { tensor: format!("sent by {}", plan.rank), dims, index: [None, None, None, None] };
    let sent = b.buffer("sent", Role::Input, Dtype::F32, dims, Some(placement));
    let received = b.temp("received", Dtype::F32, elems(Direction::Recv));
    for (id, comm) in comms() {
        let (mut next_sent, mut next_received) = (0, 0);
        let mut transfers: Vec<(Direction, usize, View)> = Vec::new();
        for (transfer, access) in comm.transfers.iter().zip(plan.accesses(id)) {
            let n = access.region.elems();
            let (from, next) = match transfer.direction {
                Direction::Send => (sent, &mut next_sent),
                Direction::Recv => (received, &mut next_received),
            };
            transfers.push((transfer.direction, transfer.peer as usize, from.cols(*next..*next + n)));
            *next += n;
        }
        let group: Vec<usize> = plan.groups[comm.group as usize].iter().map(|&rank| rank as usize).collect();
        b.comm(stream, plan.label(id), comm.kind, comm.tag, &group, comm.dtype, &transfers);
    }
    b.finish()
}

/// A small value everywhere; what is computed does not matter here.
fn inputs(plans: &[Plan]) -> Result<BTreeMap<String, HostTensor>> {
    let mut tensors = BTreeMap::new();
    for buffer in plans.iter().flat_map(|plan| &plan.buffers).filter(|buffer| buffer.role == Role::Input) {
        if let Some(placement) = &buffer.placement {
            let elems = placement.dims.iter().product::<usize>();
            let values: Vec<f32> = (0..elems).map(|i| ((i % 97) as f32 - 48.0) * 1e-3).collect();
            tensors.insert(placement.tensor.clone(), HostTensor::from_f32(buffer.dtype, placement.dims, &values)?);
        }
    }
    Ok(tensors)
}
