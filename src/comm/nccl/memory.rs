use super::failure::{Fault, checked};
use super::library::Library;
use super::member::function;

/// Device memory of NCCL's own, fit for windows. Freed by drop, which waits for the work that uses
/// it, as the driver does.
#[derive(Debug)]
pub struct Memory {
    address: u64,
    bytes: usize,
    library: Library,
}

impl Memory {
    pub(super) fn new(library: &Library, bytes: usize) -> Result<Self, Fault> {
        function!(library, ncclMemFree)?;
        let allocate = function!(library, ncclMemAlloc)?;
        let mut address = std::ptr::null_mut();
        // SAFETY: writes one pointer; freed in drop.
        checked(library, "ncclMemAlloc", unsafe { allocate(&mut address, bytes.max(1)) })?;
        Ok(Self { address: address as u64, bytes, library: library.clone() })
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Ok(free) = function!(self.library, ncclMemFree) else { return };
        // SAFETY: made by `new`, freed once.
        if let Err(fault) = checked(&self.library, "ncclMemFree", unsafe { free(self.address as *mut _) }) {
            log::error!("{}", fault.kind);
        }
    }
}
