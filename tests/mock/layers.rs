//! Whole layers for the executor on the mock.

use seqpar::cuda::Context;
use seqpar::exec::cuda::{CudaOptions, Kernels};
use seqpar::kernel::spec::RopePairs;
use seqpar::plan::lower::Gates;
use seqpar::plan::{Checked, Plan, check_world};
use seqpar::strategy::{self, LayerProblem, Options};

use crate::support::cases::Case;
use crate::support::worlds::World;

use super::MODES;

/// How a world runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Compute capability, 80 or 90.
    pub capability: u32,
    pub gates: Gates,
    pub graph: bool,
}

impl Way {
    pub fn all() -> [Self; 4] {
        let of = |capability, gates, graph| Self { capability, gates, graph };
        [
            of(90, Gates::Events, false),
            of(90, Gates::Flags, false),
            of(90, Gates::Events, true),
            of(90, Gates::Flags, true),
        ]
    }

    pub fn options(&self) -> CudaOptions {
        let mut options = CudaOptions::default();
        (options.gates, options.graph) = (self.gates, self.graph);
        options
    }
}

pub fn layer(case: &Case, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: 64,
        qkv_bias: true,
        proj_bias: true,
        text_weights: false,
        qk_norm: Some(1e-6),
        rope: Some(RopePairs::Interleaved),
        mlp: None,
    }
}

/// With gates where the strategy has any.
pub fn plans(case: &Case, world: &World, ranks: usize) -> Vec<Checked<Plan>> {
    let options = Options { gated: true, ..Options::default() };
    check_world(strategy::layer(&layer(case, ranks), world.strategy, &world.mesh, &options).unwrap()).unwrap()
}

pub fn kernels(context: &Context) -> Kernels {
    // SAFETY: the mock does not read images.
    unsafe { Kernels::load(context, &[b"any image"]) }.unwrap()
}

/// Every mode with seeds 0 to 19 (`SEQPAR_SEEDS` for another number), eager and as a graph; gates are
/// events and flags in turn.
pub fn schedules() -> impl Iterator<Item = (&'static str, u64, Gates, bool)> {
    let seeds = std::env::var("SEQPAR_SEEDS").map_or(20, |seeds| seeds.parse().unwrap());
    let of = move |mode| (0..seeds).flat_map(move |seed| [false, true].map(|graph| (mode, seed, graph)));
    MODES.into_iter().flat_map(of).map(|(mode, seed, graph)| {
        let gates = if (seed % 2 == 0) == graph { Gates::Events } else { Gates::Flags };
        (mode, seed, gates, graph)
    })
}
