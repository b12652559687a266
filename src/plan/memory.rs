//! Where the temporaries of a rank lie: one arena, shared over time.
//!
//! Two temporaries share bytes only where every op that touches one ends before every op that
//! touches the other starts, under the weakest order the plan may run in (gates as flags). Placed
//! by size, largest first, first fit: never more than the sum of all temporaries. Peak bytes are
//! known before the start. Bound buffers (inputs, outputs) are not placed.
//!
//! Proof: [`check_memory`], part of the law; `tests/law.rs` moves an offset,
//! `tests/plan_properties.rs` places random plans.

use super::order::HappensBefore;
use super::{OpId, Plan, Role};
use crate::error::{Error, Result};

/// Alignment of every temporary, in bytes: a cache line, and what vector loads want.
pub const ALIGNMENT_BYTES: usize = 64;

/// Places of the temporaries of one rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Offset in the arena of each buffer, in bytes; `None` for bound buffers.
    pub offsets: Vec<Option<usize>>,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Size of all inputs and outputs.
    pub bound_bytes: usize,
    /// Arena and bound buffers together.
    pub peak_bytes: usize,
}

/// Places the temporaries of `plan`, whose ops are ordered by `order`.
pub fn place(plan: &Plan, order: &HappensBefore) -> Memory {
    let lives = Lives::of(plan, order);
    let size = |id: usize| plan.buffers[id].bytes().next_multiple_of(ALIGNMENT_BYTES);
    let is_temp = |id: &usize| plan.buffers[*id].role == Role::Temp;
    let mut by_size: Vec<usize> = (0..plan.buffers.len()).filter(is_temp).collect();
    by_size.sort_by_key(|&id| (std::cmp::Reverse(size(id)), id));

    let mut offsets = vec![None; plan.buffers.len()];
    let mut slots: Vec<Slot> = Vec::new();
    let mut arena_bytes = 0;
    for id in by_size {
        // `slots` are sorted by offset: the first gap between those that are in the way.
        let (mut offset, bytes) = (0, size(id));
        if bytes > 0 && lives.is_touched(id) {
            for slot in &slots {
                if slot.offset >= offset + bytes {
                    break;
                }
                if slot.end > offset && slot.position(id, |a, b| lives.before(a, b)).is_err() {
                    offset = slot.end;
                }
            }
            // Sizes descend: of the slots at this offset the last is the smallest.
            let after = slots.partition_point(|slot| slot.offset <= offset);
            match slots[..after].last_mut().filter(|slot| (slot.offset, slot.end) == (offset, offset + bytes)) {
                Some(slot) => {
                    if let Ok(position) = slot.position(id, |a, b| lives.before(a, b)) {
                        slot.chain.insert(position, id);
                    }
                }
                None => slots.insert(after, Slot { offset, end: offset + bytes, chain: vec![id] }),
            }
        }
        offsets[id] = Some(offset);
        arena_bytes = arena_bytes.max(offset + bytes);
    }
    let bound_bytes = plan.buffers.iter().filter(|b| b.role != Role::Temp).map(|b| b.bytes()).sum();
    Memory { offsets, arena_bytes, bound_bytes, peak_bytes: arena_bytes + bound_bytes }
}

/// Verifies that `memory` fits `plan`: every temporary placed, aligned, inside the arena, and
/// sharing bytes only with those it is ordered against.
///
/// # Errors
/// [`Error::Law`], naming the op that would overwrite another's bytes.
pub fn check_memory(plan: &Plan, order: &HappensBefore, memory: &Memory) -> Result<()> {
    let law = |op: &str, why: String| Error::Law { rank: plan.rank as usize, op: op.to_string(), why };
    if memory.offsets.len() != plan.buffers.len() {
        let why = format!("{} buffers but {} offsets: place the plan again", plan.buffers.len(), memory.offsets.len());
        return Err(law("memory", why));
    }
    let ends = Ends::of(plan);
    let first_label = |id: usize| ends.first[id].first().map_or("memory", |op| plan.label(*op));
    let mut runs = Vec::new();
    let mut bound_bytes = 0;
    for (id, buffer) in plan.buffers.iter().enumerate() {
        match (buffer.role, memory.offsets[id]) {
            (Role::Temp, Some(offset)) => {
                if offset % ALIGNMENT_BYTES != 0 || offset + buffer.bytes() > memory.arena_bytes {
                    let why = format!(
                        "buffer {} at byte {offset} is not aligned to {ALIGNMENT_BYTES} or leaves the arena of {} bytes: place the plan again",
                        buffer.name, memory.arena_bytes
                    );
                    return Err(law(first_label(id), why));
                }
                if buffer.bytes() > 0 {
                    runs.push((offset, offset + buffer.bytes(), id));
                }
            }
            (Role::Input | Role::Output, None) => bound_bytes += buffer.bytes(),
            (_, _) => {
                let why = format!("buffer {}: temporaries have an offset, bound buffers none", buffer.name);
                return Err(law(first_label(id), why));
            }
        }
    }
    if (bound_bytes, bound_bytes + memory.arena_bytes) != (memory.bound_bytes, memory.peak_bytes) {
        return Err(law("memory", "the byte totals do not add up: place the plan again".into()));
    }
    runs.sort_unstable();
    let before = |a: usize, b: usize| ends.unordered(order, a, b).is_none();
    let mut live: Vec<Slot> = Vec::new();
    for (offset, end, id) in runs {
        if ends.first[id].is_empty() {
            continue;
        }
        live.retain(|slot| slot.end > offset);
        let mut is_placed = false;
        for slot in &mut live {
            match slot.position(id, before) {
                Ok(position) if (slot.offset, slot.end) == (offset, end) => {
                    slot.chain.insert(position, id);
                    is_placed = true;
                }
                Ok(_) => {}
                Err(other) => {
                    let Some((early, late)) = ends.unordered(order, id, other) else { continue };
                    let why = format!(
                        "{} and {} share bytes of the arena, but nothing orders this op after \"{}\": place them apart",
                        plan.buffers[id].name,
                        plan.buffers[other].name,
                        plan.label(early)
                    );
                    return Err(law(plan.label(late), why));
                }
            }
        }
        if !is_placed {
            live.push(Slot { offset, end, chain: vec![id] });
        }
    }
    Ok(())
}

/// Bytes of the arena and the buffers that lie exactly there, one after the other in time: each
/// ends before the next begins.
struct Slot {
    offset: usize,
    end: usize,
    chain: Vec<usize>,
}

impl Slot {
    /// Where `id` stands in the chain, by `before`, which is transitive; otherwise one of the chain
    /// that lives when it does.
    fn position(&self, id: usize, before: impl Fn(usize, usize) -> bool) -> std::result::Result<usize, usize> {
        let earlier = self.chain.partition_point(|&other| before(other, id));
        match self.chain.get(earlier) {
            Some(&next) if !before(id, next) => Err(next),
            _ => Ok(earlier),
        }
    }
}

/// When each buffer is in use, `streams` figures a buffer: the last op on every stream that touches
/// it, and what has ended before every op that touches it.
struct Lives {
    streams: usize,
    last: Vec<u32>,
    ended: Vec<u32>,
}

impl Lives {
    fn of(plan: &Plan, order: &HappensBefore) -> Self {
        let streams = plan.streams.len();
        let figures = streams * plan.buffers.len();
        let mut lives = Self { streams, last: vec![0; figures], ended: vec![u32::MAX; figures] };
        for id in plan.op_ids() {
            let (stream, position) = order.place(id);
            let clock = order.start_clock(id);
            for access in plan.accesses(id) {
                let first = access.buffer.0 as usize * streams;
                lives.last[first + stream] = position + 1;
                let ended = &mut lives.ended[first..first + streams];
                ended.iter_mut().zip(clock).for_each(|(ended, now)| *ended = (*ended).min(*now));
            }
        }
        lives
    }

    fn is_touched(&self, id: usize) -> bool {
        self.last[id * self.streams..][..self.streams].iter().any(|&last| last > 0)
    }

    fn before(&self, early: usize, late: usize) -> bool {
        let last = &self.last[early * self.streams..][..self.streams];
        let ended = &self.ended[late * self.streams..][..self.streams];
        last.iter().zip(ended).all(|(last, ended)| last <= ended)
    }
}

/// Of the ops that touch each buffer the first and the last on every stream.
struct Ends {
    first: Vec<Vec<OpId>>,
    last: Vec<Vec<OpId>>,
}

impl Ends {
    fn of(plan: &Plan) -> Self {
        let one_a_stream = |ops: &mut dyn Iterator<Item = OpId>| {
            let mut of: Vec<Vec<OpId>> = vec![Vec::new(); plan.buffers.len()];
            for id in ops {
                for access in plan.accesses(id) {
                    let seen = &mut of[access.buffer.0 as usize];
                    if seen.iter().all(|op| plan.op(*op).stream != plan.op(id).stream) {
                        seen.push(id);
                    }
                }
            }
            of
        };
        let ops: Vec<OpId> = plan.op_ids().collect();
        let first = one_a_stream(&mut ops.iter().copied());
        Self { first, last: one_a_stream(&mut ops.iter().rev().copied()) }
    }

    /// An op of `early` and one of `late` such that the first may not have ended when the second
    /// starts. On one stream the last of the early ops and the first of the late ones decide.
    fn unordered(&self, order: &HappensBefore, early: usize, late: usize) -> Option<(OpId, OpId)> {
        let mut pairs = self.last[early].iter().flat_map(|a| self.first[late].iter().map(move |b| (*a, *b)));
        pairs.find(|(a, b)| !order.ends_before_start(*a, *b))
    }
}
