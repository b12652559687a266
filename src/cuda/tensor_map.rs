use cudarc::driver::sys;

use super::driver::check;
use crate::error::{Error, Result};

/// Arguments of `cuTensorMapEncodeTiled` for 16-bit elements; zeros outside the tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorMapArguments<'a> {
    /// First byte.
    pub address: u64,
    /// Extents, innermost first; as many as dimensions.
    pub dims: &'a [u64],
    /// Distances in bytes of the dimensions from the second on.
    pub strides_bytes: &'a [u64],
    /// Extents of a box.
    pub boxes: &'a [u32],
    /// Bytes of the swizzle's span: 0, 32, 64 or 128.
    pub swizzle_bytes: u32,
}

/// A tensor map, for a kernel's parameters.
///
/// # Errors
/// Arguments that TMA does not allow.
pub fn encode_tensor_map(arguments: &TensorMapArguments<'_>) -> Result<[u8; 128]> {
    use sys::CUtensorMapSwizzle_enum as Swizzle;
    let TensorMapArguments { address, dims, strides_bytes, boxes, swizzle_bytes } = *arguments;
    let rank = dims.len();
    let swizzle = match swizzle_bytes {
        0 => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        other => return Err(Error::Unsupported(format!("a swizzle of {other} bytes: use 0, 32, 64 or 128"))),
    };
    if !(1..=5).contains(&rank) || strides_bytes.len() + 1 != rank || boxes.len() != rank {
        return Err(Error::Shape(format!(
            "tensor map of {rank} dimensions, {} strides, {} box extents",
            strides_bytes.len(),
            boxes.len()
        )));
    }
    // SAFETY: a plain struct of integers, for which zeros are a value.
    let mut map: sys::CUtensorMap = unsafe { std::mem::zeroed() };
    let steps = [1u32; 5];
    // SAFETY: every array has `rank` elements (strides one less); writes one map.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            rank as u32,
            address as usize as *mut std::ffi::c_void,
            dims.as_ptr(),
            strides_bytes.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check(result, "cuTensorMapEncodeTiled")?;
    Ok(bytemuck::cast(map.opaque))
}
