use std::ffi::c_void;

use cudarc::driver::sys;

use super::driver::check;
use super::module::Function;
use super::stream::Stream;
use crate::error::Result;

/// Size of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, allowed before by [`Function::allow_shared_bytes`].
    pub shared_bytes: u32,
    /// Whether it may start before the kernel in front of it has ended: it waits inside
    /// (programmatic dependent launch).
    pub dependent: bool,
}

/// Launches with one parameter, a struct given by its bytes.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// `params` is the parameter struct of `function`, and every address in it is alive and ordered
/// with other work until the kernel has ended.
pub unsafe fn launch(function: &Function, geometry: &Geometry, params: &[u8], stream: &Stream) -> Result<()> {
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: Default::default(),
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let [grid, block] = [geometry.grid, geometry.block];
    let config = sys::CUlaunchConfig {
        gridDimX: grid[0],
        gridDimY: grid[1],
        gridDimZ: grid[2],
        blockDimX: block[0],
        blockDimY: block[1],
        blockDimZ: block[2],
        sharedMemBytes: geometry.shared_bytes,
        hStream: stream.raw(),
        attrs: &mut attribute,
        numAttrs: u32::from(geometry.dependent),
    };
    let mut pointers = [params.as_ptr().cast_mut().cast::<c_void>()];
    // SAFETY: the driver copies the parameter struct, whose size it knows, before it returns; the
    // rest is the caller's promise.
    check(
        unsafe { sys::cuLaunchKernelEx(&config, function.raw(), pointers.as_mut_ptr(), std::ptr::null_mut()) },
        "cuLaunchKernelEx",
    )
}
