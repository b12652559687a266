//! Messages that the sender's copy engine writes straight into the receiver's memory: no library,
//! no SM. For ranks on one machine whose devices reach each other's memory; their home is an
//! AllGather ring inside an NVLink domain.
//!
//! # The protocol
//! Ranks [`Peers::join`] through a [`Store`]. For each program that they run, each tells the others
//! what it sends and where it receives ([`Peers::connect`]): numbers and lengths of the messages
//! of every pair are compared, allocations are mapped (a thread of the same process is reached by
//! its addresses), and every message gets two flags of 32 bits: *ready* on the sender's page,
//! *arrived* on the receiver's. A message is these [`Step`]s, each in the stream of its op:
//!
//! | receiver | sender |
//! |---|---|
//! | R1 raise *ready* | S1 wait for *ready* |
//! | | S2 lower *ready* |
//! | | S3 copy into the receiver's region |
//! | R2 wait for *arrived* | S4 raise *arrived* |
//! | R3 lower *arrived* | |
//!
//! # Why the flags may be lowered
//! Values are baked into captured graphs, so they cannot count runs. They need not. On one rank,
//! steps of a message in run k + 1 come after those in run k: runs are behind one another in the
//! caller's stream, from which a run forks and which it joins.
//!
//! - *ready* is written by R1 and S2 alone. S1(k) returns only when it has seen R1(k), so S2(k) is
//!   after R1(k). R1(k+1) is after R2(k), which has seen S4(k), which is after S2(k). So the writes
//!   are R1(k), S2(k), R1(k+1), S2(k+1)... in that order: none is lost. And S1(k+1), being after
//!   S2(k), sees no older value than 0, and opens for R1(k+1) alone.
//! - *arrived* is written by S4 and R3 alone. R3(k) is after R2(k), which has seen S4(k). S4(k+1) is
//!   after S1(k+1), which has seen R1(k+1), which is after R3(k). So they alternate as well, and
//!   R2(k+1), being after R3(k), opens for S4(k+1) alone.
//! - S3(k+1) is after R1(k+1), so whoever read the region in the receiver's run k, and in its run
//!   k + 1 before the op, has ended. The receiver reads after R2. The sender's region is read by S3
//!   before its op ends.
//!
//! Between a copy and the flag behind it stands stream order, whose writes are visible to whoever
//! sees the flag (the driver puts a fence before it).
//!
//! # Circles
//! An op raises *ready* for all it receives before it waits for anything. If all ranks issue their
//! ops in one order, the first op of that order which has not ended has every sender's and every
//! receiver's flags: nobody waits for ever. Streams that share a hardware queue are then harmless
//! too, as long as a process has one rank: a wait of an earlier op never stands in front of what it
//! waits for.
//!
//! # Failure
//! A wait in a stream has no deadline. [`Peers::abort`] tells the others through the store, which
//! they see in [`Peers::health`], and raises every flag of the rank's own pages from a stream of
//! its own: what waits goes on, moves bytes that mean nothing, and ends, so that the context
//! survives. The connections of the family are of no use afterwards. A process that has ended is
//! noticed by [`Peers::health`] on Linux. A connection that is dropped waits until all ranks have
//! dropped theirs, 2 s at most; then it leaves the flags that they may still write where they are.
//!
//! Assumes: all ranks connect and run the same programs, equally often, and a rank's runs are
//! behind one another. Refuses memory that the driver cannot export (virtual memory
//! management, managed memory) between processes. Tests: `tests/cuda_peer`.

mod connection;
mod hello;
mod page;
mod process;
mod table;

pub use connection::{Connection, Message, Step};
pub use hello::Peers;

#[cfg(doc)]
use crate::rendezvous::Store;
