//! How the communications of a prepared plan are made.

#[cfg(feature = "nccl")]
mod nccl;

use super::agreement::Agreement;
use super::prepared::CudaOptions;
use crate::error::{Error, Result};
use crate::plan::Plan;

#[cfg(feature = "nccl")]
pub use nccl::{Agreed, Nccl};

/// How the communications of a prepared plan are made. It changes no bit.
#[derive(Debug)]
pub enum Transport {
    /// All ranks are here, on one device: copies within it.
    Loopback,
    /// One rank is here: groups of NCCL calls. Made by [`Nccl::transport`].
    #[cfg(feature = "nccl")]
    Nccl(Agreed),
}

impl Transport {
    /// What the ranks of the world agreed on; `None` where all of them are here.
    pub(super) fn agreement(&self) -> Option<&Agreement> {
        match self {
            Self::Loopback => None,
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => Some(agreed.agreement()),
        }
    }

    /// Refuses to run a rank's plan.
    pub(super) fn fits(&self, plan: &Plan, _options: &CudaOptions) -> Result<()> {
        match self {
            Self::Loopback if plan.world == 1 => Ok(()),
            Self::Loopback => Err(Error::Mesh(format!(
                "rank {} of {} by loopback: prepare the plans of all ranks together",
                plan.rank, plan.world
            ))),
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.fits(plan, _options),
        }
    }

    /// The communicator of a group.
    pub(super) fn communicator(&self, _group: &[u32]) -> Option<usize> {
        match self {
            Self::Loopback => None,
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.communicator(_group),
        }
    }

    /// Name of a communicator, and number of the op that it issued last.
    pub(super) fn last_issued(&self, _communicator: usize) -> (String, Option<u64>) {
        match self {
            Self::Loopback => (String::new(), None),
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.last_issued(_communicator),
        }
    }

    /// The first failure that the other ranks or the library have made known.
    pub(super) fn health(&self) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.health(),
        }
    }

    /// Ends what is in flight: no op will finish that waits for another rank.
    ///
    /// # Errors
    /// An end that does not return.
    pub(super) fn abort(&self, _why: &str) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.abort(_why),
        }
    }
}
