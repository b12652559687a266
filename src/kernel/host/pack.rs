//! Strided copies and casts, row by row.

use super::parallel::{for_each, threads_for};
use super::tensor::{Rows, Tensor};
use crate::kernel::spec::Pack;

pub(super) fn run(spec: &Pack, operands: &[Vec<Tensor>], threads: usize) {
    for (shape, pair) in spec.copies.iter().zip(operands.chunks_exact(2)) {
        let [batch, rows, heads, channels] = *shape;
        let (src, dst) = (Rows::new(&pair[0]), Rows::new(&pair[1]));
        let elems = heads * channels;
        let block = (16 * 1024 / elems.max(1)).max(1);
        let blocks = rows.div_ceil(block);
        let work = (batch * rows * elems * spec.src_dtype.bytes()) as f64;
        let body = |scratch: &mut Vec<f32>, item: usize| {
            let (b, first) = (item / blocks, item % blocks * block);
            for n in first..(first + block).min(rows) {
                let (from, to) = (src.row(b, n), dst.row(b, n));
                if spec.src_dtype == spec.dst_dtype {
                    to.copy_from(&from);
                } else {
                    from.load(0, scratch);
                    to.store(0, scratch);
                }
            }
        };
        let cast = if spec.src_dtype == spec.dst_dtype { 0 } else { elems };
        for_each(threads_for(threads, work, batch * blocks), batch * blocks, || vec![0.0f32; cast], body);
    }
}
