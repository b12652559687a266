//! Transports: how the messages of a communication reach the other ranks. What notices and names
//! failures between them stands beside: [`signature`] before a run, [`flight`] and [`watchdog`]
//! during one.

pub mod flight;
pub mod local;
#[cfg(feature = "nccl")]
pub mod nccl;
#[cfg(feature = "nccl")]
pub mod peer;
mod process;
pub mod signature;
pub mod watchdog;
