//! Messages by copies into peers' memory, on the mock driver: the protocol alone, step by step.
#![cfg(feature = "nccl")]

#[allow(dead_code)]
#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../mock/mod.rs"]
mod mock;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

mod exchange;
mod meeting;
mod protocol;
