//! One launcher out of those that left variables.

use super::sets::{Variables, half_of_torchrun, open_mpi, pmi, slurm, torchrun};
use super::{Launch, Launcher};
use crate::error::{Error, Result};

/// The first in the order of the module's doc, if all others agree with it.
pub(super) fn chosen(variables: &Variables<'_>) -> Result<Option<Launch>> {
    let found: Vec<Launch> = [torchrun(variables)?, open_mpi(variables)?, slurm(variables)?, pmi(variables)?]
        .into_iter()
        .flatten()
        .collect();
    let half = half_of_torchrun(variables).filter(|_| !found.iter().any(|set| set.launcher == Launcher::Torchrun));
    let Some((first, others)) = found.split_first() else {
        return match (half, variables.text("PMIX_RANK")) {
            (Some((there, missing)), _) => Err(Error::Mesh(format!(
                "{there} set but not {missing}: set all of torchrun's variables, or give rank and world"
            ))),
            (None, Some(rank)) => Err(Error::Mesh(format!(
                "PMIX_RANK={rank} but no world size that seqpar can read: give rank and world"
            ))),
            (None, None) => Ok(None),
        };
    };
    let elastic = variables.text("TORCHELASTIC_RUN_ID").is_some();
    for other in others {
        if !agrees(first, other, elastic) {
            return Err(Error::Mesh(format!(
                "{} says rank {} of {}, {} says rank {} of {}: unset one of them, or give rank and world",
                name(first.launcher),
                first.rank,
                first.world,
                name(other.launcher),
                other.rank,
                other.world
            )));
        }
    }
    for (name, expected) in [("RANK", first.rank), ("WORLD_SIZE", first.world)] {
        if half.is_some() && variables.number::<usize>(name)?.is_some_and(|number| number != expected) {
            let launcher = self::name(first.launcher);
            return Err(Error::Mesh(format!(
                "{launcher} says rank {} of {}, but {name}={}: unset it, or give rank and world",
                first.rank,
                first.world,
                variables.text(name).unwrap_or_default()
            )));
        }
    }
    Ok(Some(first.clone()))
}

/// True if `outer` says the same, or counts the agents that started the ranks of `inner`.
fn agrees(inner: &Launch, outer: &Launch, elastic: bool) -> bool {
    if (inner.rank, inner.world) == (outer.rank, outer.world) {
        return true;
    }
    match (inner.launcher, outer.launcher) {
        // An agent numbers its ranks as agents come, so with one rank each the numbers may differ.
        (Launcher::Torchrun, _) => elastic && outer.world <= inner.world,
        (Launcher::OpenMpi, Launcher::Slurm) => outer.world < inner.world,
        _ => false,
    }
}

fn name(launcher: Launcher) -> &'static str {
    match launcher {
        Launcher::Explicit => "the caller",
        Launcher::Torchrun => "torchrun",
        Launcher::OpenMpi => "Open MPI",
        Launcher::Slurm => "Slurm",
        Launcher::Pmi => "PMI",
    }
}
