//! C interfaces, declared by hand: names, types and values as their headers have them, and nothing
//! that decides. Libraries are opened at run time; each function is there or not.
//!
//! Assumes the ABI that each file names. `tests/nccl_abi.rs` compares it with the header.

pub(crate) mod descriptors;
pub(crate) mod nccl;
