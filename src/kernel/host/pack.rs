//! Strided copies, row by row, with or without a cast.

use super::parallel::for_each;
use super::tensor::{Rows, Tensor};
use crate::kernel::spec::Pack;

/// Rows of one item.
const BLOCK: usize = 64;

pub(super) fn run(spec: &Pack, operands: &[Vec<Tensor>], threads: usize) {
    for (i, [batch, rows, heads, d]) in spec.copies.iter().enumerate() {
        let (src, dst) = (Rows(&operands[2 * i]), Rows(&operands[2 * i + 1]));
        let (rows, width) = (*rows, heads * d);
        if width == 0 || rows == 0 {
            continue;
        }
        let all = batch * rows;
        let ops = (all * width) as f64;
        for_each(
            threads,
            ops,
            all.div_ceil(BLOCK),
            || vec![0.0; width],
            |row, item| {
                for at in item * BLOCK..all.min((item + 1) * BLOCK) {
                    let (b, n) = (at / rows, at % rows);
                    if spec.src_dtype == spec.dst_dtype {
                        let (from, from_row) = src.locate(n);
                        let (to, to_row) = dst.locate(n);
                        to.copy_run(to.offset(b, to_row, 0), from, from.offset(b, from_row, 0), width);
                    } else {
                        src.load(b, n, row);
                        dst.store(b, n, row);
                    }
                }
            },
        );
    }
}
