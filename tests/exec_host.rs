//! The host executor and its transport, on plans built by hand: collectives with uneven and empty
//! slots, failure and deadlines, gates, leases, binding, memory.

#[path = "exec_host/binding.rs"]
mod binding;
#[path = "exec_host/collectives.rs"]
mod collectives;
#[path = "exec_host/failure.rs"]
mod failure;
#[path = "exec_host/gates.rs"]
mod gates;
#[path = "exec_host/plans.rs"]
mod plans;
