//! How the communications of a prepared plan are made.

use std::sync::Arc;

#[cfg(feature = "nccl")]
mod in_flight;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(feature = "nccl")]
mod peer;

use super::agreement::Agreement;
use super::options::CudaOptions;
use super::progress::Progress;
use super::resolve::{Call, Resolved, Side};
use crate::error::{Error, Result};
use crate::plan::Plan;

#[cfg(feature = "nccl")]
pub use nccl::{Agreed, Nccl};
#[cfg(feature = "nccl")]
pub use peer::Joined;

/// How the communications of a prepared plan are made. It changes no bit.
#[derive(Debug)]
pub enum Transport {
    /// All ranks are here, on one device: copies within it.
    Loopback,
    /// One rank is here: groups of NCCL calls. Made by [`Nccl::transport`].
    #[cfg(feature = "nccl")]
    Nccl(Agreed),
    /// One rank is here: copies into the memory of the others. Made by [`Transport::peer`].
    #[cfg(feature = "nccl")]
    Peer(Joined),
}

/// A communication that has not ended: its op, its communicator, its number there.
pub(super) struct OpenOp {
    pub(super) op: String,
    pub(super) comm: String,
    pub(super) seq: Option<u64>,
}

/// The messages of what is bound, connected with the other ranks'; nothing for other transports.
#[derive(Default)]
pub(super) struct Wires {
    #[cfg(feature = "nccl")]
    connection: Option<crate::comm::peer::Connection>,
}

impl Transport {
    /// What the ranks of the world agreed on; `None` where all of them are here.
    pub(super) fn agreement(&self) -> Option<&Agreement> {
        match self {
            Self::Loopback => None,
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => Some(agreed.agreement()),
            #[cfg(feature = "nccl")]
            Self::Peer(joined) => Some(joined.agreement()),
        }
    }

    /// Whether messages are copies into the other ranks' memory.
    pub(super) fn is_peer(&self) -> bool {
        match self {
            Self::Loopback => false,
            #[cfg(feature = "nccl")]
            Self::Nccl(_) => false,
            #[cfg(feature = "nccl")]
            Self::Peer(_) => true,
        }
    }

    /// Connects the messages of a program, in its order, together with all other ranks.
    pub(super) fn connect(&self, _sides: &[Side]) -> Result<Wires> {
        match self {
            Self::Loopback => Ok(Wires::default()),
            #[cfg(feature = "nccl")]
            Self::Nccl(_) => Ok(Wires::default()),
            #[cfg(feature = "nccl")]
            Self::Peer(joined) => Ok(Wires { connection: Some(joined.connect(_sides)?) }),
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
            #[cfg(feature = "nccl")]
            Self::Peer(joined) => joined.fits(plan),
        }
    }

    /// The communicator of a group.
    pub(super) fn communicator(&self, _group: &[u32]) -> Option<usize> {
        match self {
            Self::Loopback => None,
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.communicator(_group),
            #[cfg(feature = "nccl")]
            Self::Peer(_) => None,
        }
    }

    /// The first communication in flight that has not ended, or had not when it was aborted; `progress`
    /// is that of whoever asks.
    pub(super) fn first_open(&self, _progress: &Progress) -> Option<OpenOp> {
        match self {
            Self::Loopback => None,
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.first_open(),
            #[cfg(feature = "nccl")]
            Self::Peer(_) => {
                let (_, first) = _progress.first_open()?;
                Some(OpenOp { op: first.label.clone(), comm: "peers".into(), seq: None })
            }
        }
    }

    /// The first failure that the other ranks or the library have made known.
    pub(super) fn health(&self) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.health(),
            #[cfg(feature = "nccl")]
            Self::Peer(joined) => joined.peers().health(),
        }
    }

    /// Fails if work has ended only because it was aborted: what it wrote means nothing then.
    pub(super) fn is_whole(&self) -> Result<()> {
        match self {
            Self::Loopback => Ok(()),
            #[cfg(feature = "nccl")]
            Self::Nccl(agreed) => agreed.is_whole(),
            #[cfg(feature = "nccl")]
            Self::Peer(joined) => joined.peers().is_whole(),
        }
    }

    /// A run begins, of which nothing was enqueued yet.
    pub(super) fn begin(&self, progress: &Arc<Progress>) {
        let _run = progress.begin();
        #[cfg(feature = "nccl")]
        if let Self::Nccl(agreed) = self {
            let issued = agreed.issued();
            agreed.in_flight().begin(progress, _run, issued);
        }
    }

    /// All runs that were begun with it have ended, or nobody waits for them any more.
    pub(super) fn let_go(&self, _progress: &Arc<Progress>) {
        #[cfg(feature = "nccl")]
        if let Self::Nccl(agreed) = self {
            agreed.in_flight().let_go(_progress);
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
            #[cfg(feature = "nccl")]
            Self::Peer(joined) => {
                joined.peers().abort(_why);
                Ok(())
            }
        }
    }
}

impl Wires {
    /// The calls with the steps of their messages.
    pub(super) fn expanded(&self, calls: Vec<Resolved>) -> Vec<Resolved> {
        let expanded = |resolved: Resolved| match resolved.call {
            Call::Exchange(messages) => {
                let Resolved { rank, stream, op, .. } = resolved;
                self.calls(messages).into_iter().map(|call| Resolved { rank, stream, op, call }).collect()
            }
            call => vec![Resolved { call, ..resolved }],
        };
        calls.into_iter().flat_map(expanded).collect()
    }

    fn calls(&self, _messages: std::ops::Range<usize>) -> Vec<Call> {
        #[cfg(feature = "nccl")]
        if let Some(connection) = &self.connection {
            return peer::calls(connection, _messages);
        }
        Vec::new()
    }

    /// Never frees or unmaps what the device may use for ever.
    pub(super) fn leave(&mut self) {
        #[cfg(feature = "nccl")]
        if let Some(connection) = &mut self.connection {
            connection.leave();
        }
    }
}
