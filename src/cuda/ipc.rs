//! Device memory of other processes and other devices.

use cudarc::driver::sys;

use super::context::Context;
use super::driver::{check, log_failure};
use crate::error::{Error, Result};

/// Bytes of a handle.
const HANDLE_BYTES: usize = 64;

/// Names a device allocation of this process for others of the same machine. Whoever has its
/// bytes can read and write the memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MemoryHandle([u8; HANDLE_BYTES]);

impl MemoryHandle {
    /// A handle of the allocation that starts at `base`: memory of `cuMemAlloc`, or of a framework
    /// that takes it from there.
    ///
    /// # Errors
    /// Memory that cannot be shared so, and what the driver says.
    pub fn of(base: u64) -> Result<Self> {
        let mut handle = sys::CUipcMemHandle { reserved: [0; HANDLE_BYTES] };
        // SAFETY: writes one handle; the driver refuses what is no allocation.
        check(unsafe { sys::cuIpcGetMemHandle(&mut handle, base) }, "cuIpcGetMemHandle")?;
        Ok(Self(handle.reserved.map(|c| c as u8)))
    }

    /// From the bytes that another process sent.
    ///
    /// # Errors
    /// Another number of bytes than a handle has.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Error::Data(format!("a memory handle of {} bytes: it has {HANDLE_BYTES}", bytes.len())))?;
        Ok(Self(bytes))
    }

    /// Its bytes, for another process.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemoryHandle(..)")
    }
}

/// An allocation of another process, mapped into the current context.
#[derive(Debug)]
pub struct ImportedMemory {
    address: u64,
}

impl ImportedMemory {
    /// Maps it; peer access to its device is enabled where that is another one.
    ///
    /// # Errors
    /// A handle of this process (use its addresses instead), one whose memory is gone, and what the
    /// driver says.
    pub fn open(handle: &MemoryHandle) -> Result<Self> {
        let raw = sys::CUipcMemHandle { reserved: handle.0.map(|b| b as std::ffi::c_char) };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut address = 0;
        // SAFETY: writes one address; closed in drop.
        check(unsafe { sys::cuIpcOpenMemHandle_v2(&mut address, raw, flags) }, "cuIpcOpenMemHandle")?;
        Ok(Self { address })
    }

    /// Where its first byte is in this process.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for ImportedMemory {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once; the driver waits for the work that uses it.
        log_failure(unsafe { sys::cuIpcCloseMemHandle(self.address) }, "cuIpcCloseMemHandle");
    }
}

/// The device allocation that holds `address`: its first byte and its length.
///
/// # Errors
/// An address of no allocation of this process.
pub fn allocation_of(address: u64) -> Result<(u64, usize)> {
    let (mut base, mut bytes) = (0, 0);
    // SAFETY: writes an address and a length.
    check(unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut bytes, address) }, "cuMemGetAddressRange")?;
    Ok((base, bytes))
}

impl Context {
    /// Lets this context reach the memory of `other`, a context of this process. Nothing to do
    /// where both are on one device.
    ///
    /// # Errors
    /// Devices that cannot reach each other, and what the driver says.
    pub fn reach(&self, other: &Self) -> Result<()> {
        let (own, theirs) = (self.device(), other.device());
        if own == theirs {
            return Ok(());
        }
        let mut can = 0;
        // SAFETY: writes one integer.
        check(unsafe { sys::cuDeviceCanAccessPeer(&mut can, own, theirs) }, "cuDeviceCanAccessPeer")?;
        if can == 0 {
            return Err(Error::Unsupported(format!(
                "device {own} cannot reach the memory of device {theirs}: use NCCL between them"
            )));
        }
        self.bind()?;
        // SAFETY: both contexts are alive; 0 is the one allowed flag.
        match unsafe { sys::cuCtxEnablePeerAccess(other.raw(), 0) } {
            sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
            result => check(result, "cuCtxEnablePeerAccess"),
        }
    }
}
