//! What a profiler sees of a run on the host: a range `seqpar run`, and in it one around the issue of
//! each op, by its label. The kernels run later, on rows named after the plan's streams.
//! Tests: `tests/cuda_nvtx.rs`.

use super::prepared::Prepared;
use super::resolve::Resolved;
use crate::cuda::nvtx::{Domain, Label, Range, domain, name_stream};
use crate::plan::OpId;

/// The labels of a bound world, if a profiler listens.
pub(super) struct Ranges {
    domain: &'static Domain,
    run: Label,
    /// Those of all ops, by place of the rank among those that are here.
    ops: Vec<Vec<Label>>,
    first_rank: usize,
    /// By call: rank and op.
    of: Vec<Option<(usize, OpId)>>,
}

impl Ranges {
    /// `of` says which op a call of `calls` is made for.
    pub(super) fn new(
        prepared: &Prepared,
        calls: &[Resolved],
        of: impl Fn(&[Resolved], usize) -> Option<(usize, OpId)>,
    ) -> Option<Self> {
        let domain = domain()?;
        Some(Self {
            domain,
            run: domain.label("seqpar run"),
            ops: prepared.plans().map(|p| p.op_ids().map(|op| domain.label(p.label(op))).collect()).collect(),
            first_rank: prepared.first_rank(),
            of: (0..calls.len()).map(|at| of(calls, at)).collect(),
        })
    }

    pub(super) fn run(&self) -> Range<'static> {
        self.domain.range(&self.run)
    }

    fn op(&self, (rank, op): (usize, OpId)) -> Option<Range<'static>> {
        let label = self.ops.get(rank.checked_sub(self.first_rank)?)?.get(op.0 as usize)?;
        Some(self.domain.range(label))
    }
}

/// The range of the op that is being issued.
pub(super) struct Issue<'a> {
    ranges: Option<&'a Ranges>,
    open: Option<((usize, OpId), Range<'static>)>,
}

impl<'a> Issue<'a> {
    pub(super) fn new(ranges: Option<&'a Ranges>) -> Self {
        Self { ranges, open: None }
    }

    /// Call `at` is next: its op's range is open, and no other.
    pub(super) fn at(&mut self, at: usize) {
        let Some(ranges) = self.ranges else { return };
        let op = ranges.of.get(at).copied().flatten();
        if self.open.as_ref().map(|(open, _)| *open) == op {
            return;
        }
        // The last one ends before the next begins.
        self.open = None;
        self.open = op.and_then(|op| Some((op, ranges.op(op)?)));
    }
}

/// Names the rows of the streams after the plans'.
pub(super) fn name_streams(prepared: &Prepared) {
    if domain().is_none() {
        return;
    }
    for (stream, &(rank, own)) in prepared.streams.iter().zip(&prepared.program.streams) {
        let name = prepared.rank(rank).plan.streams.get(own).map_or("", String::as_str);
        name_stream(stream, &format!("rank {rank} {name}"));
    }
}
