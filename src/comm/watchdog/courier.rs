//! The thread that talks to the store.

use std::time::{Duration, Instant};

use super::message::{Beat, Cause};
use super::poll::locate;
use super::{Life, Shared, Stop};
use crate::error::{FailureKind, Result};
use crate::rendezvous::Store;

/// Looks at the process of a rank.
pub(super) type Look = Box<dyn FnMut(usize) -> Life + Send>;

/// Ranks looked at in one round; of larger worlds each round takes the next ones.
pub(super) const RANKS_A_ROUND: usize = 64;

pub(super) fn run(shared: &Shared, store: &dyn Store, mut look: Look) {
    let _end = End(shared);
    let keys = Keys { prefix: &shared.options.prefix };
    let mut count = 0;
    let mut next = 0;
    loop {
        let begin = Instant::now();
        count += 1;
        // Only what is new cannot wait: a store that fails is not asked all the time.
        let is_tried = shared.state().suspected.is_some();
        let said = round(shared, store, &keys, count, &mut next, &mut look);
        let mut state = shared.state();
        match said {
            Ok(()) => state.unreachable = None,
            Err(error) => {
                state.unreachable.get_or_insert_with(|| (begin, error.to_string()));
            }
        }
        let stop = state.stop;
        drop(state);
        shared.changed.notify_all();
        if let Some(stop) = stop {
            leave(shared, store, &keys, stop);
            return;
        }
        shared.rest(begin + shared.options.period, |state| !is_tried && state.suspected.is_some());
    }
}

struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended();
    }
}

struct Keys<'a> {
    prefix: &'a str,
}

impl Keys<'_> {
    fn failure(&self) -> String {
        format!("{}/failure", self.prefix)
    }

    fn beat(&self, rank: usize) -> String {
        format!("{}/beat/{rank}", self.prefix)
    }

    fn goodbye(&self, rank: usize) -> String {
        format!("{}/goodbye/{rank}", self.prefix)
    }
}

fn round(
    shared: &Shared,
    store: &dyn Store,
    keys: &Keys<'_>,
    count: u64,
    next: &mut usize,
    look: &mut Look,
) -> Result<()> {
    let state = shared.state();
    let suspected = state.suspected.as_ref().filter(|_| state.first.is_none()).map(|(cause, _)| cause.clone());
    let (is_known, world, comms) = (state.first.is_some(), state.peers.len(), state.comms.clone());
    drop(state);
    if !is_known {
        let bytes = match &suspected {
            Some(cause) => Some(store.claim(&keys.failure(), &cause.to_bytes())?),
            None => store.read(&keys.failure())?,
        };
        if let Some(cause) = bytes.as_deref().and_then(Cause::from_bytes) {
            shared.state().first = Some(cause);
            shared.changed.notify_all();
        }
    }
    let positions = comms.iter().map(|comm| comm.position()).collect();
    store.set(&keys.beat(shared.rank), &Beat { count, positions }.to_bytes())?;
    if !shared.state().has_beaten {
        shared.state().has_beaten = true;
        shared.changed.notify_all();
    }
    for _ in 0..RANKS_A_ROUND.min(world) {
        let rank = *next % world;
        *next = rank + 1;
        if rank != shared.rank {
            visit(shared, store, keys, rank, look)?;
        }
    }
    Ok(())
}

fn visit(shared: &Shared, store: &dyn Store, keys: &Keys<'_>, rank: usize, look: &mut Look) -> Result<()> {
    if shared.state().peers[rank].has_left {
        return Ok(());
    }
    let beat = store.read(&keys.beat(rank))?.as_deref().and_then(Beat::from_bytes);
    let now = Instant::now();
    let (has_beaten, silent) = {
        let peer = &mut shared.state().peers[rank];
        peer.hear(beat, now);
        (peer.has_beaten(), peer.silent().unwrap_or(Duration::ZERO))
    };
    // Before its first beat a rank may not have taken its lock.
    let gone = match if has_beaten { look(rank) } else { Life::Unknown } {
        Life::Gone(how) => how,
        Life::Unknown if silent > shared.options.lost_after => {
            format!("it gave no sign of life for {:.1} s", silent.as_secs_f64())
        }
        Life::Alive | Life::Unknown => return Ok(()),
    };
    // Read after the end of the process was seen, so that a last word is not missed.
    let has_left = store.read(&keys.goodbye(rank))?.is_some();
    let peer = &mut shared.state().peers[rank];
    peer.has_left = has_left;
    peer.gone = (!has_left).then_some(gone);
    Ok(())
}

fn leave(shared: &Shared, store: &dyn Store, keys: &Keys<'_>, stop: Stop) {
    let (mut first, suspected, comms) = {
        let state = shared.state();
        (state.first.clone(), state.suspected.clone(), state.comms.clone())
    };
    let how = match stop {
        Stop::Goodbye => None,
        Stop::Left => Some("it left without a goodbye"),
        Stop::Panicked => Some("it panicked"),
    };
    let cause = suspected.map(|(cause, _)| cause).or_else(|| {
        let kind = FailureKind::PeerLost { how: how?.into() };
        let mut failure = shared.failure(kind, "watchdog", vec![shared.rank]);
        locate(&mut failure, &comms);
        Some(Cause { failure, call: None })
    });
    let said = match cause {
        Some(cause) if first.is_none() => store.claim(&keys.failure(), &cause.to_bytes()).map(|bytes| {
            first = Cause::from_bytes(&bytes);
        }),
        _ => store.set(&keys.goodbye(shared.rank), b"1"),
    };
    if let Err(error) = said {
        log::warn!("rank {}: cannot tell the others that it leaves: {error}", shared.rank);
    }
    shared.state().first = first;
}
