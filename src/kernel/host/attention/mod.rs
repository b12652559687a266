//! Attention forward: online softmax over key tiles, some hundred query rows of one head an item.
//!
//! An item packs each key tile once (K transposed, V padded to whole lanes, masked rows of V
//! zeroed) and runs it against its rows, whose running maximum, sum and output stay in scratch.
//! The running maximum is in the domain of base-2 exponents: `m = max(score·scale·log2 e)`.
//! The tile width is one constant; rows, heads, samples and segments' memory layout change no bit.

mod tile;

use super::isa::Isa;
use super::parallel::for_each;
use super::tensor::{Rows, Tensor};
use crate::kernel::spec::{Attention, KeySegment};
use tile::{KEYS, Masks, Tile};

/// Rows of an item: enough to make packing cheap, few enough for the second-level cache. Both
/// multiples of every instruction set's row group.
const MOST_ROWS: usize = 1020;
const LEAST_ROWS: usize = 60;

pub(super) fn run(isa: Isa, spec: &Attention, operands: &[Vec<Tensor>], threads: usize) {
    let queries: usize = spec.queries.iter().sum();
    let keys: usize = spec.keys.iter().map(|key| key.len).sum();
    let all_rows = queries * spec.batch * spec.heads;
    let chunk = (all_rows / (4 * threads)).next_multiple_of(LEAST_ROWS).clamp(LEAST_ROWS, MOST_ROWS);
    let items = items(spec, chunk);
    let ops = 4.0 * all_rows as f64 * (keys * spec.head_dim) as f64;
    let limits = Limits::new(spec, operands);
    for_each(
        threads,
        ops,
        items.len(),
        || Scratch::new(spec, chunk),
        |scratch, i| {
            let item = items[i];
            let segment = Queries::new(spec, operands, item.segment);
            scratch.load(spec, &segment, item);
            for (index, key) in spec.keys.iter().enumerate() {
                let first = spec.query_operands() * spec.queries.len() + index * spec.key_operands();
                let (k, v) = (Rows(&operands[first]), Rows(&operands[first + 1]));
                let kv_head = spec.kv_head(item.head);
                for start in (0..key.len).step_by(KEYS) {
                    let masks = limits.tile(item.sample, index, key, start);
                    if masks.any() {
                        scratch.tile.pack(&k, &v, item.sample, kv_head, start, &masks);
                        scratch.step(isa, &masks, item.rows);
                    }
                }
            }
            scratch.store(spec, &segment, item);
        },
    );
}

/// Consecutive rows of one query segment, sample and head.
#[derive(Clone, Copy)]
struct Item {
    segment: usize,
    sample: usize,
    head: usize,
    first: usize,
    rows: usize,
}

fn items(spec: &Attention, chunk: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for (segment, &rows) in spec.queries.iter().enumerate() {
        for sample in 0..spec.batch {
            for head in 0..spec.heads {
                let starts = (0..rows).step_by(chunk);
                items.extend(starts.map(|first| Item { segment, sample, head, first, rows: chunk.min(rows - first) }));
            }
        }
    }
    items
}

/// Operands of one query segment.
struct Queries<'a> {
    q: Rows<'a>,
    out_and_lse: Option<(Rows<'a>, &'a [Tensor])>,
    carry: Option<(&'a [Tensor], &'a [Tensor], Rows<'a>)>,
}

impl<'a> Queries<'a> {
    fn new(spec: &Attention, operands: &'a [Vec<Tensor>], segment: usize) -> Self {
        let mut next = operands[segment * spec.query_operands()..].iter().map(Vec::as_slice);
        let mut take = || next.next().unwrap_or_default();
        let q = Rows(take());
        let out_and_lse = (!spec.carry_out).then(|| (Rows(take()), take()));
        let carry = (spec.carry_in || spec.carry_out).then(|| (take(), take(), Rows(take())));
        Self { q, out_and_lse, carry }
    }
}

/// Masks and key lengths, for the tiles of every segment.
struct Limits<'a> {
    masks: Vec<Option<Rows<'a>>>,
    lengths: Vec<[usize; 2]>,
}

impl<'a> Limits<'a> {
    fn new(spec: &Attention, operands: &'a [Vec<Tensor>]) -> Self {
        let first = spec.query_operands() * spec.queries.len();
        let mask = |i: usize| spec.key_mask.then(|| Rows(&operands[first + i * spec.key_operands() + 2]));
        let length = |sample: usize, stream: usize| match operands.last() {
            Some(views) if spec.key_len => usize::try_from(Rows(views).load_i32(sample, stream)).unwrap_or(0),
            _ => usize::MAX,
        };
        Self {
            masks: (0..spec.keys.len()).map(mask).collect(),
            lengths: (0..spec.batch).map(|b| [length(b, 0), length(b, 1)]).collect(),
        }
    }

    /// Which of the tile's keys count for a sample.
    fn tile(&self, sample: usize, segment: usize, key: &KeySegment, start: usize) -> Masks {
        let length = self.lengths[sample][key.stream.min(1)].saturating_sub(key.base);
        let mut masks = Masks::first(key.len.min(length).saturating_sub(start));
        if let Some(mask) = &self.masks[segment] {
            for i in 0..KEYS.min(key.len - start) {
                let mut keep = [0.0];
                mask.load(sample, start + i, &mut keep);
                if keep[0] == 0.0 {
                    masks.clear(i);
                }
            }
        }
        masks
    }
}

/// One thread's tile and the state of its item's rows.
struct Scratch {
    tile: Tile,
    /// Rows scaled by scale·log2 e, `[rows, D]`.
    q: Vec<f32>,
    /// `[rows, padded D]`.
    o: Vec<f32>,
    m: Vec<f32>,
    l: Vec<f32>,
    row: Vec<f32>,
}

impl Scratch {
    fn new(spec: &Attention, rows: usize) -> Self {
        let tile = Tile::new(spec.head_dim);
        let (d, padded) = (spec.head_dim, tile.padded);
        Self {
            tile,
            q: vec![0.0; rows * d],
            o: vec![0.0; rows * padded],
            m: vec![0.0; rows],
            l: vec![0.0; rows],
            row: vec![0.0; d],
        }
    }

    /// Rows behind the item's last keep a state of zeros: they are computed on and never stored.
    fn load(&mut self, spec: &Attention, segment: &Queries, item: Item) {
        let (d, padded) = (spec.head_dim, self.tile.padded);
        let factor = (f64::from(spec.scale) * std::f64::consts::LOG2_E) as f32;
        self.q.fill(0.0);
        self.o.fill(0.0);
        self.m.fill(f32::NEG_INFINITY);
        self.l.fill(0.0);
        for i in 0..item.rows {
            let (tensor, row) = segment.q.locate(item.first + i);
            let q = &mut self.q[i * d..(i + 1) * d];
            tensor.load(tensor.offset(item.sample, row, item.head), q);
            q.iter_mut().for_each(|x| *x *= factor);
            if let Some((m, l, o)) = segment.carry.filter(|_| spec.carry_in) {
                self.m[i] = row_state(m, item, i).map_or(f32::NEG_INFINITY, |(t, at)| load_one(t, at));
                self.l[i] = row_state(l, item, i).map_or(0.0, |(t, at)| load_one(t, at));
                let (tensor, row) = o.locate(item.first + i);
                tensor.load(tensor.offset(item.sample, row, item.head), &mut self.o[i * padded..i * padded + d]);
            }
        }
    }

    fn step(&mut self, isa: Isa, masks: &Masks, rows: usize) {
        self.tile.step(isa, masks, rows, &self.q, &mut self.o, &mut self.m, &mut self.l);
    }

    fn store(&mut self, spec: &Attention, segment: &Queries, item: Item) {
        let (d, padded) = (spec.head_dim, self.tile.padded);
        for i in 0..item.rows {
            let o = &self.o[i * padded..i * padded + d];
            if let Some((out, lse)) = segment.out_and_lse {
                let l = self.l[i];
                // A row without a key has l = 0: 0 out and −∞ lse.
                let inverse = if l == 0.0 { 0.0 } else { 1.0 / l };
                self.row.iter_mut().zip(o).for_each(|(x, o)| *x = o * inverse);
                let (tensor, row) = out.locate(item.first + i);
                tensor.store(tensor.offset(item.sample, row, item.head), &self.row);
                let value = (f64::from(self.m[i]) + f64::from(l).log2()) * std::f64::consts::LN_2;
                let value = if l == 0.0 { f32::NEG_INFINITY } else { value as f32 };
                if let Some((tensor, at)) = row_state(lse, item, i) {
                    tensor.store(at, &[value]);
                }
            } else if let Some((m, l, carried)) = segment.carry {
                if let Some((tensor, at)) = row_state(m, item, i) {
                    tensor.store(at, &self.m[i..=i]);
                }
                if let Some((tensor, at)) = row_state(l, item, i) {
                    tensor.store(at, &self.l[i..=i]);
                }
                let (tensor, row) = carried.locate(item.first + i);
                tensor.store(tensor.offset(item.sample, row, item.head), o);
            }
        }
    }
}

/// Where row `i` of the item stands in a `[B, H, 1, rows]` operand.
fn row_state(views: &[Tensor], item: Item, i: usize) -> Option<(&Tensor, usize)> {
    let mut head = item.head;
    for tensor in views {
        if head < tensor.shape[1] {
            return Some((tensor, tensor.offset(item.sample, head, 0) + item.first + i));
        }
        head -= tensor.shape[1];
    }
    None
}

fn load_one(tensor: &Tensor, at: usize) -> f32 {
    let mut value = [0.0];
    tensor.load(at, &mut value);
    value[0]
}
