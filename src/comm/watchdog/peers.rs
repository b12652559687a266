//! What this rank knows of the others, and whom it holds to be at fault when time is up.

use std::time::{Duration, Instant};

use super::message::{Beat, Position};
use crate::comm::signature::names;

/// Another rank.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    beat: Option<Beat>,
    /// When its last beat was first seen.
    changed: Option<Instant>,
    /// When its beat was looked for last.
    looked: Option<Instant>,
    /// How it was noticed that the rank has gone.
    pub(super) gone: Option<String>,
    /// It said goodbye.
    pub(super) has_left: bool,
}

impl Peer {
    /// Takes note of its beat as it was read at `now`.
    pub(super) fn hear(&mut self, beat: Option<Beat>, now: Instant) {
        self.looked = Some(now);
        let Some(beat) = beat else { return };
        if self.beat.as_ref().is_none_or(|old| old.count != beat.count) {
            self.changed = Some(now);
        }
        self.beat = Some(beat);
    }

    pub(super) fn has_beaten(&self) -> bool {
        self.beat.is_some()
    }

    /// How long it had been silent at the last look, which may be a while ago; `None` before its
    /// first beat.
    pub(super) fn silent(&self) -> Option<Duration> {
        Some(self.looked?.saturating_duration_since(self.changed?))
    }

    fn position(&self, comm: u64) -> Option<Position> {
        self.beat.as_ref()?.positions.iter().find(|position| position.comm == comm).copied()
    }
}

/// Who keeps the op `own.ended` of a communicator from ending, and why that is thought. Ranks that
/// were not looked at since `fresh` are not judged.
pub(super) fn blame(
    peers: &[Peer],
    members: &[usize],
    rank: usize,
    own: Position,
    silence: Duration,
    fresh: Instant,
) -> (Vec<usize>, String) {
    let others: Vec<(usize, &Peer)> =
        members.iter().filter(|&&member| member != rank).filter_map(|&m| Some((m, peers.get(m)?))).collect();
    let list = |wanted: &dyn Fn(&Peer) -> bool| -> Vec<usize> {
        others.iter().filter(|(_, peer)| wanted(peer)).map(|(member, _)| *member).collect()
    };
    let left = list(&|peer| peer.has_left);
    if !left.is_empty() {
        return (left.clone(), format!("{} left before it", names(&left)));
    }
    let is_known = |peer: &Peer| peer.looked.is_some_and(|looked| looked > fresh);
    let known = list(&is_known);
    if known.is_empty() && !others.is_empty() {
        return (Vec::new(), "nothing is known of the others, since the store does not answer".into());
    }
    let silent = list(&|peer| is_known(peer) && peer.silent().is_none_or(|silent| silent > silence));
    if !silent.is_empty() {
        return (silent.clone(), format!("{} gives no sign of life", names(&silent)));
    }
    let is_behind = |peer: &Peer| peer.position(own.comm).is_none_or(|position| position.called <= own.ended);
    let behind = list(&|peer| is_known(peer) && is_behind(peer));
    if !behind.is_empty() {
        return (behind.clone(), format!("{} did not call it", names(&behind)));
    }
    let at_it = |peer: &Peer| peer.position(own.comm).filter(|position| position.ended == own.ended);
    let differs = list(&|peer| is_known(peer) && at_it(peer).is_some_and(|position| position.head != own.head));
    match differs.len() {
        0 => (Vec::new(), "all others called it; compare the flight records".into()),
        // The fewer are at fault.
        n if 2 * n > known.len() && known.len() > 1 => {
            (vec![rank], "this rank called another op than the others".into())
        }
        _ => (differs.clone(), format!("{} called another op", names(&differs))),
    }
}
