//! Which rank this process is, from what its launcher left in the environment.
//!
//! In this order: explicit options, torchrun (all of its variables), Open MPI, Slurm (inside a step
//! of more than one task), PMI (MPICH, Intel MPI). Where two of them are there and disagree,
//! nothing is guessed: the error says what each says. One case is not a disagreement: torchrun's
//! agents, or Open MPI's daemons, that were themselves started by Slurm are fewer than the ranks,
//! and the ranks count.
//!
//! Assumes nothing of the process: [`detect`] is a function of a map, [`from_environment`] reads it.
//!
//! Proof: `tests/rendezvous/launch.rs`.

mod address;
mod agree;
mod sets;

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Who started the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// The caller said which rank this is.
    Explicit,
    /// PyTorch's.
    Torchrun,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// `srun`.
    Slurm,
    /// `mpirun` of MPICH or Intel MPI.
    Pmi,
}

/// What a launcher says of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Who says it.
    pub launcher: Launcher,
    /// This rank.
    pub rank: usize,
    /// Ranks in all.
    pub world: usize,
    /// This rank among those of its machine, if known.
    pub local_rank: Option<usize>,
    /// Ranks on this machine, if known.
    pub local_world: Option<usize>,
    /// Host and port where a store may be served, if known.
    pub address: Option<(String, u16)>,
    /// A store already answers there, so that no rank may serve one.
    pub serves_store: bool,
    /// Name of the job, another one for each start of it, if known.
    pub job: Option<String>,
}

/// What the caller knows better than any launcher. Rank and world come together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explicit {
    /// This rank.
    pub rank: Option<usize>,
    /// Ranks in all.
    pub world: Option<usize>,
    /// This rank among those of its machine.
    pub local_rank: Option<usize>,
    /// Host and port of the store.
    pub address: Option<(String, u16)>,
    /// Name of the job.
    pub job: Option<String>,
}

impl Launch {
    /// The device of this rank where each rank of a machine takes its own.
    ///
    /// # Errors
    /// No local rank, or one that is not below the devices that this process sees.
    pub fn device(&self, visible_devices: usize) -> Result<usize> {
        let Some(local) = self.local_rank.or((self.world == 1).then_some(0)) else {
            return Err(Error::Mesh(format!("rank {} has no local rank: name its device", self.rank)));
        };
        if local >= visible_devices {
            return Err(Error::Mesh(format!(
                "local rank {local} but {visible_devices} visible devices: start fewer ranks a machine, or name the \
                 device (0 where each rank sees only its own)"
            )));
        }
        Ok(local)
    }
}

/// What the environment of this process says.
///
/// # Errors
/// As [`detect`].
pub fn from_environment(explicit: &Explicit) -> Result<Option<Launch>> {
    // Values that are no text cannot be a launcher's.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    detect(&std::env::vars_os().filter_map(text).collect(), explicit)
}

/// What a set of variables says; nothing where no launcher left any.
///
/// # Errors
/// Launchers that disagree, half a set, a value that is no number, a rank outside its world.
pub fn detect(variables: &BTreeMap<String, String>, explicit: &Explicit) -> Result<Option<Launch>> {
    let found = match (explicit.rank, explicit.world) {
        (Some(rank), Some(world)) => Some(Launch {
            launcher: Launcher::Explicit,
            rank,
            world,
            local_rank: None,
            local_world: None,
            address: None,
            serves_store: false,
            job: None,
        }),
        (None, None) => agree::chosen(&sets::Variables(variables))?,
        _ => return Err(Error::Mesh("give rank and world together, or neither".into())),
    };
    let Some(mut launch) = found else { return Ok(None) };
    launch.local_rank = explicit.local_rank.or(launch.local_rank);
    if let Some(address) = &explicit.address {
        launch.serves_store = launch.serves_store && launch.address.as_ref() == Some(address);
        launch.address = Some(address.clone());
    }
    launch.job = explicit.job.clone().or(launch.job);
    if launch.rank >= launch.world {
        return Err(Error::Mesh(format!("rank {} of {}: ranks count from 0", launch.rank, launch.world)));
    }
    if let (Some(local), Some(world)) = (launch.local_rank, launch.local_world)
        && local >= world
    {
        return Err(Error::Mesh(format!("local rank {local} of {world} on this machine: local ranks count from 0")));
    }
    Ok(Some(launch))
}
