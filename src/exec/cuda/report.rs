//! What a run did, from its timers.

use super::bound::Bound;
use super::resolve::Timed;
use crate::cuda::Event;
use crate::error::{Error, Result};
use crate::exec::{Report, Span, SpanKind};
use crate::plan::{OpId, OpKind, Plan};

impl Bound<'_> {
    /// Of all ranks of the world; those that are elsewhere have done nothing.
    pub(super) fn report(&self) -> Result<Report> {
        let ns = |event: &Event| Ok::<_, Error>((f64::from(event.milliseconds_since(&self.start)?) * 1e6) as u64);
        let mut spans = Vec::new();
        for (timed, (begin, end)) in self.timed.iter().zip(&self.timers) {
            spans.push(self.span(timed, ns(begin)?, ns(end)?));
        }
        let world = self.prepared.world();
        let (mut streams, mut peak_bytes) = (vec![Vec::new(); world], vec![0; world]);
        for rank in &self.prepared.ranks {
            streams[rank.plan.rank as usize] = rank.plan.streams.clone();
            peak_bytes[rank.plan.rank as usize] = rank.memory.peak_bytes;
        }
        Ok(Report { streams, spans, bytes_sent: self.bytes_sent.clone(), peak_bytes, wall_ns: ns(&self.end)? })
    }

    fn span(&self, timed: &Timed, begin_ns: u64, end_ns: u64) -> Span {
        let plan = &self.prepared.rank(timed.rank).plan;
        let (kind, bytes, flops) = match plan.op(timed.op).kind {
            OpKind::Kernel(i) => {
                let cost = plan.kernels[i as usize].cost();
                (SpanKind::Compute, cost.bytes as u64, cost.flops)
            }
            OpKind::Comm(_) => (SpanKind::Comm, plan.op_bytes_sent(timed.op), 0.0),
            OpKind::Copy => (SpanKind::Copy, touched(plan, timed.op), 0.0),
            OpKind::External(_) => (SpanKind::External, touched(plan, timed.op), 0.0),
            OpKind::Mark => (SpanKind::Mark, 0, 0.0),
        };
        Span {
            rank: timed.rank,
            stream: self.prepared.program.streams[timed.stream].1,
            op: plan.label(timed.op).into(),
            kind,
            begin_ns,
            end_ns,
            piece: None,
            bytes,
            flops,
        }
    }
}

fn touched(plan: &Plan, op: OpId) -> u64 {
    plan.accesses(op).iter().map(|access| plan.access_bytes(access) as u64).sum()
}
