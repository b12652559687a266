//! Tensor maps, modules, launches.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::*;
use seqpar::kernel::cuda::sum;
use seqpar::kernel::cuda::{Arch, Device};

use super::{Setup, ok, text, texts};

pub(super) fn tensor_maps() -> String {
    let s = Setup::new();
    let encode = |address: u64, rows: u32| {
        let (mut map, dims, strides) = (CUtensorMap { opaque: [0; 16] }, [16u64, 2], [32u64]);
        let (boxes, steps) = ([16u32, rows], [1u32, 1]);
        // SAFETY: the arrays have as many elements as the rank says; writes one map.
        unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_UINT16,
                2,
                address as usize as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_32B,
                CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
    };
    texts([encode(s.memory, 2), encode(s.memory + 8, 2), encode(s.memory, 257)])
}

/// A kernel of the crate's by name and size of its parameters that does nothing; the mock has the
/// kernel itself, whose parameters of zeros leave it nothing to do.
struct Empty {
    function: CUfunction,
    params: Vec<u8>,
    stream: CUstream,
    setup: Setup,
}

impl Empty {
    fn new() -> Self {
        let setup = Setup::new();
        let device = Device { arch: Arch::Sm80, sms: 1 };
        let launch = sum(seqpar::dtype::Dtype::F32, &[setup.memory], setup.memory, 1, &device).unwrap();
        let (module, name) = (module(&launch.symbol, launch.params.len()), CString::new(launch.symbol).unwrap());
        let mut function = null_mut();
        // SAFETY: the module is alive; writes one handle.
        ok(unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) });
        Self { function, params: vec![0; launch.params.len()], stream: setup.streams[0], setup }
    }

    fn launch(&self, blocks: u32, threads: u32, shared_bytes: u32, dependent: bool) -> CUresult {
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: Default::default(),
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.stream,
            attrs: &mut attribute,
            numAttrs: u32::from(dependent),
        };
        let mut pointers = [self.params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the parameters have the kernel's size; it touches nothing.
        unsafe { cuLaunchKernelEx(&config, self.function, pointers.as_mut_ptr(), null_mut()) }
    }

    fn allow(&self, bytes: i32) -> CUresult {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is alive.
        unsafe { cuFuncSetAttribute(self.function, attribute, bytes) }
    }

    /// The last launch has run.
    fn end(self) {
        // SAFETY: the stream is alive.
        ok(unsafe { cuStreamSynchronize(self.setup.streams[0]) });
    }
}

fn module(symbol: &str, param_bytes: usize) -> CUmodule {
    let head = ".version 7.0\n.target sm_80\n.address_size 64\n";
    let entry =
        format!(".visible .entry {symbol}(.param .align 8 .b8 p[{param_bytes}]) .maxntid 256, 1, 1 {{ ret; }}\n");
    let (image, mut module) = (CString::new(format!("{head}{entry}")).unwrap(), null_mut());
    // SAFETY: PTX that ends in 0; writes one handle.
    ok(unsafe { cuModuleLoadData(&mut module, image.as_ptr().cast()) });
    module
}

pub(super) fn no_kernel() -> String {
    let (_setup, mut function) = (Setup::new(), null_mut());
    let module = module("sum_f32", 8);
    // SAFETY: the module is alive until it is unloaded.
    unsafe {
        let found = text(cuModuleGetFunction(&mut function, module, c"no_such_kernel".as_ptr()));
        ok(cuModuleUnload(module));
        found
    }
}

pub(super) fn shared_memory() -> String {
    let empty = Empty::new();
    let results = [empty.allow(1 << 30), empty.launch(1, 32, 60 << 10, false)];
    let results = [results[0], results[1], empty.allow(60 << 10), empty.launch(1, 32, 60 << 10, false)];
    empty.end();
    texts(results)
}

pub(super) fn sizes() -> String {
    let empty = Empty::new();
    texts([empty.launch(0, 32, 0, false), empty.launch(1, 1025, 0, false)])
}

pub(super) fn dependent() -> String {
    let empty = Empty::new();
    let results = [empty.launch(1, 32, 0, false), empty.launch(1, 32, 0, true)];
    empty.end();
    texts(results)
}
