//! How ranks that are processes find each other before any of them talks to NCCL.
//!
//! A [`Store`] is what they share: small values under keys. It carries the hello of each rank, the
//! identity of a communicator, and later what a rank says when it fails. Every wait has a deadline.

mod memory;
mod store;

pub use memory::MemoryStore;
pub use store::Store;
