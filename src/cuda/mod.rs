//! Owned wrappers over the CUDA driver, one resource a file. The library is loaded at run time:
//! [`load`] says whether it is there, and everything else needs a context, which calls it.
//!
//! Every wrapper checks result codes and owns what it made: dropping frees it, and never panics
//! or blocks for ever. Contexts and streams may be borrowed from an embedding framework; those
//! are left as they were. Nothing here orders work: that is the plan's business.
//!
//! Assumes that a context is current ([`Context::enter`], [`Context::bind`]) on a thread that uses what
//! belongs to it.
//! Refuses drivers below CUDA 12.1 (parameters above 4 KB). Tests: `tests/cuda_*.rs`, against a
//! mock of the driver where there is no GPU.

mod context;
mod driver;
mod event;
mod graph;
mod ipc;
mod launch;
mod memory;
mod module;
pub mod nvtx;
mod staging;
mod stream;
mod tensor_map;
mod value;

pub use context::{Attributes, Context, Entered};
pub use driver::load;
pub use event::Event;
pub use graph::{Graph, capture};
pub use ipc::{ImportedMemory, MemoryHandle, allocation_of};
pub use launch::{Geometry, launch};
pub use memory::{DeviceMemory, PinnedMemory, copy_device_to_device, fill_device};
pub use module::{Function, Module};
pub use staging::Staging;
pub use stream::{Priority, Stream};
pub use tensor_map::{TensorMapArguments, encode_tensor_map};
pub use value::{wait_value, write_value};
