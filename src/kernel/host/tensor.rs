//! Leased views of buffers, and row access over the views of one operand.
//!
//! A [`Tensor`] can only be made by whoever leases memory; from then on kernels may read it, and
//! write it where their spec says so. Assumes that leases do not conflict (the executor's part).

use super::isa::Isa;
use crate::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};

/// A strided view of leased memory, four-dimensional, its last dimension contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    ptr: *mut u8,
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub shape: [usize; 4],
    /// Distance of neighbours along each dimension, in elements.
    pub strides: [usize; 4],
}

// SAFETY: a tensor is an address with extents; whoever made it vouches (in `new`) for the memory
// on whatever thread the kernel runs.
unsafe impl Send for Tensor {}
// SAFETY: as above; kernels give disjoint rows to their threads.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// A view of leased memory.
    ///
    /// # Safety
    /// For as long as any kernel uses the tensor, every element `Σ index·stride` below `shape` is
    /// initialised memory of `dtype`, aligned to it, that nobody else writes and, if the kernel
    /// writes the operand, nobody else reads.
    pub unsafe fn new(ptr: *mut u8, dtype: Dtype, shape: [usize; 4], strides: [usize; 4]) -> Self {
        Self { ptr, dtype, shape, strides }
    }

    /// True if dimensions 2 and 3 of every row are one run of memory.
    pub(super) fn rows_are_runs(&self) -> bool {
        (self.shape[3] <= 1 || self.strides[3] == 1) && (self.shape[2] <= 1 || self.strides[2] == self.shape[3])
    }

    /// Offset in elements of head `head` of row `row` of sample `sample`.
    pub(super) fn offset(&self, sample: usize, row: usize, head: usize) -> usize {
        sample * self.strides[0] + row * self.strides[1] + head * self.strides[2]
    }

    /// Loads `out.len()` consecutive elements at `offset`, widened.
    pub(super) fn load(&self, offset: usize, out: &mut [f32]) {
        let len = out.len();
        // SAFETY: the caller's offset and length lie within one row of the view (checked shapes),
        // whose memory `new` vouches for.
        unsafe {
            match self.dtype {
                Dtype::F32 => out.copy_from_slice(std::slice::from_raw_parts(self.ptr.cast::<f32>().add(offset), len)),
                Dtype::F16 => {
                    widen(std::slice::from_raw_parts(self.ptr.cast::<u16>().add(offset), len), out, f16_to_f32)
                }
                Dtype::Bf16 => {
                    widen(std::slice::from_raw_parts(self.ptr.cast::<u16>().add(offset), len), out, bf16_to_f32)
                }
                Dtype::I32 => {
                    let ints = std::slice::from_raw_parts(self.ptr.cast::<i32>().add(offset), len);
                    out.iter_mut().zip(ints).for_each(|(x, i)| *x = *i as f32);
                }
                Dtype::U8 => {
                    let bytes = std::slice::from_raw_parts(self.ptr.add(offset), len);
                    out.iter_mut().zip(bytes).for_each(|(x, b)| *x = f32::from(*b));
                }
            }
        }
    }

    /// Address of the f32 element at `offset`, within the view.
    pub(super) fn f32_at(&self, offset: usize) -> *const f32 {
        self.ptr.cast::<f32>().wrapping_add(offset).cast_const()
    }

    /// Copies `len` consecutive elements of `from`, of the same type.
    pub(super) fn copy_run(&self, offset: usize, from: &Tensor, from_offset: usize, len: usize) {
        let bytes = self.dtype.bytes();
        // SAFETY: both runs lie within one row of their views (checked shapes and equal dtypes),
        // whose memory `new` vouches for; a lawful plan's source and target do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(from.ptr.add(from_offset * bytes), self.ptr.add(offset * bytes), len * bytes);
        }
    }

    /// `len` consecutive f32 elements at `offset` in place, if that is the type.
    fn f32_run(&self, offset: usize, len: usize) -> Option<&[f32]> {
        // SAFETY: as in `load`; a kernel writes a row only after it has let go of what it read.
        (self.dtype == Dtype::F32).then(|| unsafe { std::slice::from_raw_parts(self.f32_at(offset), len) })
    }

    /// [`Tensor::store`] past the caches, where the hardware and the alignment allow it: for
    /// outputs far larger than the caches, which would otherwise be read before they are written.
    fn store_streamed(&self, isa: Isa, offset: usize, values: &[f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.dtype == Dtype::F32 && isa == Isa::Avx512 && values.len().is_multiple_of(16) {
            let target = self.ptr.cast::<f32>().wrapping_add(offset);
            if target.addr().is_multiple_of(64) {
                // SAFETY: as in `store`; the address is aligned to the 64 bytes of each write and
                // the machine has the instruction set (`run_piece_on`).
                return unsafe { stream_avx512(target, values) };
            }
        }
        let _ = isa;
        self.store(offset, values);
    }

    /// Stores `values` at `offset`, rounded to nearest even.
    pub(super) fn store(&self, offset: usize, values: &[f32]) {
        let len = values.len();
        // SAFETY: as in `load`; the operand is written by this kernel alone and its rows by one
        // thread each.
        unsafe {
            match self.dtype {
                Dtype::F32 => {
                    std::slice::from_raw_parts_mut(self.ptr.cast::<f32>().add(offset), len).copy_from_slice(values)
                }
                Dtype::F16 => narrow(
                    values,
                    std::slice::from_raw_parts_mut(self.ptr.cast::<u16>().add(offset), len),
                    f16_from_f32,
                ),
                Dtype::Bf16 => narrow(
                    values,
                    std::slice::from_raw_parts_mut(self.ptr.cast::<u16>().add(offset), len),
                    bf16_from_f32,
                ),
                Dtype::I32 | Dtype::U8 => {}
            }
        }
    }
}

/// # Safety
/// `target` is aligned to 64 bytes and holds as many f32 as `values`, a multiple of 16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn stream_avx512(target: *mut f32, values: &[f32]) {
    use std::arch::x86_64::{_mm512_loadu_ps, _mm512_stream_ps};
    for (i, lanes) in values.chunks_exact(16).enumerate() {
        // SAFETY: the caller's contract.
        unsafe { _mm512_stream_ps(target.add(16 * i), _mm512_loadu_ps(lanes.as_ptr())) };
    }
}

fn widen(from: &[u16], to: &mut [f32], convert: impl Fn(u16) -> f32) {
    from.iter().zip(to).for_each(|(bits, x)| *x = convert(*bits));
}

fn narrow(from: &[f32], to: &mut [u16], convert: impl Fn(f32) -> u16) {
    from.iter().zip(to).for_each(|(x, bits)| *bits = convert(*x));
}

/// The views of one operand as one tensor: concatenated along dimension 1.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a>(pub(super) &'a [Tensor]);

impl Rows<'_> {
    /// The view that holds row `row`, and the row's index in it.
    pub(super) fn locate(&self, mut row: usize) -> (&Tensor, usize) {
        for tensor in self.0 {
            if row < tensor.shape[1] {
                return (tensor, row);
            }
            row -= tensor.shape[1];
        }
        unreachable!("the shapes were checked against the spec")
    }

    /// Row `row` of sample `sample` (of the only one if rows are shared), widened.
    pub(super) fn load(&self, sample: usize, row: usize, out: &mut [f32]) {
        self.load_cols(sample, row, 0, out);
    }

    /// Columns `first..first + out.len()` of a row, widened.
    pub(super) fn load_cols(&self, sample: usize, row: usize, first: usize, out: &mut [f32]) {
        let (tensor, row) = self.locate(row);
        let sample = if tensor.shape[0] == 1 { 0 } else { sample };
        tensor.load(tensor.offset(sample, row, 0) + first, out);
    }

    /// The only element of row `row` of sample `sample`, of an i32 operand.
    pub(super) fn load_i32(&self, sample: usize, row: usize) -> i32 {
        let (tensor, row) = self.locate(row);
        let address = tensor.ptr.cast::<i32>().wrapping_add(tensor.offset(sample, row, 0));
        // SAFETY: the shapes and the dtype were checked; `Tensor::new` vouches for the memory.
        unsafe { address.read() }
    }

    /// Row `row` of sample `sample`: in place if it is f32, else widened into `buffer`.
    pub(super) fn row<'b>(&'b self, sample: usize, row: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let (tensor, local) = self.locate(row);
        match tensor.f32_run(tensor.offset(sample, local, 0), buffer.len()) {
            Some(run) => run,
            None => {
                self.load(sample, row, buffer);
                buffer
            }
        }
    }

    /// Asks for row `row` of sample `sample` ahead of its use: a row is shorter than what the
    /// hardware's own prefetcher needs to get going.
    pub(super) fn prefetch(&self, sample: usize, row: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            let (tensor, row) = self.locate(row);
            let bytes = tensor.shape[2] * tensor.shape[3] * tensor.dtype.bytes();
            let first = tensor.ptr.wrapping_add(tensor.offset(sample, row, 0) * tensor.dtype.bytes());
            for line in (0..bytes).step_by(64) {
                // SAFETY: a prefetch reads nothing and faults nowhere; SSE is part of x86-64.
                unsafe {
                    std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                        first.wrapping_add(line).cast_const().cast(),
                    );
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (sample, row);
    }

    /// [`Rows::store`], past the caches.
    pub(super) fn store_streamed(&self, isa: Isa, sample: usize, row: usize, values: &[f32]) {
        let (tensor, row) = self.locate(row);
        tensor.store_streamed(isa, tensor.offset(sample, row, 0), values);
    }

    /// Stores row `row` of sample `sample`.
    pub(super) fn store(&self, sample: usize, row: usize, values: &[f32]) {
        let (tensor, row) = self.locate(row);
        tensor.store(tensor.offset(sample, row, 0), values);
    }
}
