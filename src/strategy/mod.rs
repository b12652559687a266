//! Strategies: pure functions from a problem to one plan a rank.

mod problem;

pub use problem::{AttentionProblem, LayerProblem, Options, Route, Strategy};

use crate::error::Result;
use crate::mesh::Mesh;
use crate::plan::Plan;

/// The plans of all ranks for one attention: `out = softmax(q·kᵀ)·v`.
///
/// Global tensors (see [`crate::plan::Placement`]): inputs `q [B, N, H, D]`,
/// `k`, `v [B, M, Hkv, D]`, with text `text_q [B, T, H, D]`, `text_k`, `text_v [B, T, Hkv, D]`,
/// with a mask `key_mask [B, T+M, 1, 1]` u8, with lengths `key_len [B, 2, 1, 1]` i32; outputs
/// `out [B, N, H, D]`, `text_out [B, T, H, D]`, `lse [B, H, 1, T+N]` f32.
pub fn attention(problem: &AttentionProblem, strategy: Strategy, mesh: &Mesh, options: &Options) -> Result<Vec<Plan>> {
    let _ = (problem, strategy, mesh, options);
    unimplemented!()
}

/// The plans of all ranks for one layer: projection to q, k, v, attention, output projection.
pub fn layer(problem: &LayerProblem, strategy: Strategy, mesh: &Mesh, options: &Options) -> Result<Vec<Plan>> {
    let _ = (problem, strategy, mesh, options);
    unimplemented!()
}
