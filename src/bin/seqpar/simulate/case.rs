//! A model on a machine, and its strategies simulated.

use seqpar::auto::{self, Prediction};
use seqpar::dit::models::{LayerKind, Model, Sizes};
use seqpar::exec::sim::{self, Launch, SimMachine, SimOptions, Transport};
use seqpar::exec::{Report, trace};
use seqpar::mesh::Mesh;
use seqpar::plan::{Role, check_world};
use seqpar::strategy::{self, LayerProblem, Options, Strategy};

use serde_json::Value;

use super::row::Row;
use crate::args::{SimulateArgs, Text, TransportArg};
use crate::fault::{Fault, Result};
use crate::numbers::{Simulated, Wanted};
use crate::record::{self, Kind, Named};

/// Most ranks for which several ways to run one strategy are tried.
const MOST_TRIED: usize = 64;

/// A model on a machine.
pub(super) struct Case<'a> {
    pub(super) model: &'static Model,
    /// Of one guidance half, where they run at once.
    pub(super) sizes: Sizes,
    pub(super) machine: &'a SimMachine,
    simulation: SimOptions<'static>,
    /// Head groups of the ulysses pipeline that are tried; the best one counts.
    head_groups: Vec<usize>,
    /// Ranks of one sequence.
    pub(super) ranks: usize,
}

impl<'a> Case<'a> {
    pub(super) fn new(args: &SimulateArgs, model: &'static Model, machine: &'a SimMachine) -> Result<Self> {
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

    pub(super) fn rows(&self, args: &SimulateArgs) -> Result<Vec<Row>> {
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
            let problem = self.model.layer(kind, &self.sizes, self.ranks)?;
            let first = strategy::layer_rank(&problem, strategy, &mesh, &options, 0)?;
            let bound = first.buffers.iter().filter(|buffer| buffer.role == Role::Input && buffer.dims[0] == 1);
            let of_layer = bound.filter(|buffer| buffer.name.contains("weight") || buffer.name.contains("bias"));
            weights.push(of_layer.map(|buffer| buffer.bytes() as u64).sum());
            let prediction = self.predict(self.machine, &problem, strategy, &mesh, &options)?;
            let beside = self.model.beside(kind, &self.sizes, self.ranks);
            let beside_s = beside.iter().map(|kernel| sim::kernel_s(self.machine, kernel)).sum();
            kinds.push((kind, prediction, beside_s));
        }
        let keeps_bits = strategy.keeps_bits(&whole);
        Ok(Row { strategy, mesh: whole, options, keeps_bits, kinds, weights })
    }

    fn predict(
        &self,
        machine: &SimMachine,
        problem: &LayerProblem,
        strategy: Strategy,
        mesh: &Mesh,
        options: &Options,
    ) -> seqpar::Result<Prediction> {
        let alike = strategy::alike(&problem.attention, strategy, mesh);
        let build = |rank: usize| strategy::layer_rank(problem, strategy, mesh, options, rank);
        auto::predict(machine, self.simulation, strategy, *mesh, &alike, build)
    }

    /// Seconds of the first kind of layer that is split, under other circumstances.
    pub(super) fn layer_s(
        &self,
        model: &Model,
        machine: &SimMachine,
        strategy: Strategy,
        ranks: usize,
    ) -> seqpar::Result<f64> {
        let split = |kind: &&LayerKind| model.split(kind, 2) > 1;
        let kind = model.kinds.iter().find(split).unwrap_or(&model.kinds[0]);
        let mesh = strategy.mesh(ranks, None, None, model.heads, model.kv_heads)?;
        let problem = model.layer(kind, &self.sizes, ranks)?;
        let mut best = f64::INFINITY;
        for options in self.ways(&mesh, strategy) {
            best = best.min(self.predict(machine, &problem, strategy, &mesh, &options)?.seconds);
        }
        Ok(best)
    }

    /// The trace of one layer of the first kind that is split.
    pub(super) fn trace(&self, row: &Row) -> Result<String> {
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
    pub(super) fn recorded(&self, rows: &[Row]) -> Result<Vec<Value>> {
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

    pub(super) fn heading(&self, args: &SimulateArgs) -> String {
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
