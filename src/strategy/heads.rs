//! Which heads a rank computes. Head counts need not divide the ranks: shares differ by at most
//! one query head, and a rank that owns part of a key head's group reads that key head too.

use std::ops::Range;

use crate::shard::even_range;

/// Query heads and the key heads that they read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadSlice {
    pub(crate) q: Range<usize>,
    pub(crate) kv: Range<usize>,
}

impl HeadSlice {
    /// Share `index` of `parts`; `group` query heads read one key head.
    pub(crate) fn share(heads: usize, group: usize, parts: usize, index: usize) -> Self {
        Self::reading(even_range(heads, parts, index), group)
    }

    fn reading(q: Range<usize>, group: usize) -> Self {
        let kv = if q.is_empty() { 0..0 } else { q.start / group..q.end.div_ceil(group) };
        Self { q, kv }
    }

    /// True without a head.
    pub(crate) fn is_empty(&self) -> bool {
        self.q.is_empty()
    }

    /// Part `index` of `parts` for pipelining, cut between key heads so that no key head is in
    /// two parts and none is sent twice.
    pub(crate) fn stage(&self, group: usize, parts: usize, index: usize) -> Self {
        let kv = even_range(self.kv.len(), parts, index);
        let (first, last) = ((self.kv.start + kv.start) * group, (self.kv.start + kv.end) * group);
        let start = first.max(self.q.start);
        Self::reading(start..last.min(self.q.end).max(start), group)
    }
}
