//! Attention forward: FlashAttention's online softmax (Dao et al., arXiv 2205.14135), in f32.
//!
//! An item of work is up to [`BLOCK`] query rows that read one key head: (head of the group,
//! row) pairs. It visits the key tiles of all segments in order; each tile is packed once
//! (`pack`) and met by all rows of the item, a few at a time in registers (`tile`). A row's
//! arithmetic is the same whichever rows stand beside it: missing rows of the last few are
//! computed as zeros and dropped.
//!
//! A tile has four vectors of keys (two on portable lanes), cut from the start of its segment,
//! whatever tensors hold the segment. Masked keys are packed as zeros and scored −inf; tiles
//! without an unmasked key are skipped.
//!
//! The running state that `carry_in` and `carry_out` exchange: `m` is the largest
//! `scale·log2(e)·q·k` so far, `l = Σ 2^(s − m)`, `o = Σ 2^(s − m)·v`; before the first key
//! `(−inf, 0, 0)`. It is what the kernel itself keeps between two tiles, so launches that carry
//! it equal one launch bit for bit.

mod keys;
mod tile;

use super::Isa;
use super::lanes::{Lanes, Task};
use super::parallel::{for_each, threads_for};
use super::tensor::{Rows, Tensor};
use crate::kernel::spec::Attention;
use keys::{Keys, PackedTile};

/// Query rows that meet a packed tile: enough that packing is a few percent of the work, few
/// enough that their running state stays in the second-level cache.
const BLOCK: usize = 512;

pub(super) fn run(isa: Isa, spec: &Attention, operands: &[Vec<Tensor>], threads: usize) {
    let launch = Launch::new(spec, operands);
    let queries: usize = spec.queries.iter().sum();
    let keys: usize = spec.keys.iter().map(|key| key.len).sum();
    let work = 4.0 * (spec.batch * spec.heads * queries * (keys + 1) * spec.head_dim) as f64;
    let threads = threads_for(threads, work, usize::MAX);
    let mut items = Vec::new();
    for b in 0..spec.batch {
        let mut first = 0;
        while first < spec.heads {
            let kv_head = spec.kv_head(first);
            let same = (first..spec.heads).take_while(|&head| spec.kv_head(head) == kv_head).count();
            let rows = same * queries;
            // A thread count of 1 takes whole blocks; more threads get at least two items each.
            let per_thread = (spec.batch * spec.heads * queries).div_ceil(2 * threads);
            let block = if threads == 1 { BLOCK } else { per_thread.next_multiple_of(24).clamp(24, BLOCK) };
            for start in (0..rows).step_by(block) {
                items.push(Item { b, kv_head, first_head: first, rows: start..(start + block).min(rows) });
            }
            first += same;
        }
    }
    for_each(threads, items.len(), Scratch::default, |scratch, i| {
        isa.run(Run { launch: &launch, item: &items[i], scratch });
    });
}

/// Query rows `rows` of (head from `first_head` on) × (row of all segments).
struct Item {
    b: usize,
    kv_head: usize,
    first_head: usize,
    rows: std::ops::Range<usize>,
}

/// Operands of one query segment.
struct QuerySegment<'a> {
    rows: usize,
    q: Rows<'a>,
    /// out and lse.
    result: Option<(Rows<'a>, Rows<'a>)>,
    /// m, l, o.
    carry: Option<[Rows<'a>; 3]>,
}

struct Launch<'a> {
    spec: &'a Attention,
    queries: Vec<QuerySegment<'a>>,
    total_queries: usize,
    keys: Keys<'a>,
}

impl<'a> Launch<'a> {
    fn new(spec: &'a Attention, operands: &'a [Vec<Tensor>]) -> Self {
        let per_segment = spec.query_operands();
        let segment = |(i, &rows): (usize, &usize)| {
            let mut own = operands[i * per_segment..(i + 1) * per_segment].iter().map(|tensors| Rows::new(tensors));
            let mut next = || own.next().unwrap_or(Rows::new(&[]));
            let q = next();
            let result = (!spec.carry_out).then(|| (next(), next()));
            let carry = (spec.carry_in || spec.carry_out).then(|| [next(), next(), next()]);
            QuerySegment { rows, q, result, carry }
        };
        Self {
            spec,
            queries: spec.queries.iter().enumerate().map(segment).collect(),
            total_queries: spec.queries.iter().sum(),
            keys: Keys::new(spec, &operands[spec.queries.len() * per_segment..]),
        }
    }

    /// Segment, head and row of row `i` of an item.
    fn place(&self, item: &Item, i: usize) -> Option<(&QuerySegment<'a>, usize, usize)> {
        let (head, mut row) = (item.first_head + i / self.total_queries, i % self.total_queries);
        for segment in &self.queries {
            if row < segment.rows {
                return Some((segment, head, row));
            }
            row -= segment.rows;
        }
        None
    }
}

/// Running state of an item's rows; `o` and `q` have rows of their own strides.
#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    m: Vec<f32>,
    l: Vec<f32>,
    o: Vec<f32>,
    tile: PackedTile,
}

struct Run<'a, 'b> {
    launch: &'a Launch<'a>,
    item: &'a Item,
    scratch: &'b mut Scratch,
}

impl Task for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        // Rows in registers, vectors of keys in a tile: 24 sums of 32 registers, 12 of 16, 4 of 8.
        match L::N {
            16 => self.run_rows::<L, 6, 4>(lanes),
            _ if L::FUSED => self.run_rows::<L, 3, 4>(lanes),
            _ => self.run_rows::<L, 2, 2>(lanes),
        }
    }
}

impl Run<'_, '_> {
    #[inline(always)]
    fn run_rows<L: Lanes, const R: usize, const KV: usize>(self, lanes: L) {
        let Self { launch, item, scratch } = self;
        let dim = launch.spec.head_dim;
        let padded_rows = item.rows.len().next_multiple_of(R);
        let o_stride = dim.next_multiple_of(L::N);
        scratch.clear(padded_rows, dim, o_stride);
        scratch.load(launch, item, o_stride);
        let Scratch { q, m, l, o, tile } = scratch;
        for segment in 0..launch.keys.segments() {
            for first in (0..launch.keys.len(segment)).step_by(KV * L::N) {
                if !launch.keys.pack(tile, item.b, item.kv_head, segment, first, KV * L::N, o_stride) {
                    continue;
                }
                for r in (0..padded_rows).step_by(R) {
                    let rows = tile::Rows {
                        q: q[r * dim..(r + R) * dim].as_ptr(),
                        m: &mut m[r..r + R],
                        l: &mut l[r..r + R],
                        o: o[r * o_stride..(r + R) * o_stride].as_mut_ptr(),
                        o_stride,
                        dim,
                    };
                    tile::visit::<L, R, KV>(lanes, rows, tile);
                }
            }
        }
        scratch.store(launch, item, o_stride);
    }
}

impl Scratch {
    fn clear(&mut self, rows: usize, dim: usize, o_stride: usize) {
        let fill = |v: &mut Vec<f32>, len: usize, x: f32| {
            v.clear();
            v.resize(len, x);
        };
        fill(&mut self.q, rows * dim, 0.0);
        fill(&mut self.m, rows, f32::NEG_INFINITY);
        fill(&mut self.l, rows, 0.0);
        fill(&mut self.o, rows * o_stride, 0.0);
    }

    /// Scaled queries, and the state of an earlier launch.
    fn load(&mut self, launch: &Launch<'_>, item: &Item, o_stride: usize) {
        let dim = launch.spec.head_dim;
        let scale = (f64::from(launch.spec.scale) * std::f64::consts::LOG2_E) as f32;
        for (i, row) in item.rows.clone().enumerate() {
            let Some((segment, head, n)) = launch.place(item, row) else { continue };
            let q = &mut self.q[i * dim..(i + 1) * dim];
            segment.q.row(item.b, n).load(head * dim, q);
            q.iter_mut().for_each(|x| *x *= scale);
            if let (true, Some([m, l, o])) = (launch.spec.carry_in, &segment.carry) {
                m.row(item.b, head).load(n, &mut self.m[i..i + 1]);
                l.row(item.b, head).load(n, &mut self.l[i..i + 1]);
                o.row(item.b, n).load(head * dim, &mut self.o[i * o_stride..i * o_stride + dim]);
            }
        }
    }

    fn store(&mut self, launch: &Launch<'_>, item: &Item, o_stride: usize) {
        let dim = launch.spec.head_dim;
        for (i, row) in item.rows.clone().enumerate() {
            let Some((segment, head, n)) = launch.place(item, row) else { continue };
            let (max, sum) = (self.m[i], self.l[i]);
            let out = &mut self.o[i * o_stride..i * o_stride + dim];
            if let (true, Some([m, l, o])) = (launch.spec.carry_out, &segment.carry) {
                m.row(item.b, head).store(n, &[max]);
                l.row(item.b, head).store(n, &[sum]);
                o.row(item.b, n).store(head * dim, out);
            } else if let Some((result, lse)) = &segment.result {
                // No key so far: the state is (-inf, 0, 0), and 0/0 is not the answer.
                let empty = sum == 0.0;
                out.iter_mut().for_each(|x| *x = if empty { 0.0 } else { *x / sum });
                result.row(item.b, n).store(head * dim, out);
                let log = if empty { f32::NEG_INFINITY } else { (max + sum.log2()) * std::f32::consts::LN_2 };
                lse.row(item.b, head).store(n, &[log]);
            }
        }
    }
}
