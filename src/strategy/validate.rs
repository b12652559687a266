//! What a problem, a mesh and a strategy must agree on before a plan is built.

use super::problem::{AttentionProblem, LayerProblem, Options, Strategy};
use crate::error::{Error, Result};
use crate::mesh::Mesh;

/// Refuses contradictions, with what to change.
pub(crate) fn validate(problem: &AttentionProblem, strategy: Strategy, mesh: &Mesh, options: &Options) -> Result<()> {
    let AttentionProblem { batch, heads, kv_heads, head_dim, shard, dtype, .. } = problem;
    if !dtype.is_float() {
        return Err(Error::Shape(format!("dtype {dtype} cannot be attended: use f32, f16 or bf16")));
    }
    for (name, value) in [("batch", batch), ("heads", heads), ("key heads", kv_heads), ("head dim", head_dim)] {
        if *value == 0 {
            return Err(Error::Shape(format!("{name} is 0: it must be at least 1")));
        }
    }
    if heads % kv_heads != 0 {
        return Err(Error::Shape(format!(
            "{heads} query heads but {kv_heads} key heads: the first must be a multiple of the second"
        )));
    }
    if *head_dim > 256 {
        return Err(Error::Shape(format!("head dim {head_dim}: the kernels take up to 256")));
    }
    if options.head_groups == 0 {
        return Err(Error::Shape("0 head groups: use at least 1".into()));
    }
    if shard.ranks() != mesh.sequence() {
        return Err(Error::Mesh(format!(
            "tokens are cut over {} ranks but the mesh has ulysses {} × ring {}: make the product equal",
            shard.ranks(),
            mesh.ulysses,
            mesh.ring
        )));
    }
    validate_mesh(strategy, mesh)?;
    let tokens = shard.text.len().checked_add(shard.image.len()).and_then(|n| n.checked_add(shard.keys.len()));
    let elems = [*batch, *heads, *head_dim].iter().try_fold(tokens.unwrap_or(usize::MAX), |n, x| n.checked_mul(*x));
    if elems.is_none_or(|n| n > u32::MAX as usize) {
        return Err(Error::Shape(
            "a tensor of more than 4294967295 elements: lower the batch or split the heads".into(),
        ));
    }
    Ok(())
}

fn validate_mesh(strategy: Strategy, mesh: &Mesh) -> Result<()> {
    let (u, r) = (mesh.ulysses, mesh.ring);
    let wrong = match strategy {
        Strategy::Single if u * r > 1 => "single runs on one rank: use --ranks 1 or another strategy",
        Strategy::Ulysses | Strategy::Fastseq | Strategy::Megatron if r > 1 => {
            "it has no ring: set ring to 1, or use usp"
        }
        Strategy::Ring if u > 1 => "ring has no ulysses dimension: set ulysses to 1, or use usp",
        _ => return Ok(()),
    };
    Err(Error::Mesh(format!("{} with ulysses {u} × ring {r}: {wrong}", strategy.name())))
}

/// What a layer adds.
pub(crate) fn validate_layer(problem: &LayerProblem) -> Result<()> {
    if problem.hidden == 0 || problem.mlp == Some(0) {
        return Err(Error::Shape("a layer of 0 channels: hidden and mlp must be at least 1".into()));
    }
    if problem.attention.shard.keys != problem.attention.shard.image {
        return Err(Error::Shard("a layer attends to its own tokens: cut keys as the image is cut".into()));
    }
    if problem.rope.is_some() && problem.attention.head_dim % 2 == 1 {
        return Err(Error::Shape(format!(
            "rotary embedding of head dim {}: it turns pairs, so the head dim must be even",
            problem.attention.head_dim
        )));
    }
    Ok(())
}

impl Strategy {
    /// The mesh on which this strategy runs `ranks` ranks; degrees not given are chosen. For usp
    /// that is the largest ulysses that divides the ranks and both head counts.
    ///
    /// # Errors
    /// 0 ranks, degrees whose product is not `ranks`, or degrees that the strategy does not have.
    pub fn mesh(
        self,
        ranks: usize,
        ulysses: Option<usize>,
        ring: Option<usize>,
        heads: usize,
        kv_heads: usize,
    ) -> Result<Mesh> {
        if ranks == 0 {
            return Err(Error::Mesh("0 ranks: use at least 1".into()));
        }
        let largest =
            || (1..=ranks).rev().find(|u| [ranks, heads, kv_heads].iter().all(|n| n.is_multiple_of(*u))).unwrap_or(1);
        let (u, r) = match (ulysses, ring, self) {
            (Some(u), Some(r), _) => (u, r),
            (Some(u), None, _) => (u, ranks / u.max(1)),
            (None, Some(r), _) => (ranks / r.max(1), r),
            (None, None, Self::Ring) => (1, ranks),
            (None, None, Self::Usp) => (largest(), ranks / largest()),
            (None, None, _) => (ranks, 1),
        };
        if u.checked_mul(r) != Some(ranks) {
            return Err(Error::Mesh(format!("ulysses {u} × ring {r} is not {ranks} ranks: make the product {ranks}")));
        }
        let mesh = Mesh::new(u, r)?;
        validate_mesh(self, &mesh)?;
        Ok(mesh)
    }
}
