//! The variables of each launcher.

use std::collections::BTreeMap;

use super::address::first_host;
use super::{Launch, Launcher};
use crate::error::{Error, Result};

/// The environment, read with care.
pub(super) struct Variables<'a>(pub(super) &'a BTreeMap<String, String>);

impl Variables<'_> {
    /// Set and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong =
            || Error::Mesh(format!("{name}={text} is not a number that fits: unset it, or give rank and world"));
        text.parse().map(Some).map_err(|_| wrong())
    }
}

const TORCHRUN: [&str; 5] = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"];

/// torchrun's, if all are there.
pub(super) fn torchrun(variables: &Variables<'_>) -> Result<Option<Launch>> {
    if TORCHRUN.iter().any(|name| variables.text(name).is_none()) {
        return Ok(None);
    }
    let (Some(rank), Some(world)) = (variables.number("RANK")?, variables.number("WORLD_SIZE")?) else {
        return Ok(None);
    };
    let port: Option<u16> = variables.number("MASTER_PORT")?;
    let job = variables.text("TORCHELASTIC_RUN_ID").zip(port).map(|(run, port)| {
        format!("torchrun.{run}.{}.{port}", variables.text("TORCHELASTIC_RESTART_COUNT").unwrap_or("0"))
    });
    Ok(Some(Launch {
        launcher: Launcher::Torchrun,
        rank,
        world,
        local_rank: variables.number("LOCAL_RANK")?,
        local_world: variables.number("LOCAL_WORLD_SIZE")?,
        address: variables.text("MASTER_ADDR").map(String::from).zip(port),
        serves_store: variables
            .text("TORCHELASTIC_USE_AGENT_STORE")
            .is_some_and(|value| value.eq_ignore_ascii_case("true")),
        job,
    }))
}

/// Half of torchrun's: which are there, which are not.
pub(super) fn half_of_torchrun(variables: &Variables<'_>) -> Option<(String, String)> {
    let (there, missing): (Vec<&str>, Vec<&str>) = TORCHRUN.iter().partition(|name| variables.text(name).is_some());
    // The address alone is no sign of a launcher, nor is a local rank.
    (there.contains(&"RANK") || there.contains(&"WORLD_SIZE")).then(|| (there.join(", "), missing.join(", ")))
}

pub(super) fn open_mpi(variables: &Variables<'_>) -> Result<Option<Launch>> {
    let ranks = variables.number("OMPI_COMM_WORLD_RANK")?.zip(variables.number("OMPI_COMM_WORLD_SIZE")?);
    let Some((rank, world)) = ranks else { return Ok(None) };
    Ok(Some(Launch {
        launcher: Launcher::OpenMpi,
        rank,
        world,
        local_rank: variables.number("OMPI_COMM_WORLD_LOCAL_RANK")?,
        local_world: variables.number("OMPI_COMM_WORLD_LOCAL_SIZE")?,
        address: None,
        serves_store: false,
        job: variables.text("PMIX_NAMESPACE").map(|job| format!("openmpi.{job}")),
    }))
}

/// Slurm's, inside a step of more than one task; a batch script has variables of the same names.
pub(super) fn slurm(variables: &Variables<'_>) -> Result<Option<Launch>> {
    let Some(step) = variables.text("SLURM_STEP_ID") else { return Ok(None) };
    let ranks = variables.number("SLURM_PROCID")?.zip(variables.number("SLURM_NTASKS")?);
    let Some((rank, world)) = ranks.filter(|&(_, world)| world > 1usize) else { return Ok(None) };
    let id: Option<u64> = variables.number("SLURM_JOB_ID")?;
    // The port that JAX derives: another one for most jobs of a machine.
    let port = id.map(|id| (id % 4096 + 61440) as u16);
    let job = id.map(|id| format!("slurm.{id}.{step}.{}", variables.text("SLURM_RESTART_COUNT").unwrap_or("0")));
    Ok(Some(Launch {
        launcher: Launcher::Slurm,
        rank,
        world,
        local_rank: variables.number("SLURM_LOCALID")?,
        local_world: None,
        address: variables.text("SLURM_STEP_NODELIST").and_then(first_host).zip(port),
        serves_store: false,
        job,
    }))
}

pub(super) fn pmi(variables: &Variables<'_>) -> Result<Option<Launch>> {
    let Some((rank, world)) = variables.number("PMI_RANK")?.zip(variables.number("PMI_SIZE")?) else { return Ok(None) };
    Ok(Some(Launch {
        launcher: Launcher::Pmi,
        rank,
        world,
        local_rank: variables.number("MPI_LOCALRANKID")?,
        local_world: variables.number("MPI_LOCALNRANKS")?,
        address: None,
        serves_store: false,
        job: None,
    }))
}
