//! Leased views of buffers, and an operand's rows over the tensors that hold them.
//!
//! The one place where kernels touch an operand's memory: rows are widened to f32 on load and
//! rounded on store. Rows that lie outside every tensor are empty, never out of bounds.

use super::convert;
use crate::dtype::Dtype;
use crate::kernel::check::TensorView;

/// A strided view of a leased buffer, `[B, rows, H, D]`.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    pub(super) ptr: *mut u8,
    pub(super) dtype: Dtype,
    pub(super) shape: [usize; 4],
    pub(super) strides: [usize; 4],
}

// SAFETY: a tensor is a lease: whoever made it promised that its memory is his to access from any
// thread of the kernel (see `Tensor::new`).
unsafe impl Send for Tensor {}
// SAFETY: as above; kernels give each thread rows of its own.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// A view whose element `[b, n, h, d]` is at `ptr` plus the dot product of the index with
    /// `strides`, in elements. The last stride is 1 wherever the last extent is above 1.
    ///
    /// # Safety
    /// While a kernel uses the tensor: every element lies in one allocation that is alive,
    /// initialised (if the kernel reads it) and aligned for `dtype`; no one else writes it, nor
    /// reads it if the kernel writes it; two operands of one kernel overlap, where one is
    /// written, only if the spec allows it, and then they are the same elements in the same
    /// order; distinct indices of a written tensor are distinct elements.
    pub unsafe fn new(ptr: *mut u8, dtype: Dtype, shape: [usize; 4], strides: [usize; 4]) -> Self {
        Self { ptr, dtype, shape, strides }
    }

    pub(super) fn view(&self) -> TensorView {
        TensorView { address: self.ptr as u64, dtype: self.dtype, shape: self.shape, strides: self.strides }
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Elements of one row: dimensions 2 and 3.
    pub(super) fn row_elems(&self) -> usize {
        self.shape[2] * self.shape[3]
    }

    /// True if a row is one run of memory.
    pub(super) fn has_contiguous_rows(&self) -> bool {
        self.shape[2] <= 1 || self.strides[2] == self.shape[3]
    }

    /// Row `n` of sample `b`; a tensor of one sample holds it for all.
    pub(super) fn row(&self, b: usize, n: usize) -> Row {
        let b = if self.shape[0] == 1 { 0 } else { b };
        let offset = b * self.strides[0] + n * self.strides[1];
        // SAFETY: callers stay inside the shape (checked by `Rows`), which lies in one allocation.
        let ptr = unsafe { self.ptr.add(offset * self.dtype.bytes()) };
        let (runs, run_len, run_stride) = if self.has_contiguous_rows() {
            (1, self.row_elems(), 0)
        } else {
            (self.shape[2], self.shape[3], self.strides[2])
        };
        Row { ptr, dtype: self.dtype, runs, run_len, run_stride }
    }
}

/// The rows of an operand: its tensors concatenated along dimension 1.
#[derive(Clone, Debug)]
pub(super) struct Rows<'a> {
    parts: &'a [Tensor],
}

impl<'a> Rows<'a> {
    pub(super) fn new(parts: &'a [Tensor]) -> Self {
        Self { parts }
    }

    /// Row `n` of sample `b`; empty where there is none.
    #[inline]
    pub(super) fn row(&self, b: usize, n: usize) -> Row {
        let mut n = n;
        for part in self.parts {
            if n < part.shape[1] {
                if b < part.shape[0] || part.shape[0] == 1 {
                    return part.row(b, n);
                }
                break;
            }
            n -= part.shape[1];
        }
        Row { ptr: std::ptr::null_mut(), dtype: Dtype::U8, runs: 0, run_len: 0, run_stride: 0 }
    }
}

/// One row: `runs` runs of `run_len` elements, `run_stride` apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    ptr: *mut u8,
    dtype: Dtype,
    runs: usize,
    run_len: usize,
    run_stride: usize,
}

impl Row {
    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.runs * self.run_len
    }

    /// Address of the first element.
    pub(super) fn address(&self) -> usize {
        self.ptr as usize
    }

    /// Start of the row if it is one run of f32.
    pub(super) fn f32_ptr(&self) -> Option<*mut f32> {
        (self.runs == 1 && self.dtype == Dtype::F32).then_some(self.ptr.cast())
    }

    /// Elements `at..at + out.len()`, widened; those beyond the row are left alone.
    #[inline]
    pub(super) fn load(&self, at: usize, out: &mut [f32]) {
        let len = out.len().min(self.len().saturating_sub(at));
        self.for_each_run(at, len, |ptr, done, n| {
            // SAFETY: the run lies in the leased tensor.
            unsafe { convert::widen(self.dtype, ptr, &mut out[done..done + n]) }
        });
    }

    /// Rounds `values` into the elements from `at` on.
    #[inline]
    pub(super) fn store(&self, at: usize, values: &[f32]) {
        let len = values.len().min(self.len().saturating_sub(at));
        self.for_each_run(at, len, |ptr, done, n| {
            // SAFETY: the run lies in the leased tensor, and this thread alone writes the row.
            unsafe { convert::narrow(self.dtype, &values[done..done + n], ptr) }
        });
    }

    /// Copies the bytes of `from`, of equal dtype and length.
    pub(super) fn copy_from(&self, from: &Row) {
        if self.dtype != from.dtype || self.len() != from.len() {
            return;
        }
        let bytes = self.dtype.bytes();
        self.for_each_run(0, self.len(), |to, done, n| {
            from.for_each_run(done, n, |src, inner, n| {
                // SAFETY: both runs lie in leased tensors, which do not overlap.
                unsafe { std::ptr::copy_nonoverlapping(src, to.add(inner * bytes), n * bytes) }
            });
        });
    }

    /// An integer element (u8 or i32); 0 where there is none.
    #[inline]
    pub(super) fn int(&self, at: usize) -> i32 {
        let mut value = 0;
        self.for_each_run(at, usize::from(at < self.len()), |ptr, _, _| {
            // SAFETY: the element lies in the leased tensor, aligned for its dtype.
            value = unsafe {
                match self.dtype {
                    Dtype::U8 => i32::from(*ptr),
                    Dtype::I32 => *ptr.cast::<i32>(),
                    _ => 0,
                }
            };
        });
        value
    }

    /// Calls `f(pointer, elements before, elements)` for each run of `at..at + len`.
    #[inline]
    fn for_each_run(&self, at: usize, len: usize, mut f: impl FnMut(*mut u8, usize, usize)) {
        let mut done = 0;
        while done < len {
            let (run, skip) = ((at + done) / self.run_len, (at + done) % self.run_len);
            let n = (self.run_len - skip).min(len - done);
            let offset = run * self.run_stride + skip;
            // SAFETY: run < runs, because at + len ≤ self.len().
            f(unsafe { self.ptr.add(offset * self.dtype.bytes()) }, done, n);
            done += n;
        }
    }
}
