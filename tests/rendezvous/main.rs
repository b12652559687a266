//! Ranks meet, or all learn why not: stores, hellos, launchers, and strangers at the door.
//!
//! Every test that starts threads or processes does so under a parent that ends their process
//! group after three minutes and fails if a child is left ([`guard`]). Rank processes are this test binary
//! again ([`ranks`]).
#![cfg(unix)]
#![allow(unreachable_pub)]

#[cfg(feature = "nccl")]
mod allocations;
mod file;
#[cfg(feature = "nccl")]
mod frames;
mod guard;
#[cfg(feature = "nccl")]
mod host_dies;
#[cfg(feature = "nccl")]
mod key;
mod launch;
#[cfg(feature = "nccl")]
mod machine;
#[cfg(feature = "nccl")]
mod meeting;
#[cfg(feature = "nccl")]
mod members;
#[cfg(feature = "nccl")]
mod places;
#[cfg(feature = "nccl")]
mod ranks;
#[cfg(all(feature = "nccl", target_os = "linux"))]
mod signals;
#[cfg(feature = "nccl")]
mod signed;
#[path = "../support/stalls.rs"]
mod stalls;
mod stores;
#[cfg(feature = "nccl")]
mod strangers;
#[cfg(feature = "nccl")]
mod tcp;
#[cfg(feature = "torchrun")]
mod torch;
