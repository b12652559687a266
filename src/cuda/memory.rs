//! Device memory, pinned host memory, copies.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::driver::{check, log_failure};
use super::stream::Stream;
use crate::error::{Error, Result};

/// A range of device memory of our own.
#[derive(Debug)]
pub struct DeviceMemory {
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// Undefined memory of the current context, aligned to 256 bytes.
    ///
    /// # Errors
    /// What the driver says: out of memory above all.
    pub fn new(bytes: usize) -> Result<Self> {
        let mut address = 0;
        // SAFETY: writes one address; freed in drop. Zero bytes are no allocation for the driver.
        check(unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) }, "cuMemAlloc")?;
        Ok(Self { address, bytes })
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives it up: it is never freed, since that would wait for work that never ends.
    pub fn leave(&mut self) {
        (self.address, self.bytes) = (0, 0);
    }

    /// Copies from the host to the bytes from `offset` on, behind all earlier work of `stream`;
    /// returns when done.
    ///
    /// # Errors
    /// More bytes than it has, and what the driver says.
    pub fn write(&self, offset: usize, from: &[u8], stream: &Stream) -> Result<()> {
        let to = self.range(offset, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is ours; the copy is done before the slice ends.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream.raw()) };
        check(result, "cuMemcpyHtoD")?;
        stream.synchronize()
    }

    /// Copies the bytes from `offset` on to the host, behind all earlier work of `stream`, and
    /// waits for it.
    ///
    /// # Errors
    /// More bytes than it has, and what the driver says, a failure of earlier work included.
    pub fn read(&self, offset: usize, to: &mut [u8], stream: &Stream) -> Result<()> {
        let from = self.range(offset, to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is ours; the copy is done before the slice ends.
        let result = unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream.raw()) };
        check(result, "cuMemcpyDtoH")?;
        stream.synchronize()
    }

    /// Sets every byte, in stream order.
    ///
    /// # Errors
    /// What the driver says.
    pub fn fill(&self, value: u8, stream: &Stream) -> Result<()> {
        // SAFETY: the range is ours, and freeing it waits for the work that uses it.
        unsafe { fill_device(self.address, value, self.bytes, stream) }
    }

    /// Address of `bytes` bytes from `offset` on.
    fn range(&self, offset: usize, bytes: usize) -> Result<u64> {
        if offset.checked_add(bytes).is_some_and(|end| end <= self.bytes) {
            return Ok(self.address + offset as u64);
        }
        Err(Error::Bind(format!("bytes {offset} to {offset} + {bytes} of device memory of {}", self.bytes)))
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        // SAFETY: made by `new`, freed once; the driver waits for the work that uses it.
        log_failure(unsafe { sys::cuMemFree_v2(self.address) }, "cuMemFree");
    }
}

/// Host memory that the device can reach and copies do not stage.
#[derive(Debug)]
pub struct PinnedMemory {
    data: *mut u8,
    bytes: usize,
    left: bool,
}

// SAFETY: plain memory, owned.
unsafe impl Send for PinnedMemory {}
// SAFETY: shared, it is only read.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// Zeroed memory, mapped for the device at the same address.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(bytes: usize) -> Result<Self> {
        let mut data: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes one pointer; freed in drop.
        let result = unsafe { sys::cuMemHostAlloc(&mut data, bytes.max(1), sys::CU_MEMHOSTALLOC_DEVICEMAP) };
        check(result, "cuMemHostAlloc")?;
        // SAFETY: the allocation has that many bytes.
        unsafe { std::ptr::write_bytes(data.cast::<u8>(), 0, bytes) };
        Ok(Self { data: data.cast(), bytes, left: false })
    }

    /// Its address, on the device as on the host.
    pub fn address(&self) -> u64 {
        self.data as u64
    }

    /// One of its 32-bit words, which device work may be writing; 0 beyond the end.
    pub fn word(&self, index: usize) -> u32 {
        if self.bytes / 4 <= index {
            return 0;
        }
        // SAFETY: the word lies in the allocation, which is aligned to a page.
        unsafe { self.data.cast::<u32>().add(index).read_volatile() }
    }

    /// Gives it up: it is never freed, since that would wait for work that never ends.
    pub fn leave(&mut self) {
        (self.data, self.bytes) = (std::ptr::dangling_mut(), 0);
        self.left = true;
    }

    /// Its bytes, while no device work writes them.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: initialised in `new`, owned.
        unsafe { std::slice::from_raw_parts(self.data, self.bytes) }
    }

    /// Its bytes, while no device work touches them.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: initialised in `new`, owned.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.bytes) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        // SAFETY: made by `new`, freed once.
        log_failure(unsafe { sys::cuMemFreeHost(self.data.cast()) }, "cuMemFreeHost");
    }
}

/// Sets every byte of a range of device memory, in stream order.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// The range is alive until the fill has run, and what conflicts with it is ordered by the caller.
pub unsafe fn fill_device(to: u64, value: u8, bytes: usize, stream: &Stream) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    check(unsafe { sys::cuMemsetD8Async(to, value, bytes, stream.raw()) }, "cuMemsetD8")
}

/// Copies within the device, in stream order.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// Both ranges are alive until the copy has run, and what conflicts with it is ordered by the caller.
pub unsafe fn copy_device_to_device(to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    check(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, stream.raw()) }, "cuMemcpyDtoD")
}

/// Copies from the device to pinned host memory, in stream order.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// As for [`copy_device_to_device`]; `to` lies in a [`PinnedMemory`].
pub(super) unsafe fn copy_device_to_host(to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { sys::cuMemcpyDtoHAsync_v2(to as usize as *mut c_void, from, bytes, stream.raw()) }, "cuMemcpyDtoH")
}

/// Copies from pinned host memory to the device, in stream order.
///
/// # Errors
/// What the driver says.
///
/// # Safety
/// As for [`copy_device_to_device`]; `from` lies in a [`PinnedMemory`].
pub(super) unsafe fn copy_host_to_device(to: u64, from: u64, bytes: usize, stream: &Stream) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from as usize as *const c_void, bytes, stream.raw()) }, "cuMemcpyHtoD")
}
