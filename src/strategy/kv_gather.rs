//! AllGather of k and v; every rank attends with its own queries to all keys. For short keys and
//! cross-attention.

use super::attend::{KeyLimits, Keys, Queries, Step, attend, image_positions};
use super::context::{Context, Tokens, ascends, pieces, rows_at};
use super::exchange::{TextShare, gather_text, text_slot};
use super::heads::HeadSlice;
use super::project::{Part, Source, Sources, fill};
use crate::plan::{CommKind, Direction, View};
use crate::shard::{IndexMap, even_range};

/// Attention of `sources` into `out`.
pub(super) fn attention(cx: &mut Context, sources: &Sources, limits: KeyLimits, out: &Tokens) {
    let ranks = cx.ranks.len();
    let heads = cx.heads(1, 0);
    let key_maps: Vec<IndexMap> = (0..ranks).map(|s| cx.key_map(s).clone()).collect();
    let (q, k, v) = local(cx, "image", &sources.image, &heads, cx.image_map(cx.me), cx.key_map(cx.me));
    let positions = image_positions(cx, cx.image_map(cx.me));
    let mut queries = vec![Queries { q, out: out.image, positions }];
    let mut keys = Vec::new();
    let mut own_text = None;
    if let (Some(source), Some(text_out)) = (&sources.text, out.text) {
        let replicated = cx.replicated_text();
        let map = cx.problem.shard.text.map(cx.me);
        let (q, k, v) = local(cx, "text", source, &heads, &map, &map);
        if replicated > 0 {
            let share = text_share(cx, cx.me);
            let slot = text_slot(cx, &share, text_out);
            own_text = Some((slot, text_out));
            let positions = IndexMap::contiguous(share.rows.clone());
            queries.insert(0, Queries { q: q.rows(share.rows), out: slot, positions });
            keys.push(Keys { k, v, map, stream: 0 });
        } else {
            queries.insert(0, Queries { q, out: text_out, positions: map });
            let maps: Vec<IndexMap> = (0..ranks).map(|s| cx.text_map(s)).collect();
            keys.push(gather(cx, "text", &heads, k, v, &maps, 0));
        }
    }
    keys.push(gather(cx, "image", &heads, k, v, &key_maps, 1));
    attend(cx, "attention", &heads, &queries, &keys, limits, Step::Whole);
    if let Some((slot, text_out)) = own_text {
        gather_text(cx, slot, text_share, text_out);
    }
}

/// Replicated text: the rows of its queries are cut over the ranks.
fn text_share(cx: &Context, s: usize) -> TextShare {
    TextShare { rows: even_range(cx.replicated_text(), cx.ranks.len(), s), heads: 0..cx.problem.heads }
}

/// q, k and v of this rank's rows.
fn local(
    cx: &mut Context,
    name: &str,
    source: &Source,
    heads: &HeadSlice,
    queries: &IndexMap,
    keys: &IndexMap,
) -> (View, View, View) {
    if let Source::Given { q, k, v } = *source {
        return (q, k, v);
    }
    let (batch, d) = (cx.problem.batch, cx.problem.head_dim);
    let q = cx.temp(&format!("q {name}"), [batch, queries.len(), heads.q.len(), d]);
    let k = cx.temp(&format!("k {name}"), [batch, keys.len(), heads.kv.len(), d]);
    let v = cx.temp(&format!("v {name}"), [batch, keys.len(), heads.kv.len(), d]);
    let part = Part { heads: heads.clone(), q: vec![q], k: vec![k], v: vec![v] };
    fill(cx, name, source, &[part]);
    (q, k, v)
}

/// All ranks' keys in global order.
fn gather(cx: &mut Context, name: &str, heads: &HeadSlice, k: View, v: View, maps: &[IndexMap], stream: usize) -> Keys {
    let map = IndexMap::union(maps);
    if maps.len() == 1 && ascends(&maps[0]) {
        return Keys { k, v, map, stream };
    }
    let (batch, d, me) = (cx.problem.batch, cx.problem.head_dim, cx.me);
    let shape = |rows: usize| [batch, rows, heads.kv.len(), d];
    let all_k = cx.temp(&format!("all k {name}"), shape(map.len()));
    let all_v = cx.temp(&format!("all v {name}"), shape(map.len()));
    let others: Vec<usize> = (0..maps.len()).filter(|&s| s != me).collect();
    let mut copies = Vec::new();
    for (part, own, all) in [("k", k, all_k), ("v", v, all_v)] {
        let shapes: Vec<_> = others.iter().map(|&s| vec![shape(maps[s].len())]).collect();
        let slots = cx.slots(&format!("{part} recv {name}"), cx.problem.dtype, &shapes);
        let sends = others.iter().map(|&s| (Direction::Send, s, own));
        let recvs = others.iter().zip(&slots).map(|(&s, slot)| (Direction::Recv, s, slot.whole));
        let transfers: Vec<_> = sends.chain(recvs).collect();
        let members: Vec<usize> = (0..maps.len()).collect();
        if !others.is_empty() {
            cx.communicate(
                &format!("all-gather {part} {name}"),
                CommKind::AllGather,
                &members,
                cx.problem.dtype,
                &transfers,
            );
        }
        copies.push((own, rows_at(all, &pieces(&maps[me], &map))));
        for (&s, slot) in others.iter().zip(&slots) {
            copies.push((slot.parts[0], rows_at(all, &pieces(&maps[s], &map))));
        }
    }
    let dtype = cx.problem.dtype;
    cx.pack(&format!("unpack kv {name}"), dtype, dtype, &copies);
    Keys { k: all_k, v: all_v, map, stream }
}
