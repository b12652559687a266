//! Tensors in memory of the test, as the ABI takes them.

use std::ffi::c_void;

use seqpar::capi::abi::Tensor;
use seqpar::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};

use crate::support::tensors::Values;

/// A packed tensor, aligned to 16 bytes.
pub(crate) struct Memory {
    words: Vec<u128>,
    dtype: Dtype,
    shape: [usize; 4],
}

pub(crate) const ABSENT: Tensor = Tensor { data: std::ptr::null_mut(), strides: [0; 4] };

impl Memory {
    pub(crate) fn of(values: &Values) -> Self {
        let bytes = bytes_of(values);
        let mut memory = Self::poisoned(values.dtype, values.shape);
        memory.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        memory
    }

    /// All bits set.
    pub(crate) fn poisoned(dtype: Dtype, shape: [usize; 4]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.bytes();
        Self { words: vec![u128::MAX; bytes.div_ceil(16) + 1], dtype, shape }
    }

    pub(crate) fn data(&mut self) -> *mut c_void {
        self.words.as_mut_ptr().cast()
    }

    pub(crate) fn tensor(&mut self) -> Tensor {
        Tensor { data: self.data(), strides: [0; 4] }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }

    pub(crate) fn values(&self) -> Values {
        let count = self.shape.iter().product::<usize>();
        let bytes = &bytemuck::cast_slice::<u128, u8>(&self.words)[..count * self.dtype.bytes()];
        values_of(self.dtype, self.shape, bytes)
    }
}

pub(crate) fn bytes_of(values: &Values) -> Vec<u8> {
    let element = |x: f32| match values.dtype {
        Dtype::F32 => x.to_ne_bytes().to_vec(),
        Dtype::F16 => f16_from_f32(x).to_ne_bytes().to_vec(),
        Dtype::Bf16 => bf16_from_f32(x).to_ne_bytes().to_vec(),
        Dtype::I32 => (x as i32).to_ne_bytes().to_vec(),
        _ => vec![x as u8],
    };
    values.data.iter().flat_map(|&x| element(x)).collect()
}

pub(crate) fn values_of(dtype: Dtype, shape: [usize; 4], bytes: &[u8]) -> Values {
    let element = |b: &[u8]| match dtype {
        Dtype::F32 => f32::from_ne_bytes(b.try_into().unwrap()),
        Dtype::F16 => f16_to_f32(u16::from_ne_bytes(b.try_into().unwrap())),
        Dtype::Bf16 => bf16_to_f32(u16::from_ne_bytes(b.try_into().unwrap())),
        Dtype::I32 => i32::from_ne_bytes(b.try_into().unwrap()) as f32,
        _ => f32::from(b[0]),
    };
    Values { dtype, shape, data: bytes.chunks(dtype.bytes()).map(element).collect() }
}

/// The number of a type in the header.
pub(crate) fn code(dtype: Dtype) -> i32 {
    [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I32, Dtype::U8].iter().position(|d| *d == dtype).unwrap() as i32
}
