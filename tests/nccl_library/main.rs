//! The layer over NCCL against libraries that lack functions, lie, fail and hang: `fake.c`, compiled
//! for each test, so that each has a library of its own. No driver and no GPU are needed: streams
//! and memory are numbers to it.
#![cfg(all(feature = "nccl", target_os = "linux"))]
#![allow(unreachable_pub)]

mod ends;
mod fake;
mod groups;
mod library;
mod poison;
mod polling;
mod registration;
#[path = "../support/stalls.rs"]
mod stalls;
mod watched;
