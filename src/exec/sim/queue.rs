//! The virtual clock: events in order of time, then rank, then stream, so that a simulation gives
//! the same figures every time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One stream of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) rank: u32,
    pub(super) stream: u16,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The lane looks at its next command.
    Step,
    /// The lane's piece ends, if its cost was not revised since.
    PieceEnd { revision: u32 },
    /// The lane's communication ends.
    CommEnd,
    /// The messages of a call may start.
    Wake { call: u32 },
    /// A flow's first byte moves.
    FlowBegin { flow: u32 },
    /// A flow's last byte arrives, if its rate was not revised since.
    FlowEnd { flow: u32, revision: u32 },
}

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) at: u64,
    pub(super) lane: Lane,
    pub(super) what: What,
}

/// What is to come. Times are ns after the start.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Event>>,
}

impl Queue {
    pub(super) fn push(&mut self, at: u64, lane: Lane, what: What) {
        self.heap.push(Reverse(Event { at, lane, what }));
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse(event)| event)
    }
}

/// Seconds as whole ns; absurd ones saturate.
pub(super) fn ns(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}
