//! Tensors and sizes of a caller, as the views that kernels take.

use super::abi::Tensor;
use super::status::{Fault, Outcome};
use crate::dtype::Dtype;
use crate::kernel::TensorView;
use crate::kernel::spec::RopePairs;

/// No tensor spans more: addresses of devices and processes have 47 bits.
const LARGEST_SPAN_BYTES: usize = 1 << 47;

/// A size: not negative, and a number that every kernel can count in.
pub(super) fn size(value: i64, name: &str) -> Outcome<usize> {
    let size = usize::try_from(value).ok().filter(|&size| size <= i32::MAX as usize);
    size.ok_or_else(|| Fault::argument(format!("{name} is {value}: use 0 to {}", i32::MAX)))
}

/// A size that is at least 1.
pub(super) fn count(value: i64, name: &str) -> Outcome<usize> {
    match size(value, name)? {
        0 => Err(Fault::argument(format!("{name} is 0: use 1 or more"))),
        count => Ok(count),
    }
}

/// `heads` where there are no key heads of their own.
pub(super) fn kv_heads(value: i64, heads: usize) -> Outcome<usize> {
    let kv_heads = if value == 0 { heads } else { size(value, "kv_heads")? };
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(Fault::argument(format!("{heads} heads and {kv_heads} kv_heads: make it divide heads")));
    }
    Ok(kv_heads)
}

/// A choice between two.
pub(super) fn flag(value: i32, name: &str) -> Outcome<bool> {
    match value {
        0 | 1 => Ok(value == 1),
        _ => Err(Fault::argument(format!("{name} is {value}: use 0 or 1"))),
    }
}

/// Fields that later versions may give a meaning to.
pub(super) fn reserved(value: i32) -> Outcome {
    if value == 0 { Ok(()) } else { Err(Fault::argument(format!("reserved is {value}: set it to 0"))) }
}

/// A type that kernels compute on.
pub(super) fn float(value: i32) -> Outcome<Dtype> {
    match value {
        0 => Ok(Dtype::F32),
        1 => Ok(Dtype::F16),
        2 => Ok(Dtype::Bf16),
        _ => Err(Fault::argument(format!("dtype is {value}: use SEQPAR_F32, SEQPAR_F16 or SEQPAR_BF16"))),
    }
}

/// The number of a type in the header.
pub(super) fn dtype_code(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Bf16 => 2,
        Dtype::I32 => 3,
        Dtype::U8 => 4,
    }
}

/// How channels turn, if they do.
pub(super) fn rope(value: i32) -> Outcome<Option<RopePairs>> {
    match value {
        0 => Ok(None),
        1 => Ok(Some(RopePairs::Interleaved)),
        2 => Ok(Some(RopePairs::Halves)),
        _ => Err(Fault::argument(format!("rope is {value}: use SEQPAR_ROPE_*"))),
    }
}

impl Tensor {
    /// No address: absent.
    pub(super) fn is_absent(&self) -> bool {
        self.data.is_null()
    }

    /// A tensor that is read, as `shape`.
    pub(super) fn read(&self, name: &str, dtype: Dtype, shape: [usize; 4]) -> Outcome<TensorView> {
        let view = self.view(name, dtype, shape)?;
        let fault = |why: String| Fault::argument(format!("{name}: {why}"));
        let elems = shape.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent));
        if elems == Some(0) {
            return Ok(view);
        }
        if self.is_absent() {
            return Err(fault(format!("data is null, {dtype} {shape:?} is wanted")));
        }
        let last = view
            .strides
            .iter()
            .zip(shape)
            .try_fold(0usize, |last, (stride, extent)| last.checked_add(stride.checked_mul(extent - 1)?));
        let span = last.and_then(|last| last.checked_add(1)?.checked_mul(dtype.bytes()));
        let end = span.and_then(|span| self.data.addr().checked_add(span));
        if elems.is_none() || end.is_none() || span.is_none_or(|span| span > LARGEST_SPAN_BYTES) {
            return Err(fault(format!("{shape:?} with strides {:?} is larger than any memory", self.strides)));
        }
        Ok(view)
    }

    /// A tensor that is written: no two of its elements share memory.
    pub(super) fn written(&self, name: &str, dtype: Dtype, shape: [usize; 4]) -> Outcome<TensorView> {
        let view = self.read(name, dtype, shape)?;
        let mut dims: Vec<(usize, usize)> = view.strides.into_iter().zip(shape).filter(|dim| dim.1 > 1).collect();
        dims.sort_unstable();
        let mut free = 1;
        for (stride, extent) in dims {
            if stride < free && !shape.contains(&0) {
                return Err(Fault::argument(format!(
                    "{name}: strides {:?} put two elements of {shape:?} in one place",
                    self.strides
                )));
            }
            free = stride.saturating_mul(extent);
        }
        Ok(view)
    }

    fn view(&self, name: &str, dtype: Dtype, shape: [usize; 4]) -> Outcome<TensorView> {
        let packed = self.strides == [0; 4];
        let row_major = || {
            let inner = shape[2].checked_mul(shape[3])?;
            Some([inner.checked_mul(shape[1])?, inner, shape[3], 1])
        };
        let given = || {
            let mut strides = [0; 4];
            for (stride, value) in strides.iter_mut().zip(self.strides) {
                *stride = usize::try_from(value).ok()?;
            }
            Some(strides)
        };
        let strides = if packed { row_major() } else { given() };
        let strides = strides.ok_or_else(|| {
            Fault::argument(format!("{name}: {shape:?} with strides {:?}: use positive ones", self.strides))
        })?;
        Ok(TensorView { address: self.data as u64, dtype, shape, strides })
    }
}
