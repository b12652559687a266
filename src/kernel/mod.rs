//! Kernels: what each one computes ([`spec`]), the naive truth it is held to ([`oracle`]) and the
//! fast version for the host ([`host`]). One file a family in each.

pub mod host;
pub mod oracle;
pub mod spec;
