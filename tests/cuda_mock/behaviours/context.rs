//! Initialisation, devices, contexts.

use std::ffi::CStr;
use std::ptr::null_mut;

use cudarc::driver::sys::*;

use super::{Setup, ok, text};

pub(super) fn init_with_flag() -> String {
    // SAFETY: takes a number.
    text(unsafe { cuInit(1) })
}

pub(super) fn no_device() -> String {
    let mut device = 0;
    // SAFETY: writes one number.
    unsafe {
        ok(cuInit(0));
        text(cuDeviceGet(&mut device, 999))
    }
}

pub(super) fn no_context() -> String {
    let mut address = 0;
    // SAFETY: writes one number.
    unsafe {
        ok(cuInit(0));
        text(cuMemAlloc_v2(&mut address, 8))
    }
}

pub(super) fn device() -> String {
    let _setup = Setup::new();
    let (mut device, mut name, mut uuid, mut bytes) = (0, [0; 128], CUuuid { bytes: [0; 16] }, 0);
    let mut values = [0; 3];
    use CUdevice_attribute::*;
    let which = [
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    ];
    // SAFETY: each call writes what it is given room for.
    unsafe {
        ok(cuDeviceGet(&mut device, 0));
        ok(cuDeviceGetName(name.as_mut_ptr(), 128, device));
        ok(cuDeviceGetUuid_v2(&mut uuid, device));
        ok(cuDeviceTotalMem_v2(&mut bytes, device));
        for (value, which) in values.iter_mut().zip(which) {
            ok(cuDeviceGetAttribute(value, which, device));
        }
    }
    let [major, minor, sms] = values;
    let all = name[0] != 0 && uuid.bytes != [0; 16] && bytes > 1 << 20 && major >= 8 && minor >= 0 && sms > 0;
    if all { "all".into() } else { format!("{bytes} bytes, {values:?}") }
}

pub(super) fn driver() -> String {
    let (mut version, mut name, mut words) = (0, std::ptr::null(), std::ptr::null());
    // SAFETY: write one number and two static strings.
    let name = unsafe {
        ok(cuInit(0));
        ok(cuDriverGetVersion(&mut version));
        ok(cuGetErrorName(CUresult::CUDA_ERROR_INVALID_VALUE, &mut name));
        ok(cuGetErrorString(CUresult::CUDA_ERROR_INVALID_VALUE, &mut words));
        CStr::from_ptr(name).to_string_lossy()
    };
    format!("{} {name}", if version >= 12010 { "new" } else { "old" })
}

pub(super) fn retained_twice() -> String {
    let (_setup, mut contexts, mut current, mut device) = (Setup::new(), [null_mut(); 2], null_mut(), 9);
    // SAFETY: write one handle or number each.
    unsafe {
        contexts.iter_mut().for_each(|context| ok(cuDevicePrimaryCtxRetain(context, 0)));
        ok(cuCtxGetCurrent(&mut current));
        ok(cuCtxGetDevice(&mut device));
        (0..2).for_each(|_| ok(cuDevicePrimaryCtxRelease_v2(0)));
    }
    let one = if contexts[0] == contexts[1] { "one" } else { "two" };
    format!("{one} {} {device}", if current == contexts[0] { "current" } else { "another" })
}

pub(super) fn synchronised() -> String {
    let s = Setup::new();
    // SAFETY: the memory outlives the work.
    unsafe {
        ok(cuMemsetD32Async(s.memory, 7, 1, s.streams[0]));
        ok(cuMemsetD32Async(s.memory + 4, 7, 1, s.streams[1]));
        ok(cuCtxSynchronize());
    }
    format!("{} {}", s.read(0), s.read(4))
}
