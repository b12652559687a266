//! Messages by copies into peers' memory, on the mock driver: the protocol alone, step by step, and
//! the executor over it, with a rank a thread and with a rank a process.
#![cfg(feature = "nccl")]

#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../mock/mod.rs"]
mod mock;
#[path = "../support/mod.rs"]
mod support;

mod exchange;
mod meeting;
mod processes;
mod protocol;
mod ranks;
