use super::{Mode, Operand};
use crate::dtype::Dtype;

/// Copies of strided tensors, possibly with a cast: what stands before and after a packed
/// AllToAll, and where partial sums in f32 return to the storage type.
///
/// Operands: for each copy `src`, `dst [B, rows, H, D]`, of which either may be several views.
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    /// Type read.
    pub src_dtype: Dtype,
    /// Type written, rounded to nearest even.
    pub dst_dtype: Dtype,
    /// Extents of each copy.
    pub copies: Vec<[usize; 4]>,
}

impl Pack {
    pub(super) fn operands(&self) -> Vec<Operand> {
        let pair = |&shape: &[usize; 4]| {
            [
                Operand::new("src", Mode::Read, self.src_dtype, shape),
                Operand::new("dst", Mode::Write, self.dst_dtype, shape),
            ]
        };
        self.copies.iter().flat_map(pair).collect()
    }

    pub(super) fn name(&self) -> String {
        if self.src_dtype == self.dst_dtype {
            format!("pack_{}", self.src_dtype)
        } else {
            format!("pack_{}_to_{}", self.src_dtype, self.dst_dtype)
        }
    }
}
