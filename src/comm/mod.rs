//! Transports: how the messages of a communication reach the other ranks.

pub mod local;
#[cfg(feature = "nccl")]
pub mod nccl;
#[cfg(feature = "nccl")]
pub mod peer;
