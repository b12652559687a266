//! NCCL's C interface, as nccl.h of 2.28.9 declares it.

pub(crate) mod abi;
pub(crate) mod functions;
mod library;

pub(crate) use library::{Library, version_text};
