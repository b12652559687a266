//! The way back from head shards to token shards: the AllToAll of attention's output, and the
//! gather of replicated text.

use std::ops::Range;

use super::attend::{Queries, image_positions};
use super::context::{Context, Slot, Tokens};
use super::heads::HeadSlice;
use crate::plan::{CommKind, Direction, View};
use crate::shard::IndexMap;

/// Destinations of one attention's output: this rank's rows straight into `out`, the rows of
/// every other member into a slot for it.
pub(crate) struct Returning {
    stage: String,
    members: Vec<usize>,
    send: Vec<Slot>,
}

impl Returning {
    /// Slots for the rows of `members` (indices in the sequence) under this rank's `heads`.
    pub(crate) fn new(cx: &mut Context, stage: &str, members: &[usize], heads: &HeadSlice) -> Self {
        let others = members.iter().filter(|&&s| s != cx.me);
        let shapes: Vec<_> = others.map(|&s| row_shapes(cx, s, heads)).collect();
        let send = cx.slots(&format!("out send{stage}"), cx.problem.dtype, &shapes);
        Self { stage: stage.into(), members: members.to_vec(), send }
    }

    /// Queries of member `s`, whose image and split text rows are `q` and `text_q`.
    pub(crate) fn queries(
        &self,
        cx: &Context,
        s: usize,
        heads: &HeadSlice,
        q: View,
        text_q: Option<View>,
        out: &Tokens,
    ) -> Vec<Queries> {
        let (image, text) = if s == cx.me {
            (out.image.heads(heads.q.clone()), out.text.map(|text| text.heads(heads.q.clone())))
        } else {
            let slot = &self.send[self.members.iter().filter(|&&m| m != cx.me).position(|&m| m == s).unwrap_or(0)];
            (slot.parts[0], slot.parts.get(1).copied())
        };
        let mut list = Vec::new();
        if let (Some(q), Some(out)) = (text_q, text) {
            list.push(Queries { q, out, positions: cx.text_map(s) });
        }
        list.push(Queries { q, out: image, positions: image_positions(cx, cx.image_map(s)) });
        list
    }

    /// Sends the slots; returns what will arrive, for [`Arriving::unpack`]. `heads_of` gives the
    /// heads that a member computed.
    pub(crate) fn send(self, cx: &mut Context, heads_of: impl Fn(&Context, usize) -> HeadSlice) -> Option<Arriving> {
        let others: Vec<usize> = self.members.iter().copied().filter(|&s| s != cx.me).collect();
        if others.is_empty() {
            return None;
        }
        let heads: Vec<HeadSlice> = others.iter().map(|&s| heads_of(cx, s)).collect();
        let shapes: Vec<_> = heads.iter().map(|heads| row_shapes(cx, cx.me, heads)).collect();
        let slots = cx.slots(&format!("out recv{}", self.stage), cx.problem.dtype, &shapes);
        let sends = others.iter().zip(&self.send).map(|(&s, slot)| (Direction::Send, s, slot.whole));
        let recvs = others.iter().zip(&slots).map(|(&s, slot)| (Direction::Recv, s, slot.whole));
        let transfers: Vec<_> = sends.chain(recvs).collect();
        let label = format!("all-to-all out{}", self.stage);
        cx.communicate(&label, CommKind::AllToAll, &self.members, cx.problem.dtype, &transfers);
        Some(Arriving { stage: self.stage, heads, slots })
    }
}

/// Output rows of this rank on their way from the members that computed them.
pub(crate) struct Arriving {
    stage: String,
    heads: Vec<HeadSlice>,
    slots: Vec<Slot>,
}

impl Arriving {
    /// Puts them at their heads of `out`.
    pub(crate) fn unpack(self, cx: &mut Context, out: &Tokens) {
        let mut copies = Vec::new();
        for (heads, slot) in self.heads.iter().zip(&self.slots) {
            copies.push((slot.parts[0], vec![out.image.heads(heads.q.clone())]));
            if let (Some(&text), Some(out)) = (slot.parts.get(1), out.text) {
                copies.push((text, vec![out.heads(heads.q.clone())]));
            }
        }
        let dtype = cx.problem.dtype;
        cx.pack(&format!("unpack out{}", self.stage), dtype, dtype, &copies);
    }
}

fn row_shapes(cx: &Context, s: usize, heads: &HeadSlice) -> Vec<[usize; 4]> {
    let rows = |map: &IndexMap| [cx.problem.batch, map.len(), heads.q.len(), cx.problem.head_dim];
    let text = cx.text_map(s);
    let mut shapes = vec![rows(cx.image_map(s))];
    if !cx.problem.shard.text.is_replicated() && !cx.problem.shard.text.is_empty() {
        shapes.push(rows(&text));
    }
    shapes
}

/// Rows and heads of replicated text that one rank of the sequence computes.
#[derive(Clone, Debug)]
pub(crate) struct TextShare {
    pub(crate) rows: Range<usize>,
    pub(crate) heads: Range<usize>,
}

/// This rank's share of replicated text's output: a buffer `[B, rows, heads, D]` that attention
/// writes and [`gather_text`] sends; on a single rank the output itself.
pub(crate) fn text_slot(cx: &mut Context, share: &TextShare, out: View) -> View {
    if cx.ranks.len() == 1 {
        return out;
    }
    let shape = [cx.problem.batch, share.rows.len(), share.heads.len(), cx.problem.head_dim];
    cx.temp("text out share", shape)
}

/// Gathers the shares of all ranks into `out [B, T, H, D]` on every rank.
pub(crate) fn gather_text(cx: &mut Context, own: View, share_of: impl Fn(&Context, usize) -> TextShare, out: View) {
    let all: Vec<usize> = (0..cx.ranks.len()).collect();
    if all.len() == 1 {
        return;
    }
    let shares: Vec<TextShare> = all.iter().map(|&s| share_of(cx, s)).collect();
    let others: Vec<usize> = all.iter().copied().filter(|&s| s != cx.me).collect();
    let shape = |share: &TextShare| [cx.problem.batch, share.rows.len(), share.heads.len(), cx.problem.head_dim];
    let shapes: Vec<_> = others.iter().map(|&s| vec![shape(&shares[s])]).collect();
    let slots = cx.slots("text out recv", cx.problem.dtype, &shapes);
    let sends = others.iter().map(|&s| (Direction::Send, s, own));
    let recvs = others.iter().zip(&slots).map(|(&s, slot)| (Direction::Recv, s, slot.whole));
    let transfers: Vec<_> = sends.chain(recvs).collect();
    cx.communicate("all-gather text out", CommKind::AllGather, &all, cx.problem.dtype, &transfers);
    let place = |share: &TextShare| vec![out.rows(share.rows.clone()).heads(share.heads.clone())];
    let mut copies = vec![(own, place(&shares[cx.me]))];
    copies.extend(others.iter().zip(&slots).map(|(&s, slot)| (slot.parts[0], place(&shares[s]))));
    let dtype = cx.problem.dtype;
    cx.pack("unpack text out", dtype, dtype, &copies);
}
