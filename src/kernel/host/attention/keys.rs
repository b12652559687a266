//! The keys of a launch, packed tile by tile.

use super::super::tensor::{Rows, Tensor};
use crate::kernel::spec::{Attention, KeySegment};

/// One tile: keys transposed `[D][width]`, values `[width][o_stride]`, both zero where a key is
/// masked or missing.
#[derive(Default)]
pub(super) struct PackedTile {
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// 1 for a key that counts, else 0; `[width]`.
    pub(super) keep: Vec<f32>,
    /// True if every key counts.
    pub(super) whole: bool,
    row: Vec<f32>,
}

struct Segment<'a> {
    spec: KeySegment,
    k: Rows<'a>,
    v: Rows<'a>,
    mask: Option<Rows<'a>>,
}

pub(super) struct Keys<'a> {
    head_dim: usize,
    segments: Vec<Segment<'a>>,
    key_len: Option<Rows<'a>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(spec: &Attention, operands: &'a [Vec<Tensor>]) -> Self {
        let per_segment = spec.key_operands();
        let segments = spec.keys.iter().zip(operands.chunks(per_segment));
        Self {
            head_dim: spec.head_dim,
            segments: segments
                .map(|(key, own)| Segment {
                    spec: *key,
                    k: Rows::new(&own[0]),
                    v: Rows::new(&own[1]),
                    mask: own.get(2).filter(|_| spec.key_mask).map(|tensors| Rows::new(tensors)),
                })
                .collect(),
            key_len: spec.key_len.then(|| Rows::new(&operands[spec.keys.len() * per_segment])),
        }
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    pub(super) fn len(&self, segment: usize) -> usize {
        self.segments[segment].spec.len
    }

    /// Packs the `width` keys from `first` on; false if none of them counts.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn pack(
        &self,
        tile: &mut PackedTile,
        b: usize,
        kv_head: usize,
        segment: usize,
        first: usize,
        width: usize,
        o_stride: usize,
    ) -> bool {
        let segment = &self.segments[segment];
        let kept = self.mark(tile, b, segment, first, width);
        if kept == 0 {
            return false;
        }
        let dim = self.head_dim;
        tile.whole = kept == width;
        tile.k.resize(dim * width, 0.0);
        tile.v.resize(width * o_stride, 0.0);
        // Four keys at a time are transposed, so that each cache line is written in pieces of 16
        // bytes instead of 4.
        tile.row.resize(4 * dim, 0.0);
        for j in (0..width).step_by(4) {
            for i in j..(j + 4).min(width) {
                let k_row = &mut tile.row[(i - j) * dim..(i - j + 1) * dim];
                let v_row = &mut tile.v[i * o_stride..(i + 1) * o_stride];
                if tile.keep[i] == 0.0 {
                    k_row.fill(0.0);
                    v_row.fill(0.0);
                } else {
                    segment.k.row(b, first + i).load(kv_head * dim, k_row);
                    segment.v.row(b, first + i).load(kv_head * dim, &mut v_row[..dim]);
                }
            }
            transpose(&tile.row, dim, &mut tile.k, width, j);
        }
        true
    }

    /// Fills `keep`; returns how many keys count.
    fn mark(&self, tile: &mut PackedTile, b: usize, segment: &Segment<'_>, first: usize, width: usize) -> usize {
        let KeySegment { len, base, stream } = segment.spec;
        let limit = self.key_len.as_ref().map(|rows| {
            let limit = usize::try_from(rows.row(b, stream).int(0)).unwrap_or(0);
            limit.saturating_sub(base)
        });
        let end = len.min(limit.unwrap_or(len));
        tile.keep.clear();
        tile.keep.extend((first..first + width).map(|i| {
            let masked = segment.mask.as_ref().is_some_and(|mask| i < end && mask.row(b, i).int(0) == 0);
            if i < end && !masked { 1.0 } else { 0.0 }
        }));
        tile.keep.iter().filter(|&&keep| keep != 0.0).count()
    }
}

/// Four rows of `dim` to columns `at..at + 4` of `[dim][width]`; `width` is a multiple of 4.
fn transpose(rows: &[f32], dim: usize, k: &mut [f32], width: usize, at: usize) {
    let (r0, rest) = rows.split_at(dim);
    let (r1, rest) = rest.split_at(dim);
    let (r2, r3) = rest.split_at(dim);
    for (d, column) in k.chunks_exact_mut(width).enumerate().take(dim) {
        column[at..at + 4].copy_from_slice(&[r0[d], r1[d], r2[d], r3[d]]);
    }
}
