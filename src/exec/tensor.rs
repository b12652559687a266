//! Whole tensors of the caller: dtype, extents, bytes.

use bytemuck::Pod;

use crate::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use crate::error::{Error, Result};

/// A row-major tensor in host memory, as it is scattered to ranks and gathered from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub dims: [usize; 4],
    /// Elements in native byte order.
    pub bytes: Vec<u8>,
}

impl HostTensor {
    /// A tensor of the given bytes.
    ///
    /// # Errors
    /// A number of bytes that is not that of the extents.
    pub fn new(dtype: Dtype, dims: [usize; 4], bytes: Vec<u8>) -> Result<Self> {
        let expected = dims.iter().try_fold(dtype.bytes(), |n, d| n.checked_mul(*d));
        if expected != Some(bytes.len()) {
            return Err(Error::Shape(format!("{} bytes are no {dtype} tensor of {dims:?}", bytes.len())));
        }
        Ok(Self { dtype, dims, bytes })
    }

    /// Zeros.
    pub fn zeros(dtype: Dtype, dims: [usize; 4]) -> Self {
        Self { dtype, dims, bytes: vec![0; dims.iter().product::<usize>() * dtype.bytes()] }
    }

    /// Values rounded to `dtype`, a float.
    ///
    /// # Errors
    /// A dtype that is no float, or a number of values that is not that of the extents.
    pub fn from_f32(dtype: Dtype, dims: [usize; 4], values: &[f32]) -> Result<Self> {
        let bytes = match dtype {
            Dtype::F32 => bytes_of(values),
            Dtype::F16 => bytes_of(&values.iter().map(|x| f16_from_f32(*x)).collect::<Vec<u16>>()),
            Dtype::Bf16 => bytes_of(&values.iter().map(|x| bf16_from_f32(*x)).collect::<Vec<u16>>()),
            other => return Err(Error::Shape(format!("{other} holds no floats: use f32, f16 or bf16"))),
        };
        Self::new(dtype, dims, bytes)
    }

    /// Integers.
    ///
    /// # Errors
    /// A number of values that is not that of the extents.
    pub fn from_i32(dims: [usize; 4], values: &[i32]) -> Result<Self> {
        Self::new(Dtype::I32, dims, bytes_of(values))
    }

    /// Bytes, such as a mask.
    ///
    /// # Errors
    /// A number of values that is not that of the extents.
    pub fn from_u8(dims: [usize; 4], values: &[u8]) -> Result<Self> {
        Self::new(Dtype::U8, dims, values.to_vec())
    }

    /// The values, widened to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let halves = |widen: fn(u16) -> f32| self.elements::<u16>().into_iter().map(widen).collect();
        match self.dtype {
            Dtype::F32 => self.elements(),
            Dtype::F16 => halves(f16_to_f32),
            Dtype::Bf16 => halves(bf16_to_f32),
            Dtype::I32 => self.elements::<i32>().into_iter().map(|x| x as f32).collect(),
            Dtype::U8 => self.bytes.iter().map(|b| *b as f32).collect(),
        }
    }

    /// The bytes as elements; a `Vec<u8>` need not be aligned for them, so they are copied. A
    /// last element that is cut short is left out.
    fn elements<T: Pod>(&self) -> Vec<T> {
        let whole = self.bytes.len() - self.bytes.len() % size_of::<T>();
        self.bytes[..whole].chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }
}

fn bytes_of<T: Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}
