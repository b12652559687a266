//! The mock NCCL (`tests/mock/nccl`) by NCCL's own C interface: what it moves, what it orders and
//! what it finds. Ranks are threads; no GPU and no NCCL is needed.
#![cfg(feature = "cuda")]
#![allow(unreachable_pub)]

#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../mock/mod.rs"]
mod mock;
#[path = "../support/mod.rs"]
mod support;

mod faults;
mod lifecycle;
mod orders;
mod raw;
mod reductions;
mod signatures;
mod world;
