//! What one strategy costs over all layers of a model, as a row of the table and as JSON.

use seqpar::auto::Prediction;
use seqpar::dit::models::LayerKind;
use seqpar::mesh::Mesh;
use seqpar::strategy::{Options, Strategy};
use serde_json::{Value, json};

use super::case::Case;
use crate::run;
use crate::table;

/// One strategy over all layers of the model.
pub(super) struct Row {
    pub(super) strategy: Strategy,
    pub(super) mesh: Mesh,
    pub(super) options: Options,
    pub(super) keeps_bits: bool,
    /// One prediction a kind of layer, and seconds of what stands beside it.
    pub(super) kinds: Vec<(&'static LayerKind, Prediction, f64)>,
    /// Bytes of all weights of the denoiser's layers, and of one layer a kind.
    pub(super) weights: Vec<u64>,
}

impl Row {
    /// All layers of one evaluation, with what stands beside them.
    pub(super) fn step_s(&self) -> f64 {
        self.kinds.iter().map(|(kind, layer, beside)| kind.count as f64 * (layer.seconds + beside)).sum()
    }

    /// Mean over the layers of a figure.
    pub(super) fn mean(&self, of: impl Fn(&Prediction) -> f64) -> f64 {
        let layers: usize = self.kinds.iter().map(|(kind, ..)| kind.count).sum();
        self.kinds.iter().map(|(kind, layer, _)| kind.count as f64 * of(layer)).sum::<f64>() / layers as f64
    }

    pub(super) fn layer_s(&self) -> f64 {
        self.mean(|layer| layer.seconds)
    }

    /// The largest layer with the weights of all others beside it.
    fn peak_bytes(&self) -> u64 {
        let all: u64 = self.kinds.iter().zip(&self.weights).map(|((kind, ..), bytes)| kind.count as u64 * bytes).sum();
        let with = |((_, layer, _), own): (&(_, Prediction, _), &u64)| layer.peak_bytes as u64 + all - own;
        self.kinds.iter().zip(&self.weights).map(with).max().unwrap_or(0)
    }

    /// The row as `seqpar report` reads it.
    pub(super) fn recorded(&self, case: &Case, ranks: usize) -> Value {
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

    pub(super) fn describe(&self) -> String {
        run::describe(self.strategy, &self.mesh)
    }

    pub(super) fn value(&self, case: &Case) -> Value {
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

/// The table of all rows.
pub(super) fn render(rows: &[Row], case: &Case) -> String {
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
