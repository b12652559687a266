//! The CUDA layer, unmodified, on a mock of the driver (`tests/mock`): no GPU is needed.
#![cfg(feature = "cuda")]

#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../mock/mod.rs"]
mod mock;
#[path = "../support/mod.rs"]
mod support;

mod behaviours;
mod executor;
mod faults;
mod graphs;
mod kernels;
mod signatures;
mod waits;
mod wrappers;
