//! Happens-before on one rank, as vector clocks over streams.
//!
//! A clock counts, for every stream, the ops that have surely ended. An op has one clock at its
//! start and one at its end; they differ by the op itself and, for a gated kernel, by what its
//! gates waited for: the end of such a kernel implies the end of those transfers, its start does
//! not. Tests: `tests/plan_properties.rs` against a naive closure.

use super::edges::Edge;
use super::{OpId, Plan};

/// Which op surely ends before which other starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HappensBefore {
    streams: usize,
    /// Stream of each op, and how many ops stand before it on that stream.
    place: Vec<(u16, u32)>,
    start: Vec<u32>,
    end: Vec<u32>,
}

impl HappensBefore {
    /// The order that stream order and the derived edges imply, with gates as flags: the weakest
    /// order under which the plan may run.
    pub fn derived(plan: &Plan, edges: &[Edge]) -> Self {
        let mut order = Self::unordered(plan);
        let mut last = vec![None; plan.streams.len()];
        let mut next_edge = 0;
        for id in plan.op_ids() {
            let first = next_edge;
            while edges.get(next_edge).is_some_and(|edge| edge.to == id) {
                next_edge += 1;
            }
            let incoming = &edges[first..next_edge];
            let stream = plan.op(id).stream.0 as usize;
            if let Some(previous) = last[stream].replace(id) {
                order.start_after(id, previous);
            }
            for edge in incoming.iter().filter(|edge| !edge.gate) {
                order.start_after(id, edge.from);
            }
            order.close(id);
            for edge in incoming.iter().filter(|edge| edge.gate) {
                order.end_after(id, edge.from);
            }
        }
        order
    }

    /// True if `a` surely ends before `b` starts.
    pub fn ends_before_start(&self, a: OpId, b: OpId) -> bool {
        self.clock_has(self.start_clock(b), a)
    }

    /// True if `a` surely ends before `b` ends, or is `b`.
    pub fn ends_before_end(&self, a: OpId, b: OpId) -> bool {
        self.clock_has(self.end_clock(b), a)
    }

    /// For every stream, how many of its ops have surely ended when `op` starts.
    pub fn start_clock(&self, op: OpId) -> &[u32] {
        &self.start[op.0 as usize * self.streams..][..self.streams]
    }

    /// For every stream, how many of its ops have surely ended when `op` ends.
    pub fn end_clock(&self, op: OpId) -> &[u32] {
        &self.end[op.0 as usize * self.streams..][..self.streams]
    }

    /// Stream of `op` and the number of ops before it on that stream.
    pub fn place(&self, op: OpId) -> (usize, u32) {
        let (stream, position) = self.place[op.0 as usize];
        (stream as usize, position)
    }

    /// True if a clock of this order counts `op` among the ended.
    pub(super) fn clock_has(&self, clock: &[u32], op: OpId) -> bool {
        let (stream, position) = self.place(op);
        clock[stream] > position
    }

    /// Every op in its place, no clock set.
    pub(super) fn unordered(plan: &Plan) -> Self {
        let streams = plan.streams.len();
        let mut counts = vec![0; streams];
        let place = plan.ops.iter().map(|op| {
            let count = &mut counts[op.stream.0 as usize];
            *count += 1;
            (op.stream.0, *count - 1)
        });
        let place = place.collect();
        let clocks = vec![0; streams * plan.ops.len()];
        Self { streams, place, start: clocks.clone(), end: clocks }
    }

    /// Sets both clocks of `op`.
    pub(super) fn set(&mut self, op: OpId, start: &[u32], end: &[u32]) {
        let at = op.0 as usize * self.streams;
        self.start[at..at + self.streams].copy_from_slice(start);
        self.end[at..at + self.streams].copy_from_slice(end);
    }

    fn start_after(&mut self, op: OpId, earlier: OpId) {
        let (to, from) = (op.0 as usize * self.streams, earlier.0 as usize * self.streams);
        for stream in 0..self.streams {
            self.start[to + stream] = self.start[to + stream].max(self.end[from + stream]);
        }
    }

    fn end_after(&mut self, op: OpId, earlier: OpId) {
        let (to, from) = (op.0 as usize * self.streams, earlier.0 as usize * self.streams);
        for stream in 0..self.streams {
            self.end[to + stream] = self.end[to + stream].max(self.end[from + stream]);
        }
    }

    /// The end clock: the start clock and the op itself.
    fn close(&mut self, op: OpId) {
        let at = op.0 as usize * self.streams;
        self.end[at..at + self.streams].copy_from_slice(&self.start[at..at + self.streams]);
        let (stream, position) = self.place(op);
        self.end[at + stream] = self.end[at + stream].max(position + 1);
    }
}

/// Joins `other` into `clock`.
pub(super) fn join(clock: &mut [u32], other: &[u32]) {
    for (mine, theirs) in clock.iter_mut().zip(other) {
        *mine = (*mine).max(*theirs);
    }
}
