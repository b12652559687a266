//! What notices and names failures between ranks, without a GPU: plans compared before a run,
//! flight records compared after one, the watchdog with ranks as threads and as processes, links
//! that fail, random plans under adversarial schedules.
//!
//! Where an op is in flight here, it is a collective over the store (processes), of the host
//! executor, or a function value that does not complete (threads): no library is under test but
//! this one.
#![cfg(feature = "nccl")]

mod cut_off;
mod document;
mod dogs;
#[allow(dead_code)]
#[path = "../exec_host/plans.rs"]
mod exec_plans;
mod explore;
mod flight;
mod links;
mod mismatch;
mod plans;
mod presence;
mod processes;
mod random;
mod soak;
#[allow(dead_code)]
#[path = "../schedules/sound.rs"]
mod sound;
#[path = "../support/stalls.rs"]
mod stalls;
mod watch;
