//! How ranks that are processes find each other before any of them talks to NCCL.
//!
//! A [`Store`] is what they share: small values under keys. It carries the hello of each rank
//! (`join`), the identity of a communicator (`exchange_id`), and later what a rank says when it
//! fails. Every wait has a deadline. [`launch`] reads from the environment which rank this is.
//!
//! | store | for ranks that | who listens | feature |
//! |---|---|---|---|
//! | [`MemoryStore`] | are threads of one process | nobody | |
//! | `FileStore` (Unix) | share a folder | nobody | |
//! | `TcpStore` | reach rank 0 over a network | rank 0, on the loopback unless told otherwise | `nccl` |
//! | `TorchStore` | were started by torchrun | torchrun's agent | `torchrun` |
//!
//! What it refuses: to believe a hello or an id without the job's key, to hand out an id twice, to
//! guess a rank. What ranks share later is signed where a `SignedStore` does it. What it does not do: hide anything. Messages are signed, not encrypted, as is all that
//! NCCL sends; use a network of your own.
//!
//! Proof: `tests/rendezvous/`.

#[cfg(unix)]
mod file;
pub mod launch;
mod long;
mod memory;
#[cfg(all(feature = "nccl", unix))]
mod signed;
mod store;
#[cfg(all(feature = "nccl", unix))]
mod stream;
#[cfg(all(feature = "torchrun", unix))]
mod torch;

#[cfg(unix)]
pub use file::FileStore;
pub(crate) use long::{has_long, set_long, wait_long};
pub use memory::MemoryStore;
#[cfg(all(feature = "nccl", unix))]
pub use signed::{
    Decoded, HELLO_BYTES, Hello, Host, ID_BYTES, Interface, KEY_FILE_BYTES_MIN, Key, Members, Nonce, PLANS_MAX,
    PROTOCOL, SignedStore, TcpOptions, TcpStore, WORLD_MAX, exchange_id, join,
};
pub use store::{KEY_BYTES_MAX, Store, VALUE_BYTES_MAX};
pub(crate) use store::{is_timeout, told_by, until};
#[cfg(all(feature = "torchrun", unix))]
pub use torch::TorchStore;
