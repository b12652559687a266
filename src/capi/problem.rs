//! A problem of the header as one of the crate.

use super::abi::{Problem, Split};
use super::adaln::eps;
use super::read::numbers;
use super::status::{Fault, Outcome};
use super::tensor::{count, flag, float, kv_heads, rope, size};
use crate::mesh::Mesh;
use crate::plan::Plan;
use crate::shard::{self, IndexMap, Run, Shard, TextShard};
use crate::strategy::{self, AttentionProblem, LayerProblem, Options, Route, Strategy};

/// All plans of a world are made; larger worlds are for `seqpar simulate`.
const MOST_RANKS: usize = 1024;

/// No tensor of a problem is larger: nothing that is computed from sizes overflows.
const MOST_ELEMS: f64 = (1u64 << 52) as f64;

/// The plans of all ranks, and the strategy's name.
pub(super) fn plans(problem: &Problem) -> Outcome<(Vec<Plan>, &'static str)> {
    let strategy = usize::try_from(problem.strategy).ok().and_then(|i| Strategy::ALL.get(i).copied());
    let strategy = strategy.ok_or_else(|| {
        Fault::argument(format!("strategy is {}: use one of SEQPAR_SINGLE to SEQPAR_KV_GATHER", problem.strategy))
    })?;
    let ranks = count(problem.ranks.into(), "ranks")?;
    if ranks > MOST_RANKS {
        return Err(Fault::argument(format!("{ranks} ranks: {MOST_RANKS} at most")));
    }
    let attention = attention(problem, ranks)?;
    let degree = |value: i32, name: &str| size(value.into(), name).map(|n| (n > 0).then_some(n));
    let (ulysses, ring) = (degree(problem.ulysses, "ulysses")?, degree(problem.ring, "ring")?);
    let mesh: Mesh = strategy.mesh(ranks, ulysses, ring, attention.heads, attention.kv_heads)?;
    let options = options(problem)?;
    let plans = match problem.kind {
        0 => strategy::attention(&attention, strategy, &mesh, &options)?,
        1 => strategy::layer(&layer(problem, attention)?, strategy, &mesh, &options)?,
        other => return Err(Fault::argument(format!("kind is {other}: use SEQPAR_PROBLEM_*"))),
    };
    Ok((plans, strategy.name()))
}

fn attention(problem: &Problem, ranks: usize) -> Outcome<AttentionProblem> {
    let heads = count(problem.heads, "heads")?;
    let attention = AttentionProblem {
        dtype: float(problem.dtype)?,
        batch: count(problem.batch, "batch")?,
        heads,
        kv_heads: kv_heads(problem.kv_heads, heads)?,
        head_dim: count(problem.head_dim, "head_dim")?,
        shard: shard(problem, ranks)?,
        key_mask: flag(problem.key_mask, "key_mask")?,
        key_len: flag(problem.key_len, "key_len")?,
    };
    let (hidden, mlp) = (size(problem.hidden, "hidden")?, size(problem.mlp, "mlp")?);
    let shard = &attention.shard;
    let tokens = (shard.text.len() + shard.image.len() + shard.keys.len()) as f64;
    let width = (3 * heads * attention.head_dim).max(hidden).max(mlp) as f64;
    let largest = (attention.batch as f64 * tokens * width).max(width * width);
    if largest > MOST_ELEMS {
        return Err(Fault::argument("a problem whose tensors are larger than any memory"));
    }
    Ok(attention)
}

fn layer(problem: &Problem, attention: AttentionProblem) -> Outcome<LayerProblem> {
    if problem.keys != 0 {
        return Err(Fault::argument("keys of cross-attention in a layer: set keys to 0, or plan the attention alone"));
    }
    let norm = flag(problem.qk_norm, "qk_norm")?.then(|| eps(problem.qk_norm_eps, "qk_norm_eps"));
    Ok(LayerProblem {
        attention,
        hidden: count(problem.hidden, "hidden")?,
        qkv_bias: flag(problem.qkv_bias, "qkv_bias")?,
        proj_bias: flag(problem.proj_bias, "proj_bias")?,
        text_weights: flag(problem.text_weights, "text_weights")?,
        qk_norm: norm.transpose()?,
        rope: rope(problem.rope)?,
        mlp: Some(size(problem.mlp, "mlp")?).filter(|&mlp| mlp > 0),
    })
}

fn options(problem: &Problem) -> Outcome<Options> {
    let usual = Options::default();
    let route = match problem.route {
        0 => Route::Forwarded,
        1 => Route::Direct,
        other => return Err(Fault::argument(format!("route is {other}: use SEQPAR_ROUTE_*"))),
    };
    let head_groups = match size(problem.head_groups.into(), "head_groups")? {
        0 => usual.head_groups,
        groups => groups,
    };
    Ok(Options { route, gated: flag(problem.gated, "gated")?, head_groups })
}

fn shard(problem: &Problem, ranks: usize) -> Outcome<Shard> {
    let image = split(&problem.token_split, size(problem.tokens, "tokens")?, ranks, "token_split")?;
    let keys = match size(problem.keys, "keys")? {
        0 => image.clone(),
        keys => split(&problem.key_split, keys, ranks, "key_split")?,
    };
    let text = match (size(problem.text, "text")?, flag(problem.text_replicated, "text_replicated")?) {
        (0, _) => TextShard::None,
        (text, true) => TextShard::Replicated(text),
        (text, false) => TextShard::Split(split(&problem.text_split, text, ranks, "text_split")?),
    };
    Ok(Shard::cross(image, keys, text)?)
}

fn split(split: &Split, tokens: usize, ranks: usize, name: &str) -> Outcome<shard::Split> {
    let counts = numbers(split.counts, ranks, name)?;
    let owners = numbers(split.owners, tokens, name)?;
    match (counts, owners) {
        (None, None) => Ok(shard::Split::even(tokens, ranks)),
        (Some(_), Some(_)) => Err(Fault::argument(format!("{name} has counts and owners: give one"))),
        (Some(counts), None) => {
            let counts = counts.iter().map(|&n| size(n, name)).collect::<Outcome<Vec<_>>>()?;
            let sum: usize = counts.iter().sum();
            if sum != tokens {
                return Err(Fault::argument(format!("{name} counts {sum} tokens of {tokens}: make both equal")));
            }
            Ok(shard::Split::counts(&counts))
        }
        (None, Some(owners)) => {
            let mut runs: Vec<Vec<Run>> = vec![Vec::new(); ranks];
            for (start, &owner) in owners.iter().enumerate() {
                let of = usize::try_from(owner).ok().and_then(|owner| runs.get_mut(owner));
                let of =
                    of.ok_or_else(|| Fault::argument(format!("{name}: token {start} is on rank {owner} of {ranks}")))?;
                of.push(Run { start, len: 1 });
            }
            Ok(shard::Split::from_maps(tokens, runs.into_iter().map(IndexMap::from_runs).collect())?)
        }
    }
}
