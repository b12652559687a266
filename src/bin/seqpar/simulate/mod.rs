//! `seqpar simulate`: what a model's layers, or a collective, would take on a machine.

mod collective;
mod words;

use std::path::Path;

use seqpar::auto::{self, Prediction};
use seqpar::dit::models::{LayerKind, MODELS, Model, Sizes};
use seqpar::exec::sim::{self, Launch, SimMachine, SimOptions, Transport};
use seqpar::exec::{Report, trace};
use seqpar::mesh::Mesh;
use seqpar::plan::{Checked, Plan, Role, check_world};
use seqpar::strategy::{self, LayerProblem, Options, Strategy};
use serde_json::{Value, json};

use crate::args::{SimulateArgs, Text, TransportArg};
use crate::fault::{Fault, Result};
use crate::numbers::{Simulated, Wanted};
use crate::output::{self, Output};
use crate::record::{self, Kind, Named};
use crate::run;
use crate::table;

pub(crate) fn run(args: &SimulateArgs) -> Result<()> {
    if args.model.as_deref() == Some("help") {
        return output::print(&models());
    }
    let machine = machine(&args.machine)?;
    if args.ranks > machine.ranks {
        return Err(Fault::Usage(format!(
            "--ranks {}, but machine \"{}\" has {}: use fewer, or a larger machine",
            args.ranks, machine.name, machine.ranks
        )));
    }
    if let Some(collective) = args.collective {
        return collective::run(args, collective, &machine).map_err(from_flags);
    }
    let Some(name) = &args.model else { return Err(Fault::Usage("neither --model nor --collective".into())) };
    let case = Case::new(args, Model::named(name)?, &machine)?;
    let trace = args.trace.as_deref().map(|path| Output::claim("--trace", path)).transpose()?;
    let rows = case.rows(args).map_err(from_flags)?;
    if let Some(file) = trace {
        output::commit(vec![(file, case.trace(&rows[0])?.into_bytes())])?;
    }
    if args.json {
        // The fastest by itself, then all.
        let mut value = rows[0].value(&case);
        let about = json!({
            "model": case.model.name,
            "machine": machine.name,
            "ranks": args.ranks,
            "tokens": case.sizes.tokens,
            "text_tokens": case.sizes.text_tokens,
            "batch": case.sizes.batch,
            "layers": case.model.layers(),
            "strategies": rows.iter().map(|row| row.value(&case)).collect::<Vec<Value>>(),
            "rows": rows.iter().map(|row| row.recorded(&case, args.ranks)).collect::<Vec<Value>>(),
            "reports": case.recorded(&rows)?,
        });
        if let (Some(value), Value::Object(about)) = (value.as_object_mut(), about) {
            value.extend(about);
        }
        return output::print(&value.to_string());
    }
    let mut text = case.heading(args);
    text += &render(&rows, &case);
    if args.explain {
        text += &words::explain(&case, &rows).map_err(from_flags)?;
    }
    output::print(&text)
}

/// Every size of a simulation comes from a flag, but for what a machine file says.
fn from_flags(fault: Fault) -> Fault {
    match fault {
        Fault::Data(why) => Fault::Usage(why),
        other => other,
    }
}

/// The machine of that name, or of that file.
pub(crate) fn machine(name: &str) -> Result<SimMachine> {
    let path = Path::new(name);
    if !name.ends_with(".toml") && !name.contains(std::path::MAIN_SEPARATOR) {
        return Ok(SimMachine::named(name)?);
    }
    let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
    let stem = path.file_stem().map_or_else(|| name.into(), |stem| stem.to_string_lossy());
    SimMachine::parse(&stem, &text).map_err(|error| Fault::file(path, error))
}

fn models() -> String {
    let cells = |model: &Model| {
        let kinds: Vec<String> = model.kinds.iter().map(|kind| format!("{} {}", kind.count, kind.name)).collect();
        vec![
            model.name.to_string(),
            kinds.join(" + "),
            model.hidden.to_string(),
            format!("{} x {}", model.heads, model.head_dim),
            model.tokens.to_string(),
            model.text_tokens.to_string(),
            model.batch.to_string(),
            model.source.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = MODELS.iter().map(cells).collect();
    table::render(&["model", "layers", "hidden", "heads", "tokens", "text", "batch", "source"], &rows)
}

/// Most ranks for which several ways to run one strategy are tried.
const MOST_TRIED: usize = 64;

/// A model on a machine.
struct Case<'a> {
    model: &'static Model,
    /// Of one guidance half, where they run at once.
    sizes: Sizes,
    machine: &'a SimMachine,
    simulation: SimOptions<'static>,
    /// Head groups of the ulysses pipeline that are tried; the best one counts.
    head_groups: Vec<usize>,
    /// Ranks of one sequence.
    ranks: usize,
}

/// One strategy over all layers of the model.
struct Row {
    strategy: Strategy,
    mesh: Mesh,
    options: Options,
    keeps_bits: bool,
    /// One prediction a kind of layer, and seconds of what stands beside it.
    kinds: Vec<(&'static LayerKind, Prediction, f64)>,
    /// Bytes of all weights of the denoiser's layers, and of one layer a kind.
    weights: Vec<u64>,
}

impl<'a> Case<'a> {
    fn new(args: &SimulateArgs, model: &'static Model, machine: &'a SimMachine) -> Result<Self> {
        let usual = model.sizes();
        let batch = args.batch.unwrap_or(usual.batch);
        let halves = usize::from(args.cfg_ranks);
        if !args.ranks.is_multiple_of(halves) || !batch.is_multiple_of(halves) {
            return Err(Fault::Usage(format!(
                "--cfg-ranks {halves} with --ranks {} and batch {batch}: both must be even",
                args.ranks
            )));
        }
        let sizes = Sizes {
            tokens: args.tokens.unwrap_or(usual.tokens),
            text_tokens: args.text_tokens.unwrap_or(usual.text_tokens),
            batch: batch / halves,
            dtype: args.dtype,
            replicate_text: args.text == Text::Replicate,
        };
        let transport = match args.transport {
            TransportArg::Nccl => Transport::Nccl,
            TransportArg::CopyEngine => Transport::CopyEngine,
        };
        let launch = if args.graph { Launch::Graph } else { Launch::Eager };
        let usual = Options::default().head_groups;
        let head_groups = match args.head_groups {
            Some(groups) => vec![groups],
            None if args.ranks > MOST_TRIED => vec![usual],
            None => vec![1, 2, usual],
        };
        let simulation = SimOptions { transport, launch, measured: None };
        Ok(Self { model, sizes, machine, simulation, head_groups, ranks: args.ranks / halves })
    }

    fn rows(&self, args: &SimulateArgs) -> Result<Vec<Row>> {
        let wanted = args.strategy.unwrap_or(if self.ranks == 1 {
            Simulated::One(Wanted::Named(Strategy::Single))
        } else {
            Simulated::All
        });
        let degrees = (args.ulysses, args.ring);
        if let (Some(u), Some(r)) = degrees
            && u.checked_mul(r) != Some(self.ranks)
        {
            let why = format!(
                "--ulysses {u} times --ring {r} is not the {} ranks of a sequence: make them equal",
                self.ranks
            );
            return Err(Fault::Usage(why));
        }
        if let Simulated::One(Wanted::Named(strategy)) = wanted {
            return Ok(vec![self.row(strategy, degrees)?]);
        }
        let mut rows = Vec::new();
        let mut refusal = None;
        for strategy in Strategy::ALL {
            if (strategy == Strategy::Single) != (self.ranks == 1) {
                continue;
            }
            match self.row(strategy, if strategy == Strategy::Usp { degrees } else { (None, None) }) {
                Ok(row) => rows.push(row),
                Err(fault) => refusal = refusal.or(Some(fault)),
            }
        }
        rows.sort_by(|a, b| a.step_s().total_cmp(&b.step_s()));
        if let (true, Some(fault)) = (rows.is_empty(), refusal) {
            return Err(fault);
        }
        if wanted == Simulated::One(Wanted::Auto) {
            rows.retain(|row| args.allow_reorder || row.keeps_bits);
            rows.truncate(1);
        }
        Ok(rows)
    }

    /// The head groups worth trying: where no heads are exchanged there is one way only.
    fn ways(&self, mesh: &Mesh, strategy: Strategy) -> Vec<Options> {
        let one = matches!(strategy, Strategy::Ulysses | Strategy::Usp) && mesh.ulysses > 1;
        let groups = if one { self.head_groups.as_slice() } else { &self.head_groups[..1] };
        groups.iter().map(|&head_groups| Options { head_groups, ..Options::default() }).collect()
    }

    fn row(&self, strategy: Strategy, degrees: (Option<usize>, Option<usize>)) -> Result<Row> {
        let mesh = strategy.mesh(self.ranks, degrees.0, degrees.1, self.model.heads, self.model.kv_heads)?;
        let rows = self.ways(&mesh, strategy).into_iter().map(|options| self.row_with(strategy, degrees, options));
        let rows = rows.collect::<Result<Vec<Row>>>()?;
        let best = rows.into_iter().min_by(|a, b| a.step_s().total_cmp(&b.step_s()));
        best.ok_or_else(|| Fault::Usage("no way to run it".into()))
    }

    fn row_with(&self, strategy: Strategy, degrees: (Option<usize>, Option<usize>), options: Options) -> Result<Row> {
        let mut kinds = Vec::new();
        let mut weights = Vec::new();
        let whole = strategy.mesh(self.ranks, degrees.0, degrees.1, self.model.heads, self.model.kv_heads)?;
        for kind in self.model.kinds {
            // Of a layer for which nothing moves every rank runs its own part alone.
            let (strategy, mesh) = match self.model.split(kind, self.ranks) {
                1 => (Strategy::Single, Mesh::new(1, 1)?),
                _ => (strategy, whole),
            };
            let plans = self.plans(kind, strategy, &mesh, &options)?;
            let bound = plans[0].buffers.iter().filter(|buffer| buffer.role == Role::Input && buffer.dims[0] == 1);
            let of_layer = bound.filter(|buffer| buffer.name.contains("weight") || buffer.name.contains("bias"));
            weights.push(of_layer.map(|buffer| buffer.bytes() as u64).sum());
            let prediction = auto::predict(self.machine, self.simulation, strategy, mesh, plans)?;
            let beside = self.model.beside(kind, &self.sizes, self.ranks);
            let beside_s = beside.iter().map(|kernel| sim::kernel_s(self.machine, kernel)).sum();
            kinds.push((kind, prediction, beside_s));
        }
        let keeps_bits = strategy.keeps_bits(&whole);
        Ok(Row { strategy, mesh: whole, options, keeps_bits, kinds, weights })
    }

    /// Lawful plans of the ranks until they repeat.
    fn plans(
        &self,
        kind: &LayerKind,
        strategy: Strategy,
        mesh: &Mesh,
        options: &Options,
    ) -> seqpar::Result<Vec<Checked<Plan>>> {
        let problem = self.model.layer(kind, &self.sizes, self.ranks)?;
        build(&problem, strategy, mesh, options)
    }

    /// Seconds of the first kind of layer that is split, under other circumstances.
    fn layer_s(&self, model: &Model, machine: &SimMachine, strategy: Strategy, ranks: usize) -> seqpar::Result<f64> {
        let split = |kind: &&LayerKind| model.split(kind, 2) > 1;
        let kind = model.kinds.iter().find(split).unwrap_or(&model.kinds[0]);
        let mesh = strategy.mesh(ranks, None, None, model.heads, model.kv_heads)?;
        let problem = model.layer(kind, &self.sizes, ranks)?;
        let mut best = f64::INFINITY;
        for options in self.ways(&mesh, strategy) {
            let plans = build(&problem, strategy, &mesh, &options)?;
            best = best.min(auto::predict(machine, self.simulation, strategy, mesh, plans)?.seconds);
        }
        Ok(best)
    }

    /// The trace of one layer of the first kind that is split.
    fn trace(&self, row: &Row) -> Result<String> {
        Ok(trace::to_json(&self.report(row)?))
    }

    fn report(&self, row: &Row) -> Result<Report> {
        let split = row.kinds.iter().find(|(kind, ..)| self.model.split(kind, self.ranks) > 1);
        let Some((kind, prediction, _)) = split.or(row.kinds.first()) else { return Ok(Report::default()) };
        let problem = self.model.layer(kind, &self.sizes, self.ranks)?;
        let plans = strategy::layer(&problem, prediction.strategy, &prediction.mesh, &row.options)?;
        Ok(sim::simulate(&check_world(plans)?, self.machine, &self.simulation)?)
    }

    /// The reports of a layer for `seqpar report`; none of worlds that nobody could look at.
    fn recorded(&self, rows: &[Row]) -> Result<Vec<Value>> {
        const MOST_SHOWN: usize = 32;
        let shown = rows.iter().filter(|_| self.ranks <= MOST_SHOWN);
        let named = shown.map(|row| {
            Ok(record::report(&Named {
                name: format!("{}, {}, {}", self.model.name, row.describe(), self.machine.name),
                kind: Kind::Simulated,
                strategy: row.strategy.name().into(),
                report: self.report(row)?,
            }))
        });
        named.collect()
    }

    fn heading(&self, args: &SimulateArgs) -> String {
        let text = match self.sizes.text_tokens {
            0 => String::new(),
            text => format!(" + {text} text"),
        };
        let halves = if args.cfg_ranks == 2 { ", guidance halves at once" } else { "" };
        let launch = if args.graph { "a graph" } else { "eager" };
        format!(
            "{}: {} layers, {} tokens{text}, batch {}, {}; {} on {} ranks{halves}, launches {launch}, simulated:\n",
            self.model.name,
            self.model.layers(),
            self.sizes.tokens,
            self.sizes.batch,
            self.sizes.dtype,
            self.machine.name,
            args.ranks,
        )
    }
}

fn build(
    problem: &LayerProblem,
    strategy: Strategy,
    mesh: &Mesh,
    options: &Options,
) -> seqpar::Result<Vec<Checked<Plan>>> {
    let count = strategy::period(&problem.attention, strategy, mesh);
    auto::lawful(count, |rank| strategy::layer_rank(problem, strategy, mesh, options, rank))
}

impl Row {
    /// All layers of one evaluation, with what stands beside them.
    fn step_s(&self) -> f64 {
        self.kinds.iter().map(|(kind, layer, beside)| kind.count as f64 * (layer.seconds + beside)).sum()
    }

    /// Mean over the layers of a figure.
    fn mean(&self, of: impl Fn(&Prediction) -> f64) -> f64 {
        let layers: usize = self.kinds.iter().map(|(kind, ..)| kind.count).sum();
        self.kinds.iter().map(|(kind, layer, _)| kind.count as f64 * of(layer)).sum::<f64>() / layers as f64
    }

    fn layer_s(&self) -> f64 {
        self.mean(|layer| layer.seconds)
    }

    /// The largest layer with the weights of all others beside it.
    fn peak_bytes(&self) -> u64 {
        let all: u64 = self.kinds.iter().zip(&self.weights).map(|((kind, ..), bytes)| kind.count as u64 * bytes).sum();
        let with = |((_, layer, _), own): (&(_, Prediction, _), &u64)| layer.peak_bytes as u64 + all - own;
        self.kinds.iter().zip(&self.weights).map(with).max().unwrap_or(0)
    }

    /// The row as `seqpar report` reads it.
    fn recorded(&self, case: &Case, ranks: usize) -> Value {
        json!({
            "bench": "simulate",
            "kind": "simulated",
            "model": case.model.name,
            "machine": case.machine.name,
            "strategy": self.strategy.name(),
            "part": "layer",
            "ranks": ranks,
            "ulysses": self.mesh.ulysses,
            "ring": self.mesh.ring,
            "tokens": case.sizes.tokens,
            "dtype": case.sizes.dtype.to_string(),
            "bytes_per_rank": self.mean(|layer| layer.bytes_sent as f64).round() as u64,
            "layer_us": self.layer_s() * 1e6,
            "step_us": self.step_s() * 1e6,
            "exposed_comm_us": self.mean(|layer| layer.exposed_s) * 1e6,
        })
    }

    fn describe(&self) -> String {
        run::describe(self.strategy, &self.mesh)
    }

    fn value(&self, case: &Case) -> Value {
        let us = |seconds: f64| seconds * 1e6;
        let kind = |(kind, layer, beside): &(&LayerKind, Prediction, f64)| {
            json!({
                "kind": kind.name,
                "count": kind.count,
                "layer_us": us(layer.seconds),
                "beside_us": us(*beside),
                "compute_us": us(layer.compute_s),
                "comm_us": us(layer.comm_s),
                "exposed_comm_us": us(layer.exposed_s),
                "bytes_per_rank": layer.bytes_sent,
                "messages_per_rank": layer.messages_sent,
                "flops_per_rank": layer.flops,
                "peak_bytes": layer.peak_bytes,
            })
        };
        json!({
            "strategy": self.strategy.name(),
            "ulysses": self.mesh.ulysses,
            "ring": self.mesh.ring,
            "head_groups": self.options.head_groups,
            "keeps_bits": self.keeps_bits,
            "layer_us": us(self.layer_s()),
            "step_us": us(self.step_s()),
            "exposed_comm_us": us(self.mean(|layer| layer.exposed_s)),
            "bytes_per_rank": self.mean(|layer| layer.bytes_sent as f64).round() as u64,
            "peak_bytes": self.peak_bytes(),
            "fits": case.machine.memory_bytes().is_none_or(|most| self.peak_bytes() as f64 <= most),
            "kinds": self.kinds.iter().map(kind).collect::<Vec<Value>>(),
        })
    }
}

fn render(rows: &[Row], case: &Case) -> String {
    let cells = |row: &Row| {
        let (comm, bare) = (row.mean(|layer| layer.comm_s), row.mean(|layer| layer.exposed_s));
        let hidden = if comm > 0.0 { format!("{:.0} %", (1.0 - bare / comm) * 1e2) } else { "-".into() };
        let fits = case.machine.memory_bytes().is_none_or(|most| row.peak_bytes() as f64 <= most);
        vec![
            row.strategy.name().into(),
            format!("{} x {}", row.mesh.ulysses, row.mesh.ring),
            row.options.head_groups.to_string(),
            table::millis(row.layer_s() * 1e3),
            table::millis(row.step_s() * 1e3),
            table::millis(bare * 1e3),
            hidden,
            table::bytes(row.mean(|layer| layer.bytes_sent as f64) as u64),
            format!("{}{}", table::bytes(row.peak_bytes()), if fits { "" } else { " (too much)" }),
            if row.keeps_bits { "same" } else { "reordered" }.into(),
        ]
    };
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let header = ["strategy", "mesh", "groups", "layer", "step", "exposed", "hidden", "bytes sent", "peak", "bits"];
    table::render(&header, &cells)
        + "groups: head groups of the ulysses pipeline, the best tried; layer, exposed, bytes sent: a layer's mean, the rank with most; step: all layers once, with adaLN, gates and \
           cross-attention;\npeak: the largest layer with all weights; bits: those of one rank, or reordered sums\n"
}
