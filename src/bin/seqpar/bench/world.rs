//! Ranks and strategies from flags.

use seqpar::mesh::Mesh;
use seqpar::strategy::Strategy;

use super::args::WorldArgs;
use crate::fault::{Fault, Result};
use crate::numbers::Strategies;
use crate::{output, run};

/// The strategies that the flags name, each on its mesh; of `all`, those that exist on so many
/// ranks, and a note of those that do not.
pub(super) fn candidates(args: &WorldArgs, heads: (usize, usize)) -> Result<Vec<(Strategy, Mesh)>> {
    if args.ranks > run::MOST_RUNNING {
        let most = run::MOST_RUNNING;
        let why = format!("--ranks {}: a rank is a group of threads here; use at most {most}", args.ranks);
        return Err(Fault::Usage(why));
    }
    let mesh = |strategy: Strategy| {
        let (u, r) = if strategy == Strategy::Usp { (args.ulysses, args.ring) } else { (None, None) };
        strategy.mesh(args.ranks, u, r, heads.0, heads.1)
    };
    let list = match &args.strategy {
        Strategies::Named(list) => list.clone(),
        Strategies::All => {
            Strategy::ALL.into_iter().filter(|s| (*s == Strategy::Single) == (args.ranks == 1)).collect()
        }
    };
    let mut found = Vec::new();
    for strategy in list {
        if let Some(mesh) = allowed(args, strategy, mesh(strategy))? {
            found.push((strategy, mesh));
        }
    }
    Ok(found)
}

/// What a strategy was asked for; none, and a note, where one of `all` cannot give it.
pub(super) fn allowed<T>(args: &WorldArgs, strategy: Strategy, made: seqpar::Result<T>) -> Result<Option<T>> {
    match (made, &args.strategy) {
        (Ok(made), _) => Ok(Some(made)),
        (Err(error), Strategies::Named(_)) => Err(error.into()),
        (Err(error), Strategies::All) => {
            output::note(&format!("{}: left out: {error}", strategy.name()));
            Ok(None)
        }
    }
}

/// Refuses a size for which nothing could be measured.
pub(super) fn refuse_none(measured: usize, tokens: usize, args: &WorldArgs) -> Result<()> {
    match measured {
        0 => Err(Fault::Usage(format!("no strategy can split {tokens} tokens over {} ranks", args.ranks))),
        _ => Ok(()),
    }
}
