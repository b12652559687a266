//! Memory: allocated, pinned, mapped, copied, freed.

use std::ptr::null_mut;

use cudarc::driver::sys::*;

use super::{Setup, ok, text, texts};

pub(super) fn allocate_nothing() -> String {
    let (_setup, mut address) = (Setup::new(), 0);
    // SAFETY: writes one number.
    text(unsafe { cuMemAlloc_v2(&mut address, 0) })
}

pub(super) fn alignment() -> String {
    let _setup = Setup::new();
    let addresses = [1, 300, 7].map(|bytes| {
        let mut address = 0;
        // SAFETY: writes one number.
        ok(unsafe { cuMemAlloc_v2(&mut address, bytes) });
        address
    });
    if addresses.iter().all(|a| a % 256 == 0) { "256".into() } else { format!("{addresses:x?}") }
}

pub(super) fn free_twice() -> String {
    let (_setup, mut address) = (Setup::new(), 0);
    // SAFETY: frees what was allocated, then what is refused.
    unsafe {
        ok(cuMemAlloc_v2(&mut address, 8));
        texts([cuMemFree_v2(0), cuMemFree_v2(address), cuMemFree_v2(address)])
    }
}

pub(super) fn pageable_source() -> String {
    let (s, mut source) = (Setup::new(), Box::new(1u32));
    // SAFETY: the source outlives the call, which is all that a pageable one needs.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(s.memory, (&raw const *source).cast(), 4, s.streams[0]));
        (&raw mut *source).write_volatile(2);
        ok(cuStreamSynchronize(s.streams[0]));
    }
    s.read(0).to_string()
}

pub(super) fn pinned_source() -> String {
    let s = Setup::new();
    s.shut(s.streams[0]);
    // SAFETY: the words outlive the copy.
    unsafe {
        let source = s.words.add(4);
        source.write_volatile(1);
        ok(cuMemcpyHtoDAsync_v2(s.memory, source.cast(), 4, s.streams[0]));
        source.write_volatile(2);
        s.open();
        ok(cuStreamSynchronize(s.streams[0]));
    }
    s.read(0).to_string()
}

pub(super) fn pageable_target() -> String {
    let (s, mut target) = (Setup::new(), Box::new(0u32));
    // SAFETY: the target outlives the copy.
    unsafe {
        ok(cuMemsetD32Async(s.memory, 1, 1, s.streams[0]));
        ok(cuMemcpyDtoHAsync_v2((&raw mut *target).cast(), s.memory, 4, s.streams[0]));
        (&raw const *target).read_volatile().to_string()
    }
}

pub(super) fn own_handle() -> String {
    let (s, mut handle, mut address) = (Setup::new(), CUipcMemHandle { reserved: [0; 64] }, 0);
    // SAFETY: writes one handle, one address.
    unsafe {
        let middle = cuIpcGetMemHandle(&mut handle, s.memory + 16);
        ok(cuIpcGetMemHandle(&mut handle, s.memory));
        texts([middle, cuIpcOpenMemHandle_v2(&mut address, handle, 1)])
    }
}

pub(super) fn ranges() -> String {
    let (s, mut base, mut bytes) = (Setup::new(), 0, 0);
    // SAFETY: writes an address and a length.
    unsafe {
        let inside = cuMemGetAddressRange_v2(&mut base, &mut bytes, s.memory + 16);
        let at = s.memory + 16 - base;
        texts([inside, cuMemGetAddressRange_v2(&mut base, &mut bytes, 64)])
            .replace("SUCCESS", &format!("{at:x} SUCCESS"))
    }
}

pub(super) fn fills_and_copies() -> String {
    let s = Setup::new();
    // SAFETY: within the memory.
    unsafe {
        ok(cuMemsetD8Async(s.memory, 0xa5, 4, s.streams[0]));
        ok(cuMemcpyDtoDAsync_v2(s.memory + 10, s.memory, 2, s.streams[0]));
        ok(cuStreamSynchronize(s.streams[0]));
    }
    format!("{:x} {:x}", s.read(0), s.read(8))
}

pub(super) fn pinned_from_the_device() -> String {
    let s = Setup::new();
    // SAFETY: a word of the pinned memory; read when the write has run.
    unsafe {
        let word = s.words.add(8);
        ok(cuStreamWriteValue32_v2(s.streams[0], word as u64, 5, 0));
        ok(cuStreamSynchronize(s.streams[0]));
        word.read_volatile().to_string()
    }
}

pub(super) fn freed_while_used() -> String {
    let (s, mut device, mut pinned) = (Setup::new(), 0, null_mut());
    // SAFETY: freeing waits for the work, so both outlive it.
    unsafe {
        ok(cuMemAlloc_v2(&mut device, 1 << 20));
        ok(cuMemHostAlloc(&mut pinned, 1 << 20, 2));
        for _ in 0..20 {
            ok(cuMemsetD8Async(device, 1, 1 << 20, s.streams[0]));
            ok(cuMemcpyDtoHAsync_v2(pinned, device, 1 << 20, s.streams[0]));
        }
        let freed = texts([cuMemFree_v2(device), cuMemFreeHost(pinned)]);
        let done = cuStreamQuery(s.streams[0]) == CUresult::CUDA_SUCCESS;
        format!("{freed} {}", if done { "done" } else { "under way" })
    }
}

pub(super) fn closed_unopened() -> String {
    let s = Setup::new();
    // SAFETY: refused.
    text(unsafe { cuIpcCloseMemHandle(s.memory) })
}

pub(super) fn own_peer() -> String {
    let (_setup, mut can, mut context) = (Setup::new(), 9, null_mut());
    // SAFETY: write one value each.
    unsafe {
        ok(cuDeviceCanAccessPeer(&mut can, 0, 0));
        ok(cuCtxGetCurrent(&mut context));
        format!("{can} {}", text(cuCtxEnablePeerAccess(context, 0)))
    }
}
