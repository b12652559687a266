use std::ffi::c_char;
use std::fmt;

use crate::ffi::nccl::abi::ncclUniqueId;

/// Identity of a communicator. **Whoever knows its bytes can join**: it is never printed, and
/// travels over channels that the job trusts.
#[derive(Clone, Copy)]
pub struct UniqueId(ncclUniqueId);

impl UniqueId {
    /// Its bytes.
    pub fn as_bytes(&self) -> [u8; 128] {
        self.0.internal.map(|c| c as u8)
    }

    /// The identity with these bytes.
    pub fn from_bytes(bytes: [u8; 128]) -> Self {
        Self(ncclUniqueId { internal: bytes.map(|b| b as c_char) })
    }

    pub(super) fn zeroed() -> Self {
        Self::from_bytes([0; 128])
    }

    pub(super) fn raw(&self) -> ncclUniqueId {
        self.0
    }

    pub(super) fn raw_mut(&mut self) -> &mut ncclUniqueId {
        &mut self.0
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId(secret)")
    }
}
