//! The time that no run of a schedule can beat: its ops as long as each takes alone, none earlier
//! than its stream and its edges allow, and nothing else in the way.
//!
//! For P chunks that arrive one after the other and are multiplied in that order this is the
//! arrival bound, the largest over the chunks i of arrival_i plus the compute of chunks i and
//! later. It assumes that the ranks are in step. Test: `tests/bench.rs`.

use super::samples::median;
use crate::exec::{Report, SpanKind};
use crate::plan::Plan;
use crate::plan::edges::derive;

/// What each op took, run by run.
pub(super) struct OpTimes {
    /// `[rank][stream]`: the ops, in issue order.
    issued: Vec<Vec<Vec<usize>>>,
    /// `[rank][op]`: seconds, one a run.
    times: Vec<Vec<Vec<f64>>>,
}

impl OpTimes {
    pub(super) fn new(plans: &[Plan]) -> Self {
        let issued = |plan: &Plan| {
            let mut streams = vec![Vec::new(); plan.streams.len()];
            plan.ops.iter().enumerate().for_each(|(i, op)| streams[op.stream.0 as usize].push(i));
            streams
        };
        Self {
            issued: plans.iter().map(issued).collect(),
            times: plans.iter().map(|plan| vec![Vec::new(); plan.ops.len()]).collect(),
        }
    }

    /// Adds the spans of the wanted kinds of a run in which every op is one span.
    pub(super) fn add(&mut self, report: &Report, wanted: impl Fn(SpanKind) -> bool) {
        let mut next: Vec<Vec<usize>> = self.issued.iter().map(|streams| vec![0; streams.len()]).collect();
        for span in &report.spans {
            let at = &mut next[span.rank][span.stream];
            if let Some(&op) = self.issued[span.rank][span.stream].get(*at)
                && wanted(span.kind)
            {
                self.times[span.rank][op].push(span.ns() as f64 / 1e9);
            }
            *at += 1;
        }
    }

    /// The largest arrival bound of all ranks, with the median of each op.
    pub(super) fn bound_s(&self, plans: &[Plan]) -> f64 {
        let bounds = plans.iter().zip(&self.times).map(|(plan, times)| {
            let medians: Vec<f64> = times.iter().map(|times| median(times)).collect();
            arrival_bound_s(plan, &medians)
        });
        bounds.fold(0.0, f64::max)
    }
}

/// Seconds of the schedule of one rank; `seconds[i]` is what op `i` takes alone.
pub fn arrival_bound_s(plan: &Plan, seconds: &[f64]) -> f64 {
    let mut waits: Vec<Vec<usize>> = vec![Vec::new(); plan.ops.len()];
    for edge in derive(plan) {
        waits[edge.to.0 as usize].push(edge.from.0 as usize);
    }
    let mut ends = vec![0.0f64; plan.ops.len()];
    let mut streams = vec![0.0f64; plan.streams.len()];
    for (op, waits) in waits.iter().enumerate() {
        let stream = &mut streams[plan.ops[op].stream.0 as usize];
        let begin = waits.iter().map(|&from| ends[from]).fold(*stream, f64::max);
        ends[op] = begin + seconds.get(op).copied().unwrap_or(0.0);
        *stream = ends[op];
    }
    ends.into_iter().fold(0.0, f64::max)
}
