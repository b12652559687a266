//! What goes wrong between ranks, through the unmodified NCCL layer and CUDA executor on the mocks:
//! every fault is an error in time that says where, on every rank; nothing hangs, panics or leaks.
#![cfg(feature = "nccl")]
#![allow(unreachable_pub)]

#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../mock/mod.rs"]
mod mock;
#[path = "../support/mod.rs"]
mod support;

mod communicator;
mod executor;
mod world;
