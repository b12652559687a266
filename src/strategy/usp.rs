//! Ulysses × ring, and its ends: `single` (1 × 1), `ulysses` (P × 1), `ring` (1 × P).
//!
//! By head stage: project stage g + 1 while the AllToAll of g is in flight and g − 1 is in
//! attention. Within a stage the keys of the ulysses group travel around the ring: the next
//! group's keys arrive while this one's are in attention, with (m, l, O) carried in f32. They arrive
//! in two buffers in turn, so that a ring of any length holds the keys of three groups (two buffers
//! for each number of rows that a group has).
//! USP: Fang and Zhao, arXiv 2405.07719; groups as in [`crate::mesh`].

use std::collections::HashMap;

use super::attend::{Carry, KeyLimits, Keys, Queries, Step, attend};
use super::context::{Context, Slot, Tokens, ascends, pieces, rows_at};
use super::exchange::{Arriving, Returning, TextShare, gather_text, text_slot};
use super::heads::HeadSlice;
use super::project::{Part, Source, Sources, fill};
use crate::plan::{CommKind, Direction, View};
use crate::shard::{IndexMap, even_range};

/// Attention of `sources` into `out`.
pub(super) fn attention(cx: &mut Context, sources: &Sources, limits: KeyLimits, out: &Tokens) {
    let u = cx.mesh.ulysses;
    let stages = stage_count(cx);
    let own_text = out.text.filter(|_| cx.replicated_text() > 0).map(|out| {
        let share = text_share(cx, cx.me);
        text_slot(cx, &share, out)
    });
    let mut coming = Some(exchange_in(cx, sources, 0, stages));
    let mut returning: Option<Arriving> = None;
    for g in 0..stages {
        let Some(stage) = coming.take() else { break };
        if g + 1 < stages {
            coming = Some(exchange_in(cx, sources, g + 1, stages));
        }
        stage.unpack(cx);
        let sent = attend_stage(cx, sources, stage, limits, out, own_text);
        if let Some(earlier) = returning.take() {
            earlier.unpack(cx, out);
        }
        returning = sent.send(cx, |cx, s| cx.heads(u, s % u).stage(cx.group(), stages, g));
    }
    if let Some(last) = returning {
        last.unpack(cx, out);
    }
    if let (Some(own), Some(text)) = (own_text, out.text) {
        gather_text(cx, own, text_share, text);
    }
}

/// Head stages: as many as asked for, but no more than any rank has key heads.
fn stage_count(cx: &Context) -> usize {
    let u = cx.mesh.ulysses;
    if u == 1 {
        return 1;
    }
    let most = (0..u).map(|i| cx.heads(u, i).kv.len()).max().unwrap_or(1);
    cx.options.head_groups.min(most).max(1)
}

/// Replicated text: the rows are cut over the ring, the heads over the ulysses group.
fn text_share(cx: &Context, s: usize) -> TextShare {
    let (u, r) = (cx.mesh.ulysses, cx.mesh.ring);
    TextShare { rows: even_range(cx.replicated_text(), r, s / u), heads: cx.heads(u, s % u).q }
}

/// The keys of one ulysses group under one stage's heads, in global order.
struct Group {
    image: Keys,
    text: Option<Keys>,
}

/// One stage after its AllToAll.
struct Stage {
    index: usize,
    heads: HeadSlice,
    /// Image q and split text q of every member of the ulysses group, own first.
    queries: Vec<(usize, View, Option<View>)>,
    own: Group,
    /// Received k, v (and text k, v) and where they belong.
    unpack: Vec<(View, Vec<View>)>,
}

impl Stage {
    fn unpack(&self, cx: &mut Context) {
        let dtype = cx.problem.dtype;
        cx.pack(&format!("unpack kv[{}]", self.index), dtype, dtype, &self.unpack);
    }
}

fn members(cx: &Context, ring: usize) -> Vec<usize> {
    (ring * cx.mesh.ulysses..(ring + 1) * cx.mesh.ulysses).collect()
}

fn key_union(cx: &Context, ring: usize) -> (IndexMap, IndexMap) {
    let group = members(cx, ring);
    let text: Vec<IndexMap> = group.iter().map(|&s| cx.text_map(s)).collect();
    (IndexMap::union(group.iter().map(|&s| cx.key_map(s))), IndexMap::union(&text))
}

/// Buffers in turn for keys that travel around the ring.
const RING_SLOTS: usize = 2;

/// By turn, stream and rows.
type Slots = HashMap<(usize, usize, usize), (View, View)>;

/// Fills and exchanges the slots of stage `g`.
fn exchange_in(cx: &mut Context, sources: &Sources, g: usize, stages: usize) -> Stage {
    let u = cx.mesh.ulysses;
    let (i, j) = (cx.me % u, cx.me / u);
    let stage = |cx: &Context, i: usize| cx.heads(u, i).stage(cx.group(), stages, g);
    let heads = stage(cx, i);
    let (image_map, text_map) = key_union(cx, j);
    let split_text = sources.text.as_ref().filter(|_| cx.replicated_text() == 0);
    if let Some(stage) = in_place(cx, sources, &heads, &image_map, &text_map) {
        return stage;
    }
    let image = new_keys(cx, &format!("image[{g}]"), &heads, image_map, 1);
    let text = split_text.map(|_| new_keys(cx, &format!("text[{g}]"), &heads, text_map, 0));
    let (q, fill_q) = sources.image.q(cx, &format!("q[{g}]"), &heads);
    let mut image_parts = vec![own_part(&heads, fill_q, &image, cx.key_map(cx.me))];
    let mut text_parts = Vec::new();
    let mut text_q = None;
    if let (Some(source), Some(keys)) = (split_text, &text) {
        let (q, fill_q) = source.q(cx, &format!("text q[{g}]"), &heads);
        text_q = Some(q);
        text_parts.push(own_part(&heads, fill_q, keys, &cx.text_map(cx.me)));
    }
    let mut queries = vec![(cx.me, q, text_q)];
    let mut unpack = Vec::new();
    let group = members(cx, j);
    let others: Vec<usize> = group.iter().copied().filter(|&s| s != cx.me).collect();
    if !others.is_empty() {
        let send_heads: Vec<HeadSlice> = others.iter().map(|&s| stage(cx, s % u)).collect();
        let send_shapes: Vec<_> =
            send_heads.iter().map(|heads| slot_shapes(cx, cx.me, heads, split_text.is_some())).collect();
        let recv_shapes: Vec<_> = others.iter().map(|&s| slot_shapes(cx, s, &heads, split_text.is_some())).collect();
        let send = cx.slots(&format!("qkv send[{g}]"), cx.problem.dtype, &send_shapes);
        let recv = cx.slots(&format!("qkv recv[{g}]"), cx.problem.dtype, &recv_shapes);
        for (heads, slot) in send_heads.iter().zip(&send) {
            image_parts.push(slot_part(heads, &slot.parts[..3]));
            if split_text.is_some() {
                text_parts.push(slot_part(heads, &slot.parts[3..]));
            }
        }
        for (&s, slot) in others.iter().zip(&recv) {
            queries.push((s, slot.parts[0], slot.parts.get(3).copied()));
            unpack.extend(arriving_keys(&slot.parts[1..3], &image, cx.key_map(s)));
            if let Some(text) = &text {
                unpack.extend(arriving_keys(&slot.parts[4..6], text, &cx.text_map(s)));
            }
        }
        fill_sources(cx, sources, g, &image_parts, &text_parts);
        exchange(cx, &format!("all-to-all qkv[{g}]"), &group, &others, &send, &recv);
    } else {
        fill_sources(cx, sources, g, &image_parts, &text_parts);
    }
    Stage { index: g, heads, queries, own: Group { image, text }, unpack }
}

fn fill_sources(cx: &mut Context, sources: &Sources, g: usize, image: &[Part], text: &[Part]) {
    fill(cx, &format!("image[{g}]"), &sources.image, image);
    if let Some(source) = sources.text.as_ref().filter(|_| !text.is_empty()) {
        fill(cx, &format!("text[{g}]"), source, text);
    }
}

fn exchange(cx: &mut Context, label: &str, group: &[usize], others: &[usize], send: &[Slot], recv: &[Slot]) {
    let sends = others.iter().zip(send).map(|(&s, slot)| (Direction::Send, s, slot.whole));
    let recvs = others.iter().zip(recv).map(|(&s, slot)| (Direction::Recv, s, slot.whole));
    let transfers: Vec<_> = sends.chain(recvs).collect();
    cx.communicate(label, CommKind::AllToAll, group, cx.problem.dtype, &transfers);
}

/// Given q, k and v whose rows already are the group's in global order: nothing moves.
fn in_place(
    cx: &Context,
    sources: &Sources,
    heads: &HeadSlice,
    image_map: &IndexMap,
    text_map: &IndexMap,
) -> Option<Stage> {
    if cx.mesh.ulysses != 1 || !ascends(cx.key_map(cx.me)) || !ascends(&cx.text_map(cx.me)) {
        return None;
    }
    let Source::Given { q, k, v } = sources.image else { return None };
    let image = Keys { k, v, map: image_map.clone(), stream: 1 };
    let (mut text_q, mut text) = (None, None);
    if let Some(source) = sources.text.as_ref().filter(|_| cx.replicated_text() == 0) {
        let Source::Given { q, k, v } = *source else { return None };
        text_q = Some(q);
        text = Some(Keys { k, v, map: text_map.clone(), stream: 0 });
    }
    let queries = vec![(cx.me, q, text_q)];
    Some(Stage { index: 0, heads: heads.clone(), queries, own: Group { image, text }, unpack: Vec::new() })
}

fn new_keys(cx: &mut Context, name: &str, heads: &HeadSlice, map: IndexMap, stream: usize) -> Keys {
    let shape = [cx.problem.batch, map.len(), heads.kv.len(), cx.problem.head_dim];
    Keys { k: cx.temp(&format!("k {name}"), shape), v: cx.temp(&format!("v {name}"), shape), map, stream }
}

fn own_part(heads: &HeadSlice, q: Vec<View>, keys: &Keys, map: &IndexMap) -> Part {
    let at = pieces(map, &keys.map);
    Part { heads: heads.clone(), q, k: rows_at(keys.k, &at), v: rows_at(keys.v, &at) }
}

fn slot_part(heads: &HeadSlice, parts: &[View]) -> Part {
    Part { heads: heads.clone(), q: vec![parts[0]], k: vec![parts[1]], v: vec![parts[2]] }
}

fn arriving_keys(parts: &[View], keys: &Keys, map: &IndexMap) -> [(View, Vec<View>); 2] {
    let at = pieces(map, &keys.map);
    [(parts[0], rows_at(keys.k, &at)), (parts[1], rows_at(keys.v, &at))]
}

/// q, k, v of rank `s`'s image rows and, split, of its text rows.
fn slot_shapes(cx: &Context, s: usize, heads: &HeadSlice, split_text: bool) -> Vec<[usize; 4]> {
    let shape = |rows: usize, heads: usize| [cx.problem.batch, rows, heads, cx.problem.head_dim];
    let (q, kv) = (heads.q.len(), heads.kv.len());
    let (queries, keys) = (cx.image_map(s).len(), cx.key_map(s).len());
    let mut shapes = vec![shape(queries, q), shape(keys, kv), shape(keys, kv)];
    if split_text {
        let rows = cx.text_map(s).len();
        shapes.extend([shape(rows, q), shape(rows, kv), shape(rows, kv)]);
    }
    shapes
}

/// Attention of one stage: around the ring if there is one.
fn attend_stage(
    cx: &mut Context,
    sources: &Sources,
    stage: Stage,
    limits: KeyLimits,
    out: &Tokens,
    own_text: Option<View>,
) -> Returning {
    let (u, r, g) = (cx.mesh.ulysses, cx.mesh.ring, stage.index);
    let heads = &stage.heads;
    let returning = Returning::new(cx, &format!("[{g}]"), &members(cx, cx.me / u), heads);
    let mut queries: Vec<Queries> = Vec::new();
    for (s, q, text_q) in &stage.queries {
        queries.extend(returning.queries(cx, *s, heads, *q, *text_q, out));
    }
    let whole_text = replicated_text(cx, sources, heads, g, own_text);
    let text_keys = whole_text.map(|(text_queries, keys)| {
        queries.insert(0, text_queries);
        keys
    });
    let ring: Vec<usize> = (0..r).map(|j| j * u + cx.me % u).collect();
    let carry = (r > 1).then(|| Carry::new(cx, heads, &queries));
    let mut slots = Slots::new();
    let mut held = stage.own;
    for t in 0..r {
        let next = (t + 1 < r).then(|| pass_on(cx, g, t, &ring, heads, &held, &mut slots));
        let mut keys: Vec<Keys> = Vec::new();
        keys.extend(text_keys.clone().filter(|_| t == 0));
        keys.extend(held.text.clone());
        keys.push(held.image.clone());
        let (label, step) = match &carry {
            None => (format!("attention[{g}]"), Step::Whole),
            Some(carry) => (format!("attention[{g}] step {t}"), Step::Ring { carry, first: t == 0, last: t + 1 == r }),
        };
        attend(cx, &label, heads, &queries, &keys, limits, step);
        if let Some(next) = next {
            held = next;
        }
    }
    returning
}

/// Queries and keys of replicated text: every rank has all of it and takes its share of the
/// queries; the keys enter at the first step, once.
fn replicated_text(
    cx: &mut Context,
    sources: &Sources,
    heads: &HeadSlice,
    g: usize,
    own_text: Option<View>,
) -> Option<(Queries, Keys)> {
    let (source, slot) = (sources.text.as_ref()?, own_text?);
    let share = text_share(cx, cx.me);
    let map = IndexMap::contiguous(0..cx.replicated_text());
    let (q, fill_q) = source.q(cx, &format!("text q[{g}]"), heads);
    let keys = match source {
        Source::Given { k, v, .. } => {
            Keys { k: k.heads(heads.kv.clone()), v: v.heads(heads.kv.clone()), map: map.clone(), stream: 0 }
        }
        Source::Project(_) => {
            let keys = new_keys(cx, &format!("text[{g}]"), heads, map.clone(), 0);
            let part = own_part(heads, fill_q, &keys, &map);
            fill(cx, &format!("text[{g}]"), source, &[part]);
            keys
        }
    };
    let first = heads.q.start.saturating_sub(share.heads.start);
    let out = slot.heads(first..first + heads.q.len());
    let positions = IndexMap::contiguous(share.rows.clone());
    Some((Queries { q: q.rows(share.rows), out, positions }, keys))
}

/// Sends the held keys to the previous rank of the ring and receives those of the next.
fn pass_on(
    cx: &mut Context,
    g: usize,
    t: usize,
    ring: &[usize],
    heads: &HeadSlice,
    held: &Group,
    slots: &mut Slots,
) -> Group {
    let (u, r) = (cx.mesh.ulysses, cx.mesh.ring);
    let j = cx.me / u;
    let (image_map, text_map) = key_union(cx, (j + t + 1) % r);
    let turn = t % RING_SLOTS;
    let mut keys = |map: IndexMap, stream: usize| {
        let rows = map.len();
        let (k, v) = *slots.entry((turn, stream, rows)).or_insert_with(|| {
            let name = ["text", "image"][stream];
            let new = new_keys(cx, &format!("{name}[{g}] slot {turn} of {rows} rows"), heads, map.clone(), stream);
            (new.k, new.v)
        });
        Keys { k, v, map, stream }
    };
    let image = keys(image_map, 1);
    let next = Group { image, text: held.text.as_ref().map(|_| keys(text_map, 0)) };
    let (to, from) = (ring[(j + r - 1) % r], ring[(j + 1) % r]);
    let views = |group: &Group| {
        let text = group.text.iter().flat_map(|keys| [keys.k, keys.v]);
        text.chain([group.image.k, group.image.v]).collect::<Vec<View>>()
    };
    let sends = views(held).into_iter().map(|view| (Direction::Send, to, view));
    let recvs = views(&next).into_iter().map(|view| (Direction::Recv, from, view));
    let transfers: Vec<_> = sends.chain(recvs).collect();
    cx.communicate(&format!("ring kv[{g}] step {}", t + 1), CommKind::SendRecv, ring, cx.problem.dtype, &transfers);
    next
}
