//! FastSeq: x is gathered by an asynchronous ring, and each arriving chunk is projected to q, k
//! and v with this rank's heads while the next is in flight; the output returns by AllToAll.
//!
//! OpenDiT had this for two ranks and on the world group; here for any number and any group.
//! Every chunk is received straight into its slot and projected straight to its global rows.

use super::attend::{KeyLimits, Keys, Queries, Step, attend};
use super::context::{Context, Tokens, pieces, rows_at};
use super::exchange::{Returning, TextShare, gather_text, text_slot};
use super::heads::HeadSlice;
use super::problem::Route;
use super::project::{Chunk, Part, Projection, QkvWeights, project};
use crate::plan::{CommKind, Direction, OpId, View};
use crate::shard::IndexMap;

/// x of image and text on this rank and the weights of each.
pub(super) struct Layer {
    pub(super) image: Projection,
    pub(super) text: Option<Projection>,
}

/// Attention of the layer into `out`.
pub(super) fn attention(cx: &mut Context, layer: &Layer, limits: KeyLimits, out: &Tokens) {
    let ranks = cx.ranks.len();
    let heads = cx.heads(ranks, cx.me);
    let own_text = out.text.filter(|_| cx.replicated_text() > 0).map(|text| {
        let share = text_share(cx, cx.me);
        (text_slot(cx, &share, text), text)
    });
    let projected = gather_and_project(cx, layer, &heads);
    let members: Vec<usize> = (0..ranks).collect();
    let returning = Returning::new(cx, "", &members, &heads);
    let mut queries: Vec<Queries> = Vec::new();
    if let (Some((slot, _)), Some((q, _))) = (own_text, &projected.whole_text) {
        let positions = IndexMap::contiguous(0..cx.replicated_text());
        queries.push(Queries { q: *q, out: slot, positions });
    }
    for (s, q, text_q) in &projected.queries {
        queries.extend(returning.queries(cx, *s, &heads, *q, *text_q, out));
    }
    attend(cx, "attention", &heads, &queries, &projected.keys, limits, Step::Whole);
    if let Some(arriving) = returning.send(cx, |cx, s| cx.heads(cx.ranks.len(), s)) {
        arriving.unpack(cx, out);
    }
    if let Some((slot, text)) = own_text {
        gather_text(cx, slot, text_share, text);
    }
}

/// Replicated text: the heads of its queries are cut over the ranks.
fn text_share(cx: &Context, s: usize) -> TextShare {
    TextShare { rows: 0..cx.replicated_text(), heads: cx.heads(cx.ranks.len(), s).q }
}

/// q of every rank's rows, and all keys in global order, under this rank's heads.
pub(super) struct Projected {
    /// Rank of the sequence, image q, split text q.
    pub(super) queries: Vec<(usize, View, Option<View>)>,
    pub(super) keys: Vec<Keys>,
    /// q of replicated text and its rows.
    pub(super) whole_text: Option<(View, usize)>,
}

/// Room for q of every rank and for all keys; where the chunk of each rank is projected to.
pub(super) struct Room {
    pub(super) image: Vec<Chunk>,
    pub(super) text: Vec<Chunk>,
    pub(super) projected: Projected,
}

fn gather_and_project(cx: &mut Context, layer: &Layer, heads: &HeadSlice) -> Projected {
    let ranks = cx.ranks.len();
    let order: Vec<usize> = (0..ranks).map(|k| (cx.me + k) % ranks).collect();
    let slots = slots(cx, layer, &order);
    let mut room = room(cx, layer, heads, &order, &slots);
    project_whole_text(cx, layer, heads, &mut room.projected);
    let weights = &layer.image.weights;
    let text_weights = layer.text.as_ref().map(|text| &text.weights);
    let mut arrivals: Vec<Option<OpId>> = vec![None];
    if cx.options.gated {
        for k in 1..ranks {
            arrivals.push(Some(hop(cx, k, &slots)));
        }
        let gate = |chunks: &[Chunk]| {
            let gated = chunks
                .iter()
                .zip(&arrivals)
                .map(|(chunk, arrival)| Chunk { x: arrival.map_or(chunk.x, |op| chunk.x.gated(op)), ..chunk.clone() });
            gated.collect::<Vec<Chunk>>()
        };
        let (image, text) = (gate(&room.image), gate(&room.text));
        if let Some(weights) = text_weights {
            project(cx, "text chunks", weights, &text);
        }
        project(cx, "chunks", weights, &image);
    } else {
        for (k, &s) in order.iter().enumerate() {
            if k + 1 < ranks {
                hop(cx, k + 1, &slots);
            }
            if let (Some(weights), Some(chunk)) = (text_weights, room.text.get(k)) {
                project(cx, &format!("text chunk {s}"), weights, std::slice::from_ref(chunk));
            }
            project(cx, &format!("chunk {s}"), weights, std::slice::from_ref(&room.image[k]));
        }
    }
    room.projected
}

/// x of every rank, in the order of arrival: the own rows where they are, the others' in slots of
/// their own.
pub(super) fn slots(cx: &mut Context, layer: &Layer, order: &[usize]) -> Vec<Vec<View>> {
    let hidden = layer.image.x.shape[3];
    let split_text = layer.text.as_ref().filter(|_| cx.replicated_text() == 0);
    let mut slots = vec![vec![layer.image.x]];
    slots[0].extend(split_text.map(|text| text.x));
    let shape = |rows: usize| [cx.problem.batch, rows, 1, hidden];
    let shapes = order[1..].iter().map(|&s| {
        let text = split_text.map(|_| shape(cx.text_map(s).len()));
        [shape(cx.image_map(s).len())].into_iter().chain(text).collect()
    });
    let shapes: Vec<Vec<[usize; 4]>> = shapes.collect();
    slots.extend(cx.slots("gathered x", cx.problem.dtype, &shapes).into_iter().map(|slot| slot.parts));
    slots
}

/// Step `k` of the ring: the chunk `k` places on arrives from the next rank, or straight from its
/// owner.
fn hop(cx: &mut Context, k: usize, slots: &[Vec<View>]) -> OpId {
    let ranks = cx.ranks.len();
    let (sent, to, from) = match cx.options.route {
        Route::Forwarded => (k - 1, (cx.me + ranks - 1) % ranks, (cx.me + 1) % ranks),
        Route::Direct => (0, (cx.me + ranks - k) % ranks, (cx.me + k) % ranks),
    };
    let sends = slots[sent].iter().map(|&view| (Direction::Send, to, view));
    let recvs = slots[k].iter().map(|&view| (Direction::Recv, from, view));
    let transfers: Vec<_> = sends.chain(recvs).collect();
    let members: Vec<usize> = (0..ranks).collect();
    let label = format!("chunk {} arrives", (cx.me + k) % ranks);
    cx.communicate(&label, CommKind::SendRecv, &members, cx.problem.dtype, &transfers)
}

/// Allocates q of every rank's rows and all keys.
pub(super) fn room(cx: &mut Context, layer: &Layer, heads: &HeadSlice, order: &[usize], slots: &[Vec<View>]) -> Room {
    let maps: Vec<IndexMap> = (0..order.len()).map(|s| cx.image_map(s).clone()).collect();
    let text_maps: Vec<IndexMap> = (0..order.len()).map(|s| cx.text_map(s)).collect();
    let keys = new_keys(cx, "image", heads, &maps, 1);
    let text_keys =
        layer.text.as_ref().filter(|_| cx.replicated_text() == 0).map(|_| new_keys(cx, "text", heads, &text_maps, 0));
    let (mut image, mut text, mut queries) = (Vec::new(), Vec::new(), Vec::new());
    for (slot, &s) in slots.iter().zip(order) {
        let q = chunk(cx, &format!("q chunk {s}"), heads, slot[0], &maps[s], &keys, &mut image);
        let text_q = text_keys
            .as_ref()
            .map(|keys| chunk(cx, &format!("text q chunk {s}"), heads, slot[1], &text_maps[s], keys, &mut text));
        queries.push((s, q, text_q));
    }
    let keys = text_keys.into_iter().chain([keys]).collect();
    Room { image, text, projected: Projected { queries, keys, whole_text: None } }
}

fn new_keys(cx: &mut Context, name: &str, heads: &HeadSlice, maps: &[IndexMap], stream: usize) -> Keys {
    let map = IndexMap::union(maps);
    let shape = [cx.problem.batch, map.len(), heads.kv.len(), cx.problem.head_dim];
    Keys { k: cx.temp(&format!("k {name}"), shape), v: cx.temp(&format!("v {name}"), shape), map, stream }
}

fn chunk(
    cx: &mut Context,
    name: &str,
    heads: &HeadSlice,
    x: View,
    map: &IndexMap,
    keys: &Keys,
    chunks: &mut Vec<Chunk>,
) -> View {
    let q = cx.temp(name, [cx.problem.batch, map.len(), heads.q.len(), cx.problem.head_dim]);
    let at = pieces(map, &keys.map);
    let part = Part { heads: heads.clone(), q: vec![q], k: rows_at(keys.k, &at), v: rows_at(keys.v, &at) };
    chunks.push(Chunk { x, map: map.clone(), parts: vec![part] });
    q
}

/// Replicated text is on every rank: its projection needs no chunk.
pub(super) fn project_whole_text(cx: &mut Context, layer: &Layer, heads: &HeadSlice, projected: &mut Projected) {
    let Some(text) = layer.text.as_ref().filter(|_| cx.replicated_text() > 0) else { return };
    let map = IndexMap::contiguous(0..cx.replicated_text());
    let keys = new_keys(cx, "text", heads, std::slice::from_ref(&map), 0);
    let mut chunks = Vec::new();
    let q = chunk(cx, "text q", heads, text.x, &map, &keys, &mut chunks);
    let weights: &QkvWeights = &text.weights;
    project(cx, "text", weights, &chunks);
    projected.keys.insert(0, keys);
    projected.whole_text = Some((q, map.len()));
}
