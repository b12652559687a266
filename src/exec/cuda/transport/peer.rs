//! One rank among peers whose memory its copies reach.

use std::ops::Range;

use super::Transport;
use crate::comm::peer::{Connection, Message, Peers, Step};
use crate::error::{Error, Result};
use crate::exec::cuda::agreement::Agreement;
use crate::exec::cuda::resolve::{Call, Side};
use crate::plan::{Checked, Plan};

/// A rank among its peers, and what all ranks agreed on for a world of plans.
#[derive(Debug)]
pub struct Joined {
    peers: Peers,
    agreement: Agreement,
}

impl Transport {
    /// Copies into the peers' memory, for one of `plans`, which are those of all ranks, in order.
    /// Every bind of what is prepared connects it with the other ranks': they bind alike.
    ///
    /// # Errors
    /// Plans of another world.
    pub fn peer(peers: &Peers, plans: &[Checked<Plan>]) -> Result<Self> {
        if plans.len() != peers.world() {
            return Err(Error::Mesh(format!("the plans of {} ranks among {} peers", plans.len(), peers.world())));
        }
        Ok(Self::Peer(Joined { peers: peers.clone(), agreement: Agreement::without_library(plans)? }))
    }
}

impl Joined {
    pub(super) fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(super) fn fits(&self, plan: &Plan) -> Result<()> {
        let (rank, world) = (plan.rank as usize, plan.world as usize);
        if (rank, world) != (self.peers.rank(), self.peers.world()) {
            return Err(Error::Mesh(format!(
                "the plan of rank {rank} of {world} for peer {} of {}",
                self.peers.rank(),
                self.peers.world()
            )));
        }
        Ok(())
    }

    pub(super) fn connect(&self, sides: &[Side]) -> Result<Connection> {
        let message = |side: &Side| {
            let Side { peer, direction, address, bytes } = *side;
            Message { peer, direction, address, bytes }
        };
        self.peers.connect(&sides.iter().map(message).collect::<Vec<_>>())
    }
}

/// The calls of one op.
pub(super) fn calls(connection: &Connection, messages: Range<usize>) -> Vec<Call> {
    let call = |step| match step {
        Step::Raise(flag) => Call::RaiseFlag(flag),
        Step::Wait(flag) => Call::WaitFlag(flag),
        Step::Lower(flag) => Call::LowerFlag(flag),
        Step::Copy { to, from, bytes } => Call::Copy { to, from, bytes },
    };
    connection.steps(messages).into_iter().map(call).collect()
}
