//! NCCL as a transport: a thin layer over a library that is opened at run time.
//!
//! A [`Communicator`] belongs to its rank's thread. Its operations are listed in a [`Group`] and
//! then issued together, so nothing but NCCL runs between the group's start and end. Everything is
//! non-blocking for NCCL and polled here: **no call waits past its deadline**, no drop blocks, and
//! nothing panics.
//!
//! The first failure poisons the communicator and its family (those split from one another): every
//! later call says [`FailureKind::Poisoned`](crate::error::FailureKind::Poisoned) and names it.
//! What is refused before NCCL is asked (an argument, a function the library lacks) poisons
//! nothing. Any thread may end a communicator through its [`AbortHandle`], and read through its
//! [`Status`] which op was issued last. An end that does not return is left behind on its thread,
//! and the family is marked unrecoverable.
//!
//! Refuses groups across communicators or streams, and reductions other than the sum. Assumes that
//! a CUDA context is current on the rank's thread, one device a rank. Does not notice dead peers
//! by itself: NCCL says nothing of those on the same node. Not ordered with other communicators:
//! the plan does that. Sockets that NCCL opens for an identity and an init are closed on exec; those
//! it opens with its first ops are not, so start other programs before.
//!
//! Tests: `tests/nccl_library.rs` (a library that misbehaves), `tests/nccl_abi.rs` (the real one's
//! header, and itself without a driver).

mod abort;
mod communicator;
mod config;
mod failure;
mod family;
mod group;
mod handle;
mod library;
mod member;
mod memory;
mod part;
mod reaper;
mod register;
mod split;
mod status;
mod unique_id;
mod watched;

pub use abort::{AbortHandle, abort_all};
pub use communicator::Communicator;
pub use config::{Config, CtaPolicy};
pub use group::Group;
pub use library::{Capabilities, Library};
pub use memory::Memory;
pub use part::{Part, PartKind};
pub use register::{Registration, Window};
pub use status::{Op, Status};
pub use unique_id::UniqueId;
